"""Intervalles de confiance à 95 % : moyennes par rééchantillonnage, proportions par Wilson."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 1000
_MAX_UNITS = 1000  # au-delà, des unités voisines sont réunies : le tirage reste court
_NORMAL_QUANTILE = 1.959963984540054  # 97,5 % de la loi normale
_SEED = 0


def bootstrap_interval(totals: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Intervalle de Σ totals / Σ weights, par tirage des unités avec remise (Efron, 1979).

    Le tirage est toujours le même : deux appels donnent le même intervalle.

    Args:
        totals: somme de la grandeur dans chaque unité (document, fenêtre, exemple).
        weights: taille de chaque unité, strictement positive.

    Returns:
        Les quantiles à 2,5 % et 97,5 %, ou None s'il y a moins de deux unités.
    """
    if len(totals) < 2:
        return None
    blocks = _blocks(np.asarray(totals, np.float64)), _blocks(np.asarray(weights, np.float64))
    generator = np.random.default_rng(_SEED)
    drawn = generator.integers(len(blocks[0]), size=(RESAMPLES, len(blocks[0])))
    ratios = blocks[0][drawn].sum(axis=1) / blocks[1][drawn].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Les sommes d'au plus `_MAX_UNITS` blocs d'unités voisines."""
    parts = np.array_split(values, min(len(values), _MAX_UNITS))
    return np.array([part.sum() for part in parts])


def wilson_interval(successes: int, trials: int) -> Interval:
    """Intervalle d'une proportion (Wilson, 1927), qui reste dans [0, 1].

    Args:
        successes: réussites.
        trials: essais, au moins un.
    """
    share, z = successes / trials, _NORMAL_QUANTILE
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = share * (1 - share) / trials + z * z / (4 * trials * trials)
    margin = z / (1 + z * z / trials) * math.sqrt(spread)
    return max(0.0, center - margin), min(1.0, center + margin)
