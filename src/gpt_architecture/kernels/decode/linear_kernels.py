"""Les produits « poids × activations » d'un pas, un noyau par rangement des poids.

* `linear_float_`, `linear_integer_` : la lecture des poids fixe leur durée. Un lot est un bloc de
  lignes de poids, lu une fois et employé pour toutes les activations.
* `linear_wide_` : pour un lot d'activations, le calcul fixe la durée. Les lignes de poids sont
  prises par tranches de colonnes qui tiennent dans le cache ; x (D, hauteur) et, en mode GELU, out
  (N, hauteur) sont transposés.
* `linear_strips_` : chaque résultat ignore les autres activations, au bit près ; les poids sont en
  bandes (`weights.StripMatrix`). Un service y gagne de rendre le même texte quelle que soit sa
  charge. Celui des poids entiers a la même propriété.

Leurs arguments ont les mêmes noms : `active` activations présentes (M) ; x (hauteur, D), fp32 ou
codes sur 16 bits ; `parts`, adresses de matrices de même forme qui se lisent comme une seule,
empilées, de `part_rows` lignes chacune ; `block_rows` lignes d'un lot ; biais (N,), ou vide ;
mode ; out (hauteur, N) ; résidu (hauteur, N), ou vide. Des poids entiers y ajoutent leurs bits, les
poids d'un groupe, les adresses des échelles (bf16) des parties, les échelles de x (hauteur,).

Formes : M activations, D largeur (complétée à un nombre entier de groupes pour des entiers), N
lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.float_tiles import (
    STRIP_COLUMNS,
    TOGETHER,
    TOGETHER_COLUMNS,
    WIDE_COLUMNS,
    float_dots,
    strip_tile,
    wide_tile,
)
from gpt_architecture.kernels.decode.integer_tiles import INTEGER_COLUMNS, UNIT, integer_dots
from gpt_architecture.kernels.decode.weights import STRIP_ROWS
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

PLAIN, GELU, RESIDUAL = 0, 1, 2
"""Modes : out = xW + b ; out = gelu(xW + b) ; résidu += xW + b, où out sert de brouillon."""

_WIDE_CHUNK = 128
"""Colonnes d'une tranche large : 128 × 32 activations tiennent dans la moitié du premier cache."""

_STRIP_CHUNK = 256 // TOGETHER
"""Colonnes d'une tranche de bandes : ses poids et 32 activations tiennent dans 32 Kio."""

_TILES_AHEAD = 2  # le temps de deux tuiles couvre celui d'un accès à la mémoire
_F = np.float32


@njit
def _block_of(item: Any, part_rows: Any, block_rows: Any) -> Any:
    """(partie, première ligne, colonne de `out` où elle va, lignes) d'un lot."""
    blocks = (part_rows + block_rows - 1) // block_rows
    part, first = item // blocks, (item % blocks) * block_rows
    return part, first, part * part_rows + first, min(block_rows, part_rows - first)


@njit(fastmath=FAST, error_model="numpy")
def _finish(bias: Any, mode: Any, out: Any, residual: Any, m: Any, start: Any, stop: Any) -> None:
    """Biais, puis activation ou résidu, des colonnes start … stop de la ligne m de `out`."""
    if bias.size > 0:
        for n in range(start, stop):
            out[m, n] += bias[n]
    if mode == GELU:
        for n in range(start, stop):
            out[m, n] = gelu(out[m, n])
    elif mode == RESIDUAL:
        for n in range(start, stop):
            residual[m, n] += out[m, n]


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
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        weight, target = parts[part] + stride * first, out.ctypes.data + 4 * base
        for _ in range(rows):
            for m in range(0, active, together):
                columns = min(active - m, together)
                inputs, outputs = x.address + stride * m, target + out_stride * m
                float_dots(columns, weight, inputs, stride, x.width, outputs, out_stride)
            weight += stride
            target += 4
        for m in range(active):
            _finish(bias, mode, out, residual, m, base, base + rows)


# --- Poids entiers ---------------------------------------------------------------------------


