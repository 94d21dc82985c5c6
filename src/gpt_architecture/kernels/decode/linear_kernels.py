"""Les produits « poids × activations » d'un pas, sur des poids fp32 en lignes.

* `linear_float_` : la lecture des poids fixe sa durée. Un lot est un bloc de lignes de poids, lu
  une fois et employé pour toutes les activations.
* `linear_wide_` : pour un lot d'activations, le calcul fixe la durée. Les lignes de poids sont
  prises par tranches de colonnes qui tiennent dans le cache ; x (D, hauteur) et, en mode GELU, out
  (N, hauteur) sont transposés.

Leurs arguments, comme ceux de `strip_kernels`, ont les mêmes noms : `active` activations présentes
(M) ; x (hauteur, D), fp32 ou codes ; `parts`, adresses de matrices de même forme qui se lisent
comme une seule, empilées, de `part_rows` lignes chacune ; `block_rows` lignes d'un lot ; biais
(N,), ou vide ; mode ; out (hauteur, N) ; résidu (hauteur, N), ou vide.

Formes : M activations, D largeur, N lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.float_tiles import (
    TILE_ROWS,
    WIDE_COLUMNS,
    WIDE_LANES,
    float_dots,
    wide_tile,
)
from gpt_architecture.kernels.runtime.arithmetic import FAST, gelu
from gpt_architecture.kernels.runtime.kernel import (
    Integer,
    Integers,
    Lots,
    Matrix,
    Place,
    Vector,
    claim,
    count,
    kernel,
)
from gpt_architecture.kernels.runtime.vector_ir import STREAMS

PLAIN, GELU, RESIDUAL = 0, 1, 2
"""Modes : out = xW + b ; out = gelu(xW + b) ; résidu += xW + b, où out sert de brouillon."""

_WIDE_CHUNK = 128
"""Colonnes d'une tranche large : 128 × 32 activations tiennent dans la moitié du premier cache."""

_TILE_ROWS = (0, *TILE_ROWS.values())  # par nombre de vecteurs
_TILES_AHEAD = 2  # le temps de deux tuiles couvre celui d'un accès à la mémoire
_F = np.float32


@njit
def block_of(item: Any, part_rows: Any, block_rows: Any) -> Any:
    """(partie, première ligne, colonne de `out` où elle va, lignes) d'un lot."""
    blocks = (part_rows + block_rows - 1) // block_rows
    part, first = item // blocks, (item % blocks) * block_rows
    return part, first, part * part_rows + first, min(block_rows, part_rows - first)


@njit(fastmath=FAST, error_model="numpy")
def finish(bias: Any, mode: Any, out: Any, residual: Any, m: Any, start: Any, stop: Any) -> None:
    """Biais, puis activation ou résidu, des colonnes start … stop de la ligne m de `out`.

    Par morceaux de ligne : un indice dont le compilateur ne sait pas le signe reste scalaire, et
    une GELU en est dix fois plus longue (mesuré).
    """
    row = out[m, start:stop]
    if bias.size > 0:
        shift = bias[start:stop]
        for n in range(row.size):
            row[n] += shift[n]
    if mode == GELU:
        for n in range(row.size):
            row[n] = gelu(row[n])
    elif mode == RESIDUAL:
        total = residual[m, start:stop]
        for n in range(row.size):
            total[n] += row[n]


# --- Poids fp32 en lignes, peu d'activations --------------------------------------------------


