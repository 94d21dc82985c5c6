"""Ce que coûte une étape : opérations, octets, frais ; calé sur des étapes mesurées.

secondes = a · opérations + b · orthogonalisation + c · octets + d, tous positifs : une machine ne
rend pas le temps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import DataError
from gpt_architecture.training.preparation import flops_per_token

ADAMW_BYTES = 28
"""Octets qu'AdamW déplace par paramètre : poids et moments, lus et écrits, gradient lu."""

NEWTON_STEPS = 5
"""Itérations de Newton et Schulz que fait Muon sur chaque matrice d'un bloc."""

MIN_STEPS = 3
"""Formes différentes qu'il faut mesurer, au moins."""


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Ce qu'une étape fait.

    Attributes:
        operations: opérations flottantes, aller et retour.
        update: opérations de Muon (Jordan, 2024), qui ne dépendent pas du lot.
        octets: octets que l'optimiseur déplace.
    """

    operations: float
    update: float
    octets: float

    @classmethod
    def of(cls, config: GPTConfig, *, window: int, sequences: int) -> StepWork:
        """Une étape de `sequences` fenêtres de `window` tokens."""
        d, f = config.emb_dim, config.inner_width
        matrices = [(d, d)] * 4 + [(d, f)] * 2
        products = sum(4 * min(m) ** 2 * max(m) + 2 * min(m) ** 3 for m in matrices)
        return cls(
            operations=float(flops_per_token(config, window)) * window * sequences,
            update=float(NEWTON_STEPS * config.n_layers * products),
            octets=float(ADAMW_BYTES * config.num_parameters()),
        )

    @property
    def terms(self) -> tuple[float, ...]:
        """Ce qui se paie, frais fixes compris."""
        return self.operations, self.update, self.octets, 1.0


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Ce que la machine met à le faire.

    Attributes:
        rates: secondes de chacun des `StepWork.terms`.
        error: plus grand écart relatif aux étapes mesurées.
    """

    rates: tuple[float, ...]
    error: float

    def seconds(self, work: StepWork) -> float:
        """Durée attendue d'une étape."""
        return sum(rate * term for rate, term in zip(self.rates, work.terms, strict=True))

    def scaled(self, ratio: float) -> StepCost:
        """Le coût d'une machine tant de fois plus lente."""
        return replace(self, rates=tuple(ratio * rate for rate in self.rates))


def fit_cost(measured: Sequence[tuple[StepWork, float]]) -> StepCost:
    """Cale le coût sur des étapes mesurées, au plus petit écart relatif, sans terme négatif.

    Args:
        measured: ce qu'a fait chaque étape, et sa durée en secondes.

    Raises:
        DataError: trop peu de formes différentes, ou une durée qui n'est pas positive.
    """
    shapes = {work for work, _ in measured}
    if len(shapes) < MIN_STEPS or not all(0 < each < math.inf for _, each in measured):
        raise DataError(
            f"{len(measured)} étapes mesurées, de {len(shapes)} formes",
            expected=f"au moins {MIN_STEPS} formes, et des durées strictement positives",
            remedy="mesurez d'autres tailles de modèle",
        )
    seconds = np.array([each for _, each in measured])
    table = np.array([work.terms for work, _ in measured])
    table /= seconds[:, None]  # des écarts relatifs : une petite étape compte autant qu'une grande
    scale, size = table.max(axis=0), table.shape[1]
    best = (math.inf, np.zeros(size))
    # Toutes les combinaisons de termes nuls : la meilleure sans coefficient négatif est exacte.
    for count in range(1, size + 1):
        for kept in itertools.combinations(range(size), count):
            columns = list(kept)
            solution = np.linalg.lstsq(table[:, columns] / scale[columns], np.ones(len(seconds)))[0]
            if (solution < 0).any():
                continue
            found = np.zeros(size)
            found[columns] = solution / scale[columns]
            best = min(best, (float(np.square(table @ found - 1).sum()), found), key=lambda b: b[0])
    return StepCost(
        rates=tuple(best[1].tolist()),
        error=float(np.abs(table @ best[1] - 1).max()),
    )