@kernel
def linear_integer_(
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
    bits: Integer,
    group: Integer,
    scales: Integers,
    factors: Vector,
) -> None:
    """Poids entiers ; une partie est (lignes, D) octets signés, ou (lignes, D/2) octets."""
    width, units = x.width, x.width // UNIT
    x_stride, out_stride = 2 * width, 4 * out.shape[1]
    stride, scale_stride = width * bits // 8, 2 * (width // group)
    for item in lots:
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        for m in range(0, active, INTEGER_COLUMNS):
            columns, inputs = min(active - m, INTEGER_COLUMNS), x.address + x_stride * m
            target = out.ctypes.data + out_stride * m + 4 * base
            codes, scale = parts[part] + stride * first, scales[part] + scale_stride * first
            for _ in range(rows):
                integer_dots(
                    bits, group, columns, codes, scale, inputs, x_stride, units, target, out_stride
                )
                codes += stride
                scale += scale_stride
                target += 4
        for m in range(active):
            factor = factors[m]
            for n in range(base, base + rows):
                out[m, n] *= factor
            _finish(bias, mode, out, residual, m, base, base + rows)


# --- Poids fp32 en lignes, un lot d'activations -----------------------------------------------


@njit
def _multiply_wide(active: Any, x: Any, weight: Any, rows: Any, following: Any, sums: Any) -> None:
    """sums (lignes, WIDE_COLUMNS) = poids · x, pour `rows` lignes depuis l'adresse `weight`.

    `following` : adresse des lignes que ce fil prendra ensuite.
    """
    width, stride, x_stride = x.rows, 4 * x.rows, 4 * x.width
    vectors, out_stride = (active + 7) // 8, 4 * WIDE_COLUMNS
    full = 8 if vectors == 1 else 4 if vectors == 2 else 3 if vectors == 3 else 2
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
        for m in range(active):
            for r in range(rows):
                residual[m, base + r] += out[m, base + r]


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
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        later = min(following, count(lots) - 1)  # au-delà du dernier, celui-là
        next_part, next_first, _, _ = _block_of(later, part_rows, block_rows)
        after = parts[next_part] + stride * next_first
        _multiply_wide(active, x, parts[part] + stride * first, rows, after, sums)
        _finish_wide(active, bias, mode, out, residual, base, rows, sums)
        item = following


# --- Poids fp32 en bandes ---------------------------------------------------------------------


@njit
def _multiply_strips(active: Any, x: Any, weight: Any, strips: Any, sums: Any) -> None:
    """sums (TOGETHER, M, STRIP_ROWS) = x · les bandes qui commencent à l'adresse `weight`."""
    width, line = x.width, 4 * STRIP_ROWS
    stride = line * sums.shape[1]
    groups = (active + STRIP_COLUMNS - 1) // STRIP_COLUMNS
    sums[:strips, :active] = _F(0.0)
    chunk = width if groups == 1 else _STRIP_CHUNK
    for start in range(0, width, chunk):
        length = min(chunk, width - start)
        for group in range(groups):  # de tailles voisines : peu de sommes s'attendraient
            first, last = active * group // groups, active * (group + 1) // groups
            lines, inputs = weight + line * start, x.address + 4 * (width * first + start)
            out = sums.ctypes.data + line * first
            strip_tile(
                last - first, strips, lines, line * width, inputs, 4 * width, length, out, stride
            )


@kernel
def linear_strips_(
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
    """Poids fp32 en bandes ; un lot en est un nombre entier, sauf le dernier."""
    sums = np.empty((TOGETHER, x.rows, STRIP_ROWS), np.float32)
    largest = min(active, STRIP_COLUMNS)
    together = TOGETHER if largest <= TOGETHER_COLUMNS else 1
    for item in lots:
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        done = 0
        while done < rows:
            strips = together if rows - done > (TOGETHER - 1) * STRIP_ROWS else 1
            _multiply_strips(active, x, parts[part] + 4 * x.width * (first + done), strips, sums)
            for s in range(strips):
                for m in range(active):
                    for r in range(min(STRIP_ROWS, rows - done)):
                        out[m, base + done + r] = sums[s, m, r]
                done += STRIP_ROWS
        for m in range(active):
            _finish(bias, mode, out, residual, m, base, base + rows)