@kernel
def linear_float_(
    lots: Lots,
    active: Integer,
    x: Place,
    parts: Integers,
    part_rows: Integer,
    block_rows: Integer,
    bias: Vector,
    mode: Integer,
    out: Matrix,
    residual: Matrix,
    together: Integer,
) -> None:
    """Poids fp32 ; une partie est (lignes, D).

    Une ligne, lue pour `together` activations, est encore dans le premier cache pour les autres.
    """
    stride, out_stride = 4 * x.width, 4 * out.shape[1]
    for item in lots:
        part, first, base, rows = block_of(item, part_rows, block_rows)
        weight, target = parts[part] + stride * first, out.ctypes.data + 4 * base
        part_of = rows // STREAMS if active == 1 and STREAMS > 1 else 0
        for n in range(part_of):  # STREAMS lignes éloignées, chacune lue à la suite
            here, there = weight + stride * n, target + 4 * n
            float_dots(
                1, STREAMS, here, stride * part_of, x.address, stride, x.width, there, 4 * part_of
            )
        weight, target = weight + stride * STREAMS * part_of, target + 4 * STREAMS * part_of
        for _ in range(rows - STREAMS * part_of):
            for m in range(0, active, together):
                columns = min(active - m, together)
                inputs, outputs = x.address + stride * m, target + out_stride * m
                float_dots(columns, 1, weight, 0, inputs, stride, x.width, outputs, out_stride)
            weight += stride
            target += 4
        for m in range(active):
            finish(bias, mode, out, residual, m, base, base + rows)


# --- Poids fp32 en lignes, un lot d'activations -----------------------------------------------


@njit
def _multiply_wide(active: Any, x: Any, weight: Any, rows: Any, following: Any, sums: Any) -> None:
    """sums (lignes, WIDE_COLUMNS) = poids · x, pour `rows` lignes depuis l'adresse `weight`.

    `following` : adresse des lignes que ce thread prendra ensuite.
    """
    width, stride, x_stride = x.rows, 4 * x.rows, 4 * x.width
    vectors, out_stride = (active + WIDE_LANES - 1) // WIDE_LANES, 4 * WIDE_COLUMNS
    full = _TILE_ROWS[vectors]
    sums[:rows] = _F(0.0)
    for start in range(0, width, _WIDE_CHUNK):
        length = min(_WIDE_CHUNK, width - start)
        after = 4 * (start + _WIDE_CHUNK) + weight if start + _WIDE_CHUNK < width else following
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
            out = sums.ctypes.data + out_stride * row
            inputs, ahead = x.address + start * x_stride, there - here
            wide_tile(vectors, step, here, stride, inputs, x_stride, length, out, out_stride, ahead)
            row += step


@njit(fastmath=FAST, error_model="numpy")
def _finish_wide(
    active: Any,
    bias: Any,
    mode: Any,
    out: Any,
    residual: Any,
    base: Any,
    rows: Any,
    sums: Any,
) -> None:
    """Biais, puis activation ou résidu, des lignes base … base + rows de la matrice empilée."""
    whole = (
        (active + WIDE_LANES - 1) // WIDE_LANES * WIDE_LANES
    )  # par vecteurs entiers : une fin scalaire arrondirait autrement
    for r in range(rows):
        found = sums[r, :whole]
        if bias.size > 0:
            for m in range(whole):
                found[m] += bias[base + r]
        if mode == GELU:
            target = out[base + r, :whole]
            for m in range(whole):
                target[m] = gelu(found[m])
    if mode != GELU:
        for m in range(active):
            part = out[m, base : base + rows]
            for r in range(rows):
                part[r] = sums[r, m]
            if mode == RESIDUAL:
                total = residual[m, base : base + rows]
                for r in range(rows):
                    total[r] += part[r]


@kernel
def linear_wide_(
    lots: Lots,
    active: Integer,
    x: Place,
    parts: Integers,
    part_rows: Integer,
    block_rows: Integer,
    bias: Vector,
    mode: Integer,
    out: Matrix,
    residual: Matrix,
) -> None:
    """Poids fp32, contre x (D, hauteur) transposé."""
    sums = np.empty((block_rows, WIDE_COLUMNS), np.float32)
    stride = 4 * x.rows
    item: Any = claim(lots)
    while item < count(lots):
        following = claim(lots)  # pris d'avance : ses poids sont demandés à temps
        part, first, base, rows = block_of(item, part_rows, block_rows)
        later = min(following, count(lots) - 1)  # au-delà du dernier, celui-là
        next_part, next_first, _, _ = block_of(later, part_rows, block_rows)
        after = parts[next_part] + stride * next_first
        _multiply_wide(active, x, parts[part] + stride * first, rows, after, sums)
        _finish_wide(active, bias, mode, out, residual, base, rows, sums)
        item = following
