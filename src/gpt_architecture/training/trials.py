"""Les essais d'un plan : de courts entraînements, exactement ceux de `train`, et leurs mesures.

Plusieurs durées d'un même modèle partagent leur début : le taux y reste à son plus haut, et chaque
durée n'ajoute que sa descente (Hu et al., 2024).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt_architecture.config import ScheduleConfig, TrainingRequest
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.shards.reader import TokenArray, TokenSource
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import TrainingError, is_out_of_memory
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.losses import LossEvaluator, evaluation_starts
from gpt_architecture.training.preparation import TrainingRun, prepare
from gpt_architecture.training.session import build_trainer
from gpt_architecture.training.trainer import Trainer

VALIDATION_BYTES = 64 << 10
"""Octets de validation, au plus, que mesurent les essais et l'entraînement qui suit."""

DECAY = 0.25
"""Part d'un entraînement que prend la descente du taux."""

WARMUP = 20
"""Étapes de montée du taux ; les mêmes pour toutes les durées, qui partagent leur début."""

EVALUATIONS = 20
"""Évaluations d'un entraînement, environ."""

LR, MUON_LR = 2e-3, 0.02
"""Taux d'AdamW et de Muon, que l'échelle d'une recette multiplie."""

_PROBE_SECONDS, _PROBE_STEPS = 0.8, (3, 15)
_SUSTAINED_STEPS = 900  # moins que l'essai n'en a
_READ_TOKENS = 1 << 16
_MAX_TOKENS = 1 << 28

PIECE_WINDOWS = 8
"""Contextes d'un morceau de texte, quand un essai n'en lit qu'une part."""

Clock = Callable[[], float]
Tokens = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, order=True)
class Body:
    """La forme d'un modèle, vocabulaire et contexte à part."""

    emb_dim: int
    n_heads: int
    n_layers: int

    def __str__(self) -> str:
        return f"{self.emb_dim} × {self.n_layers}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Comment entraîner, la taille et la durée à part.

    Attributes:
        tokenizer: tel que `train` le nomme.
        window: contexte d'entraînement (T).
        batch_size: séquences par étape (B).
        lr_scale: ce qui multiplie les deux taux d'apprentissage.
        drop_rate: probabilité de dropout.
    """

    tokenizer: str
    window: int
    batch_size: int
    lr_scale: float = 1.0
    drop_rate: float = 0.0

    @property
    def step_tokens(self) -> int:
        """Tokens lus à chaque étape."""
        return self.window * self.batch_size

    def options(self, body: Body, *, steps: int, epochs: int, eval_iter: int) -> dict[str, Any]:
        """Les réglages de `train`, à plat."""
        return {
            "tokenizer": self.tokenizer,
            "context_length": self.window,
            "positions": self.window,
            "emb_dim": body.emb_dim,
            "n_heads": body.n_heads,
            "n_layers": body.n_layers,
            "drop_rate": self.drop_rate,
            "qkv_bias": True,
            "tie_weights": True,
            "epochs": epochs,
            "max_steps": steps,
            "batch_size": self.batch_size,
            "optimizer": "muon",
            "lr": LR * self.lr_scale,
            "muon_lr": MUON_LR * self.lr_scale,
            "beta2": 0.95,
            "clip": 1.0,
            "schedule": "wsd",
            "warmup_steps": WARMUP,
            "final_lr": 0.0,
            "decay_fraction": DECAY,
            "eval_freq": max(1, -(-steps // EVALUATIONS)),
            "eval_iter": eval_iter,
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """De quoi faire des essais sur un texte : ses données sous un vocabulaire, la machine.

    Attributes:
        data: tokens d'entraînement et de validation.
        device: périphérique, tel que `train` le nomme.
        settings: réglages de `train` communs à tous les essais (graine…).
    """

    data: TrainingData
    device: str
    settings: Mapping[str, Any]

    def options(self, recipe: Recipe, body: Body, steps: int, unique: int) -> dict[str, Any]:
        """Les réglages de `train` pour cet essai."""
        windows = max(1, len(range(0, unique - recipe.window, recipe.window)))
        options = recipe.options(
            body,
            steps=steps,
            epochs=max(1, -(-steps * recipe.batch_size // windows)),
            eval_iter=self.evaluation_batches(recipe),
        )
        return {**options, **self.settings, "device": self.device}

    def evaluation_batches(self, recipe: Recipe) -> int:
        """Lots de validation qui portent `VALIDATION_BYTES` octets, ou toute la validation."""
        tokens = min(self.data.val.num_tokens - 1, int(VALIDATION_BYTES / self._token_bytes))
        return max(1, -(-max(1, tokens // recipe.window) // recipe.batch_size))

    @cached_property
    def _token_bytes(self) -> float:
        """Octets que porte un token de la validation, à peu près."""
        val = self.data.val
        head = val.read(0, min(_READ_TOKENS, val.num_tokens))
        return max(1, text_bytes(head.tolist(), self.data.tokenizer)) / head.numel()

    def run(self, recipe: Recipe, body: Body, steps: int, unique: int) -> TrainingRun:
        """L'entraînement de `steps` étapes sur `unique` tokens pris partout, prêt à partir."""
        data = self.data
        if unique < data.train.num_tokens:
            kept = _spread(data.train, min(unique, _MAX_TOKENS), PIECE_WINDOWS * recipe.window)
            data = replace(data, train=TokenArray(kept))
        request = TrainingRequest.of(self.options(recipe, body, steps, unique))
        return prepare(request, data=data)


