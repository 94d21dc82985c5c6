"""Ce que coûte une étape : opérations, octets, frais ; calé sur des étapes mesurées.

secondes = a · opérations + b · octets + c, a, b et c positifs : une machine ne rend pas le temps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import DataError
from gpt_architecture.training.preparation import flops_per_token

ADAMW_BYTES = 28
"""Octets qu'AdamW déplace par paramètre : poids et moments, lus et écrits, gradient lu."""

MIN_STEPS = 3
"""Formes différentes qu'il faut mesurer, au moins."""


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Ce qu'une étape fait.

    Attributes:
        operations: opérations flottantes, aller et retour.
        octets: octets que l'optimiseur déplace.
    """

    operations: float
    octets: float

    @classmethod
    def of(cls, config: GPTConfig, *, window: int, sequences: int) -> StepWork:
        """Une étape de `sequences` fenêtres de `window` tokens."""
        return cls(
            operations=float(flops_per_token(config, window)) * window * sequences,
            octets=float(ADAMW_BYTES * config.num_parameters()),
        )


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Ce que la machine met à le faire.

    Attributes:
        per_operation: secondes par opération.
        per_octet: secondes par octet de l'optimiseur.
        overhead: secondes de frais, quelle que soit la taille.
        error: plus grand écart relatif aux étapes mesurées.
    """

    per_operation: float
    per_octet: float
    overhead: float
    error: float

    def seconds(self, work: StepWork) -> float:
        """Durée attendue d'une étape."""
        return self.per_operation * work.operations + self.per_octet * work.octets + self.overhead


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
    table = np.array([[work.operations, work.octets, 1.0] for work, _ in measured])
    table /= seconds[:, None]  # des écarts relatifs : une petite étape compte autant qu'une grande
    scale = table.max(axis=0)
    best = (math.inf, np.zeros(3))
    # Huit combinaisons de termes nuls : la meilleure sans coefficient négatif est exacte.
    for count in (1, 2, 3):
        for kept in itertools.combinations(range(3), count):
            columns = list(kept)
            solution = np.linalg.lstsq(table[:, columns] / scale[columns], np.ones(len(seconds)))[0]
            if (solution < 0).any():
                continue
            found = np.zeros(3)
            found[columns] = solution / scale[columns]
            best = min(best, (float(np.square(table @ found - 1).sum()), found), key=lambda b: b[0])
    per_operation, per_octet, overhead = best[1].tolist()
    return StepCost(
        per_operation=per_operation,
        per_octet=per_octet,
        overhead=overhead,
        error=float(np.abs(table @ best[1] - 1).max()),
    )
