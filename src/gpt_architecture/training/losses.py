"""Les deux pertes d'un entraînement en cours, et celle de chaque source d'un mélange.

Les mesurer ne tire rien des générateurs de l'entraînement, et rend la main si l'arrêt est demandé.
Plusieurs processus s'en partagent les lots : chaque fenêtre est lue une fois.

Formes : B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.mixtures import MixtureTokens, sampler_of
from gpt_architecture.data.sampler import document_starts, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.errors import DataError
from gpt_architecture.training.distributed.world import World

_EVALUATION_SEED = 0


def evaluation_starts(
    source: TokenSource, window: int, *, stride: int | None, count: int, shuffle: bool
) -> NDArray[np.int64]:
    """Premiers tokens des fenêtres d'une évaluation : toujours les mêmes, (N,) int64, N ≤ count.

    Une fenêtre qui n'a plus de cible est passée.

    Args:
        shuffle: vrai : réparties au hasard, mais fixes ; faux : les premières.

    Raises:
        DataError: aucune fenêtre n'a de cible.
    """
    sampler = sampler_of(
        source,
        window,
        stride=stride,
        batch_size=1,
        seed=_EVALUATION_SEED,
        shuffle=shuffle,
    )
    starts = map(sampler.start_of, range(sampler.num_windows))
    usable = (each for each in starts if learned_tokens(source, np.array([each]), window))
    chosen = list(dict.fromkeys(islice(usable, count)))  # une petite source se répète
    if not chosen:
        raise DataError(
            "rien à mesurer : tout ce texte est retiré",
            expected="une fenêtre, au moins, dont une cible reste",
            remedy="gardez une part plus grande (`train_ratio`), ou retirez moins",
        )
    return np.array(chosen, dtype=np.int64)


class Losses(NamedTuple):
    """Ce qu'une évaluation mesure, en nats par token.

    Attributes:
        train: perte d'entraînement.
        val: perte de validation.
        by_source: celle de chaque source d'un mélange.
        measures: ce que l'objectif mesure de plus sur la validation, par nom.
    """

    train: float
    val: float
    by_source: Mapping[str, float] = MappingProxyType({})
    measures: Mapping[str, float] = MappingProxyType({})


class EvaluationLoss(Protocol):
    """Perte moyenne d'un lot, en nats par token, sans gradient."""

    def __call__(
        self, inputs: Tensor, targets: Tensor, document_starts: Tensor | None = None
    ) -> Tensor:
        """inputs, targets et document_starts (B, T) → scalaire ; voir `step.Batch`."""
        ...


@dataclass(frozen=True)
class LossEvaluator:
    """Mesure la perte sur des fenêtres fixes de chaque jeu.

    Attributes:
        model: mis en évaluation le temps de la mesure.
        sets: pour chaque jeu, ses tokens et les débuts de ses fenêtres.
        window: longueur d'une fenêtre (T).
        batch_size: fenêtres par lot (B).
        loss: perte moyenne d'un lot, en nats par token.
        separator: voir `step.TokenBatches`.
        world: les processus qui se partagent les lots ; la perte est celle d'un seul.
    """

    model: nn.Module
    sets: Sequence[tuple[TokenSource, NDArray[np.int64]]]
    window: int
    batch_size: int
    loss: EvaluationLoss
    separator: int | None = None
    world: World = field(default_factory=World)

    def __call__(self, should_stop: Callable[[], bool]) -> Losses | None:
        """Les deux pertes, ou None si l'arrêt demandé l'a interrompu."""
        losses = []
        with evaluation_mode(self.model):
            for source, starts in self.sets:
                groups = {"": starts}
                if isinstance(source, MixtureTokens):
                    groups = source.by_source(starts)
                found = {}
                for name, chosen in groups.items():
                    measured = self._loss(source, chosen, should_stop)
                    if measured is None:
                        return None
                    found[name] = measured
                losses.append(found)
        train_loss, val_loss = (
            sum(nll for nll, _ in each.values()) / sum(tokens for _, tokens in each.values())
            for each in losses
        )
        each_loss = {name: nll / tokens for name, (nll, tokens) in losses[1].items() if name}
        return Losses(train_loss, val_loss, each_loss)

    @torch.no_grad()
    def _loss(
        self, source: TokenSource, starts: NDArray[np.int64], should_stop: Callable[[], bool]
    ) -> tuple[float, int] | None:
        """−log p de toutes les cibles, et leur nombre.

        À chaque tour, chaque processus lit un lot. Celui qui n'en a plus en relit un, qui ne compte
        pas : FSDP demande autant de passes à chacun.
        """
        total, tokens = 0.0, 0
        batches = [
            starts[first : first + self.batch_size]
            for first in range(0, len(starts), self.batch_size)
        ]
        for first in range(0, len(batches), self.world.size):
            if should_stop():
                return None
            mine = first + self.world.rank
            chosen = batches[min(mine, len(batches) - 1)]
            learned = learned_tokens(source, chosen, self.window)
            inputs, targets = make_batch(source, chosen, self.window)
            documents = document_starts(source, chosen, inputs, self.separator)
            found = self.loss(inputs, targets, documents).item() * learned
            sums = torch.zeros(2, self.world.size, dtype=torch.float64)
            if mine < len(batches):
                sums[:, self.world.rank] = torch.tensor([found, learned], dtype=torch.float64)
            for nll, count in self.world.sum(sums).T.tolist():  # dans l'ordre des lots
                total += nll
                tokens += int(count)
        return total, tokens