def _spread(source: TokenSource, size: int, piece: int) -> Tokens:
    """`size` tokens en morceaux d'environ `piece`, pris d'un bout à l'autre du texte.

    Son début ne vaut pas pour lui : celui de la Bible n'en a ni les lettres, ni les noms de la fin.
    """
    count = max(1, size // piece)
    bounds = [size * each // count for each in range(count + 1)]
    starts = [source.num_tokens * each // count for each in range(count)]
    pieces = zip(starts, pairwise(bounds), strict=True)
    return np.concatenate([source.read(at, high - low).numpy() for at, (low, high) in pieces])


def text_bytes(tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """Octets du texte de ces tokens ; une fin de texte n'en est pas un."""
    kept = [each for each in tokens if each != tokenizer.eos_id]
    return len(tokenizer.decode(kept).encode("utf-8", "replace"))


def bits_per_nat(run: TrainingRun) -> float:
    """Ce qui change une perte de validation, en nats par token, en bits par octet."""
    settings, val = run.settings, run.data.val
    count = settings.training.eval_iter * settings.training.batch_size
    starts = evaluation_starts(
        val, settings.window, stride=settings.stride, count=count, shuffle=False
    )
    tokens = np.concatenate([_targets(val, int(start), settings.window) for start in starts])
    size = text_bytes(tokens.tolist(), run.data.tokenizer)
    return tokens.size / max(1, size) / math.log(2)


def _targets(source: TokenSource, start: int, window: int) -> Tokens:
    found: Tokens = source.read(start + 1, window).numpy()
    return found


def decay_start(steps: int) -> int:
    """L'étape où le taux commence à descendre, sur `steps` étapes (voir `make_schedule`)."""
    return max(ScheduleConfig(warmup_steps=WARMUP).warmup_steps, round((steps - 1) * (1 - DECAY)))


def run_chain(
    bench: Bench,
    recipe: Recipe,
    body: Body,
    lengths: Sequence[int],
    *,
    unique: int,
    folder: Path | str,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, float]]:
    """Entraîne un modèle pour chaque durée, le début en commun.

    Args:
        bench: texte et machine.
        recipe: comment.
        body: forme du modèle.
        lengths: étapes de chaque durée, croissantes.
        unique: tokens d'entraînement différents qu'il lit, et relit.
        folder: où tiennent, le temps de la chaîne, les points de reprise.
        on_step: appelé à chaque étape.

    Yields:
        Une durée, et la perte de validation qu'elle atteint, en bits par octet ; infinie si
        l'entraînement diverge, et c'est alors la dernière.

    Raises:
        TrainingError: mémoire insuffisante.
    """
    store, checkpoint = CheckpointStore(Path(folder), keep_last=1), None
    last = lengths[-1]
    for steps in lengths:
        run = bench.run(recipe, body, steps, unique)
        trainer = build_trainer(run.settings, run.data, store=store, checkpoint=checkpoint)
        branch = decay_start(steps)
        try:
            while trainer.state.step < steps:
                if trainer.state.step == branch and steps != last:
                    trainer.save()
                trainer.advance()
                on_step()
        except TrainingError as error:
            if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                raise TrainingError(
                    f"mémoire insuffisante pour un essai de taille {body}",
                    expected="de quoi tenir le modèle, ses moments et les activations d'un lot",
                    remedy="libérez de la mémoire, ou donnez moins de `minutes`, donc de plus "
                    "petits essais",
                ) from error
            yield steps, math.inf  # taux trop haut : les durées suivantes divergeraient aussi
            return
        val = _validation_loss(trainer)
        yield steps, val * bits_per_nat(run) if math.isfinite(val) else math.inf
        checkpoint = store.latest() if steps != last else None


def _validation_loss(trainer: Trainer) -> float:
    """La perte de validation, en nats par token, sans mesurer l'entraînement, ou presque."""
    evaluate = trainer.evaluate
    if isinstance(evaluate, LossEvaluator):
        (train, starts), val = evaluate.sets
        evaluate = replace(evaluate, sets=((train, starts[:1]), val))
    losses = None if evaluate is None else evaluate(lambda: False)
    return math.nan if losses is None else losses[1]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """La durée mesurée d'une étape.

    Attributes:
        step: secondes d'une étape.
        evaluation: secondes d'une évaluation des deux jeux.
        sample: secondes d'un exemple écrit.
        warmup: secondes de plus que prennent, la première fois, les trois.
    """

    step: float
    evaluation: float
    sample: float
    warmup: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """La mémoire d'un entraînement, son modèle à part, en octets.

    Attributes:
        resident: une fois faites quelques étapes du plus petit modèle.
        peak: au plus haut, les données lues et examinées.
    """

    resident: int
    peak: int


def measure_step(
    bench: Bench,
    recipe: Recipe,
    body: Body,
    *,
    sustained: float | None = None,
    clock: Clock = time.perf_counter,
) -> StepTime:
    """Fait quelques étapes de cette forme, une évaluation et un exemple.

    Args:
        bench: texte et machine.
        recipe: comment.
        body: forme du modèle.
        sustained: secondes d'étapes à la suite, dont la durée est alors la moyenne, à-coups de la
            machine compris ; None : la médiane de quelques-unes.
        clock: ce qui donne l'heure, en secondes.
    """
    run = bench.run(recipe, body, 1000, bench.data.train.num_tokens)
    trainer = build_trainer(run.settings, run.data)
    before = clock()
    trainer.advance()  # échauffement : allocations, compilation
    start = clock()
    cold, seconds = start - before, list[float]()
    fewest, most = _PROBE_STEPS
    if sustained is not None:
        most = _SUSTAINED_STEPS
    length = _PROBE_SECONDS if sustained is None else sustained
    while len(seconds) < fewest or (len(seconds) < most and clock() - start < length):
        before = clock()
        trainer.advance()
        seconds.append(clock() - before)
    step = statistics.median(seconds) if sustained is None else statistics.fmean(seconds)
    first, evaluation = _timed_twice(trainer.evaluate, clock)
    written, sample = _timed_twice(trainer.sample, clock)
    return StepTime(
        step=step,
        evaluation=evaluation,
        sample=sample,
        warmup=max(0.0, cold - step) + max(0.0, first - evaluation) + max(0.0, written - sample),
    )


def _timed_twice(
    action: Callable[[Callable[[], bool]], object] | None, clock: Clock
) -> tuple[float, float]:
    """Secondes que prend une action, la première fois puis la suivante."""
    if action is None:
        return 0.0, 0.0
    marks = [clock()]
    for _ in range(2):
        action(lambda: False)
        marks.append(clock())
    return marks[1] - marks[0], marks[2] - marks[1]
