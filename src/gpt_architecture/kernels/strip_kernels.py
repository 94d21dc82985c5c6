"""Les produits « poids × activations » dont chaque résultat ignore les autres, au bit près.

Les arguments sont ceux de `linear_kernels`, jusqu'au résidu ; les poids sont en bandes
(`packed_weights.StripMatrix`). Un service y gagne de rendre le même texte quelle que soit sa
charge.

Formes : M activations, D largeur, N lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.linear_kernels import block_of, finish
from gpt_architecture.kernels.packed_weights import STRIP
from gpt_architecture.kernels.strip_tiles import STRIP_COLUMNS, strip_tile
from gpt_architecture.kernels.threads import (
    address,
    claim,
    count,
    extent,
    integer,
    integers,
    kernel,
    matrix,
    words,
)

_CHUNK = 128
"""Colonnes d'une tranche : ses poids et 32 activations tiennent dans le premier cache."""


@njit
def _multiply(d: Any, weight: Any, sums: Any) -> None:
    """sums (M, STRIP) = x · la bande à l'adresse `weight`."""
    active, width, x = integer(d, 0), extent(d, 1, 1), address(d, 1)
    groups = (active + STRIP_COLUMNS - 1) // STRIP_COLUMNS
    sums[:active] = np.float32(0.0)
    for start in range(0, width, _CHUNK):
        length = min(_CHUNK, width - start)
        for group in range(groups):  # de tailles voisines : peu de sommes s'attendraient
            first, last = active * group // groups, active * (group + 1) // groups
            strip_tile(
                last - first,
                weight + 4 * STRIP * start,
                x + 4 * (width * first + start),
                4 * width,
                length,
                sums.ctypes.data + 4 * STRIP * first,
            )


@kernel
def linear_strips_(data: Any) -> None:
    """Voir le début du module ; un lot est un nombre entier de bandes, sauf le dernier."""
    d = words(data)
    active, width, out = integer(d, 0), extent(d, 1, 1), matrix(d, 7)
    sums = np.empty((extent(d, 1, 0), STRIP), np.float32)
    item = claim(data)
    while item < count(d):
        part, first, last = block_of(d, item)
        base = part * integer(d, 3)
        for start in range(first, last, STRIP):
            _multiply(d, integers(d, 2)[part] + 4 * width * start, sums)
            present = min(STRIP, last - start)
            for m in range(active):
                for r in range(present):
                    out[m, base + start + r] = sums[m, r]
        for m in range(active):
            finish(d, m, base + first, base + last)
        item = claim(data)
