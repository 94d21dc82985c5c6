"""Les produits « poids × activations » dont chaque résultat ignore les autres, au bit près.

Les arguments sont ceux de `linear_kernels`, jusqu'au résidu ; les poids sont en bandes
(`weights.StripMatrix`). Un service y gagne de rendre le même texte quelle que soit sa
charge.

Formes : M activations, D largeur, N lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.linear_kernels import block_of, finish
from gpt_architecture.kernels.decode.strip_tiles import (
    STRIP_COLUMNS,
    TOGETHER,
    TOGETHER_COLUMNS,
    strip_tile,
)
from gpt_architecture.kernels.decode.weights import STRIP
from gpt_architecture.kernels.runtime.kernel import (
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

_CHUNK = 256 // TOGETHER
"""Colonnes d'une tranche : ses poids et 32 activations tiennent dans le premier cache (32 Kio)."""


@njit
def _multiply(d: Any, weight: Any, strips: Any, sums: Any) -> None:
    """sums (TOGETHER, M, STRIP) = x · les bandes qui commencent à l'adresse `weight`."""
    active, width, x = integer(d, 0), extent(d, 1, 1), address(d, 1)
    groups = (active + STRIP_COLUMNS - 1) // STRIP_COLUMNS
    sums[:strips, :active] = np.float32(0.0)
    chunk = width if groups == 1 else _CHUNK
    for start in range(0, width, chunk):
        length = min(chunk, width - start)
        for group in range(groups):  # de tailles voisines : peu de sommes s'attendraient
            first, last = active * group // groups, active * (group + 1) // groups
            strip_tile(
                last - first,
                strips,
                weight + 4 * STRIP * start,
                4 * STRIP * width,
                x + 4 * (width * first + start),
                4 * width,
                length,
                sums.ctypes.data + 4 * STRIP * first,
                4 * STRIP * sums.shape[1],
            )


@kernel
def linear_strips_(data: Any) -> None:
    """Voir le début du module ; un lot est un nombre entier de bandes, sauf le dernier."""
    d = words(data)
    active, width, out = integer(d, 0), extent(d, 1, 1), matrix(d, 7)
    sums = np.empty((TOGETHER, extent(d, 1, 0), STRIP), np.float32)
    largest = min(active, STRIP_COLUMNS)
    together = TOGETHER if largest <= TOGETHER_COLUMNS else 1
    item = claim(data)
    while item < count(d):
        part, first, last = block_of(d, item)
        base = part * integer(d, 3)
        start = first
        while start < last:
            strips = together if last - start > (TOGETHER - 1) * STRIP else 1
            _multiply(d, integers(d, 2)[part] + 4 * width * start, strips, sums)
            for s in range(strips):
                for m in range(active):
                    for r in range(min(STRIP, last - start)):
                        out[m, base + start + r] = sums[s, m, r]
                start += STRIP
        for m in range(active):
            finish(d, m, base + first, base + last)
        item = claim(data)
