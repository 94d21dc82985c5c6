"""Muon contre AdamW, à tokens égaux.

Question : sur un petit modèle et un vrai texte, lequel apprend le mieux, et à quel prix par pas ?
Chacun reçoit les mêmes fenêtres dans le même ordre, le même programme, et le meilleur taux d'une
petite grille ; Muon s'occupe des matrices des blocs, AdamW du reste. L'orthogonalisation de Muon
est aussi mesurée seule, en bf16 (celle de PyTorch) et en fp32.

    python benchmarks/optimizers.py --data CHEMIN [--steps N] [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from _machine import announce

from gpt_architecture.config import (
    ComputeConfig,
    GPTConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from gpt_architecture.data.datasets import TrainingData, load_training_data
from gpt_architecture.training.callbacks import (
    Callback,
    EvaluationRecord,
    OngoingTraining,
    StepRecord,
)
from gpt_architecture.training.optim import Muon
from gpt_architecture.training.session import Settings, build_trainer

WINDOW, BATCH, EVALUATED = 128, 16, 40
ADAMW_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
MUON_RATES = (0.01, 0.02, 0.04)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Un entraînement : ses taux, ses pertes en fin de course, la durée médiane d'un pas."""

    optimizer: str
    rate: float
    train_loss: float
    val_loss: float
    step_seconds: float


class Measures(Callback):
    """Retient la durée des pas et les dernières pertes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses = (float("nan"), float("nan"))

    def on_step(self, record: StepRecord) -> None:
        """Une durée par pas."""
        self.seconds.append(record.seconds)

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Les dernières pertes."""
        self.losses = (record.train_loss, record.val_loss)


def shape_of(vocabulary: int, *, quick: bool) -> GPTConfig:
    """Mode GPT-2 : 4 couches de 256."""
    return GPTConfig(
        vocab_size=vocabulary,
        context_length=WINDOW,
        emb_dim=128 if quick else 256,
        n_heads=4,
        n_layers=2 if quick else 4,
        drop_rate=0.0,
        qkv_bias=True,
        tie_weights=True,
    )


def train(
    data: TrainingData, optimizer: OptimizerConfig, *, lr: float, steps: int, quick: bool
) -> Run:
    """Un entraînement de `steps` pas, évalué à la fin."""
    training = TrainingConfig(
        epochs=100,
        max_steps=steps,
        batch_size=BATCH,
        lr=lr,
        eval_freq=steps - 1,
        eval_iter=EVALUATED,
    )
    settings = Settings(
        model=shape_of(data.tokenizer.vocab_size, quick=quick),
        window=WINDOW,
        device=torch.device("cpu"),
        prompt=data.opening,
        training=training,
        compute=ComputeConfig(precision="fp32"),
        optimizer=optimizer,
        schedule=ScheduleConfig(schedule="cosine", warmup_steps=steps // 20, final_lr=0.05),
    )
    measures = Measures()
    trainer = build_trainer(settings, data, callbacks=[measures])
    trainer.sample = None
    trainer.run()
    run = Run(
        optimizer=optimizer.optimizer,
        rate=optimizer.muon_lr if optimizer.optimizer == "muon" else lr,
        train_loss=measures.losses[0],
        val_loss=measures.losses[1],
        step_seconds=statistics.median(measures.seconds),
    )
    show(run)
    return run


def best(runs: list[Run]) -> Run:
    """Le taux dont la validation finit le plus bas."""
    return min(runs, key=lambda run: run.val_loss)


def show(run: Run) -> None:
    """Une ligne du tableau, dès qu'elle est connue."""
    line = (
        f"{run.optimizer:<10} {run.rate:>7.3f} {run.train_loss:>14.3f} {run.val_loss:>11.3f} "
        f"{1000 * run.step_seconds:>8.0f}"
    )
    print(line.replace(".", ","), flush=True)


def compare(data: TrainingData, *, steps: int, quick: bool) -> dict[str, list[Run]]:
    """Les deux grilles ; Muon laisse à AdamW, pour le reste, le meilleur taux de celui-ci."""
    found: dict[str, list[Run]] = {"adamw": [], "muon": []}
    for lr in ADAMW_RATES[1:2] if quick else ADAMW_RATES:
        config = OptimizerConfig(optimizer="adamw", beta2=0.95, clip=1.0)
        found["adamw"].append(train(data, config, lr=lr, steps=steps, quick=quick))
    chosen = best(found["adamw"]).rate
    for rate in MUON_RATES[1:2] if quick else MUON_RATES:
        config = OptimizerConfig(optimizer="muon", muon_lr=rate, beta2=0.95, clip=1.0)
        found["muon"].append(train(data, config, lr=chosen, steps=steps, quick=quick))
    return found


def orthogonalization(config: GPTConfig, *, repeats: int) -> dict[str, float]:
    """Secondes d'un pas de Muon seul sur les matrices des blocs, selon le type, alternées."""
    width = config.emb_dim
    shapes = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    optimizers = {}
    for name, dtype in kinds.items():
        torch.manual_seed(0)
        matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes * config.n_layers]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        optimizers[name] = Muon(matrices, dtype=dtype)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats + 1):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def rows_of(found: dict[str, list[Run]], alone: dict[str, float]) -> list[dict[str, object]]:
    """Les lignes du JSON ; un rapport > 1 est à l'avantage de Muon, ou du fp32."""
    ours, peer = best(found["muon"]), best(found["adamw"])
    values = {
        "perte de validation": (ours.val_loss, peer.val_loss, "nats par token"),
        "perte d'entraînement": (ours.train_loss, peer.train_loss, "nats par token"),
        "durée d'un pas": (ours.step_seconds, peer.step_seconds, "s"),
        "orthogonalisation, fp32 contre bf16": (alone["fp32"], alone["bf16"], "s"),
    }
    return [
        {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit}
        for name, (ours, peer, unit) in values.items()
    ]


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="la-lampe-du-passeur", help="texte d'entraînement")
    parser.add_argument("--steps", type=int, default=240, help="pas de chaque entraînement")
    parser.add_argument("--quick", action="store_true", help="un taux chacun, petit modèle")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    quick = arguments.quick
    steps = 40 if quick else arguments.steps
    training = TrainingConfig(batch_size=BATCH)
    data = load_training_data(
        [arguments.data], "bpe-512" if quick else "bpe-2048", window=WINDOW, training=training
    )
    config = shape_of(data.tokenizer.vocab_size, quick=quick)
    parameters = f"{config.num_parameters():,}".replace(",", " ")
    print(
        f"{data.name} : {data.tokenizer.vocab_size} tokens de vocabulaire, {parameters} "
        f"paramètres, {steps} pas de {BATCH * WINDOW} tokens, {torch.get_num_threads()} fils.\n"
    )
    print("optimiseur    taux   entraînement  validation   ms/pas")
    found = compare(data, steps=steps, quick=quick)
    for name, runs in found.items():
        print(f"Meilleur taux de {name} : {best(runs).rate:g}".replace(".", ","))
    alone = orthogonalization(config, repeats=1 if quick else 3)
    ratio = f"{alone['fp32'] / alone['bf16']:.1f}".replace(".", ",")
    print(
        f"\nMuon seul, par pas : {1000 * alone['bf16']:.0f} ms en bf16, "
        f"{1000 * alone['fp32']:.0f} ms en fp32 ({ratio} fois autant)."
    )
    if arguments.json:
        content = rows_of(found, alone)
        arguments.json.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


if __name__ == "__main__":
    main()
