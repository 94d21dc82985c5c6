"""Les produits d'un lot d'activations : le calcul, plus que la lecture des poids, fixe la durée.

Un lot est un bloc de lignes de poids fp32, pris par tranches de colonnes qui tiennent dans le
cache. Arguments, dans l'ordre : ceux de `linear_kernels`, jusqu'au résidu, à ceci près que
x (D, hauteur) et, en mode GELU, out (N, hauteur) sont transposés.

Formes : M activations, D largeur, N lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.linear_kernels import GELU, RESIDUAL, block_of, gelu
from gpt_architecture.kernels.decode.step_kernels import normalize, row_of
from gpt_architecture.kernels.decode.wide_tiles import MAX_COLUMNS, wide_tile
from gpt_architecture.kernels.runtime.arithmetic import FAST
from gpt_architecture.kernels.runtime.kernel import (
    address,
    claim,
    count,
    extent,
    integer,
    integers,
    kernel,
    matrix,
    vector,
    words,
)

LINE = 16
"""Activations d'un lot de `transpose_rows_` : une ligne de cache de la sortie."""

_CHUNK = 128
"""Colonnes d'une tranche : 128 × 32 activations tiennent dans la moitié du premier cache."""

_TILES_AHEAD = 2  # le temps de deux tuiles couvre celui d'un accès à la mémoire
_F = np.float32


@njit
def _multiply(d: Any, weight: Any, stride: Any, rows: Any, following: Any, sums: Any) -> None:
    """sums (lignes, MAX_COLUMNS) = poids · x, pour `rows` lignes à partir de l'adresse `weight`.

    `following` : adresse des lignes que ce fil prendra ensuite.
    """
    width, x, x_stride = extent(d, 1, 0), address(d, 1), 4 * extent(d, 1, 1)
    vectors = (integer(d, 0) + 7) // 8
    full = 8 if vectors == 1 else 4 if vectors == 2 else 3 if vectors == 3 else 2
    sums[:rows] = _F(0.0)
    for start in range(0, width, _CHUNK):
        length = min(_CHUNK, width - start)
        after = 4 * (start + _CHUNK) + weight if start + _CHUNK < width else following
        row = 0
        while row < rows:
            step = full if rows - row >= full else 1
            here = weight + stride * row + 4 * start
            target = row + _TILES_AHEAD * full  # au-delà de la tranche, celle d'après
            there = (
                here + stride * _TILES_AHEAD * full
                if target < rows
                else after + stride * (target - rows)
            )
            out = sums.ctypes.data + 4 * MAX_COLUMNS * row
            wide_tile(
                vectors,
                step,
                here,
                stride,
                x + start * x_stride,
                x_stride,
                length,
                out,
                4 * MAX_COLUMNS,
                there - here,
            )
            row += step


@njit(fastmath=FAST, error_model="numpy")
def _finish(d: Any, base: Any, rows: Any, sums: Any) -> None:
    """Biais, puis activation ou résidu, des lignes base … base + rows de la matrice empilée."""
    active, bias, mode, out = integer(d, 0), vector(d, 5), integer(d, 6), matrix(d, 7)
    if bias.size > 0:
        for r in range(rows):
            for m in range(active):
                sums[r, m] += bias[base + r]
    if mode == GELU:  # par vecteurs entiers : une fin de boucle scalaire arrondirait autrement
        whole = (active + 7) // 8 * 8
        for r in range(rows):
            for m in range(whole):
                out[base + r, m] = gelu(sums[r, m])
        return
    for m in range(active):
        for r in range(rows):
            out[m, base + r] = sums[r, m]
    if mode == RESIDUAL:
        residual = matrix(d, 8)
        for m in range(active):
            for r in range(rows):
                residual[m, base + r] += out[m, base + r]


@njit
def _start(d: Any, item: Any) -> Any:
    """Adresse des poids fp32 d'un lot ; au-delà du dernier, celle du dernier."""
    part, first, _ = block_of(d, min(item, count(d) - 1))
    return integers(d, 2)[part] + 4 * first * extent(d, 1, 0)


@kernel
def linear_wide_(data: Any) -> None:
    """Voir le début du module."""
    d = words(data)
    stride = 4 * extent(d, 1, 0)
    sums = np.empty((integer(d, 4), MAX_COLUMNS), np.float32)
    item = claim(data)
    while item < count(d):
        following = claim(data)  # pris d'avance : ses poids sont demandés à temps
        part, first, last = block_of(d, item)
        weight, after = _start(d, item), _start(d, following)
        _multiply(d, weight, stride, last - first, after, sums)
        _finish(d, part * integer(d, 3) + first, last - first, sums)
        item = following


@kernel
def transpose_rows_(data: Any) -> None:
    """y (D, hauteur) = norme(x)ᵀ, par LINE activations.

    Arguments : activations présentes, x (hauteur, D), gain, décalage, lignes choisies, y.
    """
    d = words(data)
    active, x, gain, shift, y = (
        integer(d, 0),
        matrix(d, 1),
        vector(d, 2),
        vector(d, 3),
        matrix(d, 5),
    )
    width = x.shape[1]
    rows = np.empty((LINE, width), np.float32)
    block = claim(data)
    while block < count(d):
        first = block * LINE
        present = min(LINE, active - first)
        for i in range(present):
            normalize(x[row_of(d, first + i)], gain, shift, rows[i])
        for j in range(width):
            for i in range(present):
                y[j, first + i] = rows[i, j]
        block = claim(data)
