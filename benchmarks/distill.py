"""Ce que gagne un élève à apprendre aussi d'un professeur, à temps égal.

Question : un professeur entraîné, et tant de secondes pour un élève plus petit ; lit-il mieux un
texte inconnu s'il apprend aussi les probabilités du professeur, dont chaque étape paie la passe
avant, ou s'il fait plus d'étapes seul ? Le temps de l'apprentissage du professeur n'est pas compté.
Les deux élèves partent des mêmes poids et suivent le même programme, étendu sur les étapes que leur
temps permet ; un troisième, seul, fait autant d'étapes que l'élève distillé. La perte retenue est
la plus basse de dix évaluations, comme `--save-best` la garderait.

Les étapes de chacun viennent de durées mesurées d'abord : la machine peut servir à autre chose
pendant la suite. Un professeur donné (`--teacher`) a appris ailleurs, ou davantage : avec
`--tokens`, l'élève n'a que le début du texte, et le professeur ce qu'il en sait.

    python benchmarks/distill.py [--data CHEMIN] [--seconds S] [--teacher MODÈLE] [--tokens N]
        [--student LARGEUR BLOCS] [--turns N] [--cpu-time] [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from _machine import announce
from _measure import Row, compare, french, write_rows

from gpt_architecture.config import (
    ComputeConfig,
    GPTConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData, load_training_data
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.starting import StartingPoint

WINDOW, BATCH, EVALUATED, PROBED, MOMENTS = 128, 16, 64, 5, 10
SIZES = {"professeur": (192, 4), "élève": (64, 2)}
QUICK = {"professeur": (64, 2), "élève": (32, 1)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Ce qui ne change pas d'un entraînement à l'autre."""

    data: TrainingData
    window: int
    clock: Callable[[], float]
    sizes: dict[str, tuple[int, int]]
    objective: ObjectiveConfig

    def shape(self, name: str) -> GPTConfig:
        """Mode GPT-2, de la largeur et de la profondeur voulues."""
        width, depth = self.sizes[name]
        return GPTConfig(
            vocab_size=self.data.tokenizer.vocab_size,
            context_length=self.window,
            emb_dim=width,
            n_heads=4,
            n_layers=depth,
            drop_rate=0.0,
            qkv_bias=True,
            tie_weights=True,
        )

    def settings(
        self, name: str, steps: int, *, seed: int, teacher: StartingPoint | None
    ) -> Settings:
        """Un entraînement de tant d'étapes, évalué à la fin seulement."""
        training = TrainingConfig(
            epochs=1000,
            max_steps=steps,
            batch_size=BATCH,
            lr=2e-3,
            eval_freq=max(1, steps - 1),
            eval_iter=EVALUATED,
            seed=seed,
        )
        return Settings(
            model=self.shape(name),
            window=self.window,
            device=torch.device("cpu"),
            prompt=self.data.opening,
            training=training,
            compute=ComputeConfig(),
            optimizer=OptimizerConfig(beta2=0.95, clip=1.0),
            schedule=ScheduleConfig(
                schedule="cosine", warmup_steps=max(1, steps // 20), final_lr=0.05
            ),
            objective=ObjectiveConfig() if teacher is None else self.objective,
            teacher=teacher,
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """Un entraînement fini : plus basse perte de validation, étapes, secondes d'étapes."""

    loss: float
    steps: int
    seconds: float


def trained(plan: Plan, settings: Settings) -> tuple[Result, GPTModel]:
    """Fait les étapes, et mesure la validation dix fois ; la durée est celle des étapes."""
    trainer = build_trainer(settings, plan.data)
    trainer.advance()  # les noyaux se chargent, les tampons se prennent
    total, seconds, found = trainer.config.total_steps, 0.0, list[float]()
    assert trainer.evaluate is not None
    for moment in range(1, MOMENTS + 1):
        start = plan.clock()
        while trainer.state.step < total * moment // MOMENTS:
            trainer.advance()
        seconds += plan.clock() - start
        losses = trainer.evaluate(lambda: False)
        assert losses is not None
        found.append(losses[1])
    assert isinstance(trainer.model, GPTModel)
    result = Result(loss=min(found), steps=trainer.state.step, seconds=seconds)
    return result, trainer.model


def step_seconds(plan: Plan, teacher: StartingPoint | None) -> float:
    """Durée médiane d'une étape de l'élève."""
    trainer = build_trainer(plan.settings("élève", 1000, seed=0, teacher=teacher), plan.data)
    trainer.advance()
    moments = [plan.clock()]
    for _ in range(PROBED):
        trainer.advance()
        moments.append(plan.clock())
    return statistics.median(end - start for start, end in pairwise(moments))


def teacher_of(plan: Plan, steps: int) -> StartingPoint:
    """Le professeur, entraîné tant d'étapes."""
    settings = plan.settings("professeur", steps, seed=1, teacher=None)
    result, model = trained(plan, settings)
    size = f"{settings.model.num_parameters():,}".replace(",", " ")
    print(
        f"Professeur : {size} paramètres, {steps} étapes, {french(result.seconds, 0)} s, "
        f"validation {french(result.loss, 3)} nats",
        flush=True,
    )
    content = ModelFile(
        config=settings.model,
        state_dict=model.state_dict(),
        tokenizer=plan.data.tokenizer.to_dict(),
    )
    return StartingPoint(name="professeur", content=content)


def run(plan: Plan, teacher: StartingPoint, *, seconds: float, turns: int) -> list[Row]:
    """Les élèves, graine après graine, l'ordre tournant."""
    size = f"{plan.shape('élève').num_parameters():,}".replace(",", " ")
    costs = {name: step_seconds(plan, each) for name, each in (("d", teacher), ("s", None))}
    steps = {name: max(PROBED, round(seconds / cost)) for name, cost in costs.items()}
    print(
        f"Élève : {size} paramètres ; une étape de {french(1000 * costs['d'], 1)} ms distillé, "
        f"{french(1000 * costs['s'], 1)} ms seul ; en {french(seconds, 0)} s, {steps['d']} étapes "
        f"contre {steps['s']}",
        flush=True,
    )
    candidates = {
        "distillé": (steps["d"], teacher),
        "seul, même durée": (steps["s"], None),
        "seul, mêmes étapes": (steps["d"], None),
    }
    losses: dict[str, list[float]] = {name: [] for name in candidates}
    lasted: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(turns):
        for name in names[turn % 3 :] + names[: turn % 3]:
            count, taught = candidates[name]
            settings = plan.settings("élève", count, seed=10 + turn, teacher=taught)
            found, _ = trained(plan, settings)
            losses[name].append(found.loss)
            lasted[name].append(found.seconds)
            print(
                f"  graine {10 + turn}, {name} : {found.steps} étapes, "
                f"{french(found.seconds, 1)} s, validation {french(found.loss, 3)}",
                flush=True,
            )
    ours, *others = names
    rows = compare(
        "Perte de validation de l'élève", losses, "nats par token", ours, others, lower=True
    )
    return rows + compare("Durée des étapes", lasted, "s", ours, others, lower=True)


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="la-lampe-du-passeur", help="texte d'entraînement")
    parser.add_argument("--seconds", type=float, default=60.0, help="durée de chaque élève")
    parser.add_argument("--teacher", type=Path, help="professeur déjà entraîné")
    parser.add_argument("--teacher-steps", type=int, default=1500, help="étapes du professeur")
    parser.add_argument("--student", type=int, nargs=2, default=SIZES["élève"], help="élève")
    parser.add_argument("--tokens", type=int, help="tokens d'entraînement, les premiers du texte")
    parser.add_argument("--turns", type=int, default=3, help="graines")
    parser.add_argument("--temperature", type=float, default=2.0, help="température")
    parser.add_argument("--alpha", type=float, default=0.5, help="part du professeur")
    parser.add_argument("--cpu-time", action="store_true", help="secondes de processeur, un thread")
    parser.add_argument("--quick", action="store_true", help="petits modèles, deux secondes")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    quick = arguments.quick
    given = None if arguments.teacher is None else StartingPoint.read(arguments.teacher)
    window = WINDOW if given is None else min(WINDOW, given.content.config.context_length)
    data = load_training_data(
        [arguments.data],
        "bpe-512" if quick else "bpe-2048",
        window=window,
        training=TrainingConfig(batch_size=BATCH),
        vocabulary=None if given is None else given.tokenizer,
    )
    if arguments.tokens is not None:
        data = replace(data, train=TokenArray(data.train.read(0, arguments.tokens).numpy()))
    plan = Plan(
        data=data,
        window=window,
        clock=time.process_time if arguments.cpu_time else time.perf_counter,
        sizes=QUICK if quick else SIZES | {"élève": tuple(arguments.student)},
        objective=ObjectiveConfig(
            distill=Path("professeur"),
            distill_temperature=arguments.temperature,
            distill_alpha=arguments.alpha,
        ),
    )
    teacher = teacher_of(plan, 60 if quick else arguments.teacher_steps) if given is None else given
    seconds, turns = (2.0, 2) if quick else (arguments.seconds, arguments.turns)
    rows = run(plan, teacher, seconds=seconds, turns=turns)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
