"""Les produits « poids × activations » d'un pas, un noyau par rangement des poids.

* `linear_float_` : la lecture des poids fixe sa durée. Un lot est un bloc de lignes de poids, lu
  une fois et employé pour toutes les activations.
* `linear_wide_` : pour un lot d'activations, le calcul fixe la durée. Les lignes de poids sont
  prises par tranches de colonnes qui tiennent dans le cache ; x (D, hauteur) et, en mode GELU, out
  (N, hauteur) sont transposés.
* `linear_strips_`, `linear_integer_` : chaque résultat ignore les autres activations, au bit près ;
  les poids sont en bandes (`weights.StripMatrix`, `weights.IntegerStrips`). Un service y gagne de
  rendre le même texte quelle que soit sa charge.

Leurs arguments ont les mêmes noms : `active` activations présentes (M) ; x (hauteur, D), fp32 ou
codes ; `parts`, adresses de matrices de même forme qui se lisent comme une seule,
empilées, de `part_rows` lignes chacune ; `block_rows` lignes d'un lot ; biais (N,), ou vide ;
mode ; out (hauteur, N) ; résidu (hauteur, N), ou vide. Des poids entiers y ajoutent leurs bits, les
poids d'un groupe, les adresses des échelles (bf16) des parties, puis, par activation et par groupe
(hauteur, groupes), l'échelle de x et le départ des sommes (voir `step_kernels.encode_rows_`).

Formes : M activations, D largeur (complétée à un nombre entier de groupes pour des entiers), N
lignes de poids en tout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.float_tiles import (
    STRIP_COLUMNS,
    TILE_ROWS,
    TOGETHER,
    TOGETHER_COLUMNS,
    WIDE_COLUMNS,
    WIDE_LANES,
    copy_strip,
    float_dots,
    strip_tile,
    wide_tile,
)
from gpt_architecture.kernels.decode.integer_tiles import (
    CODE_BYTES,
    FEW,
    TILE_COLUMNS,
    TILE_STRIPS,
    WIDENS,
    integer_tile,
    widen,
)
from gpt_architecture.kernels.decode.matrix_tiles import (
    MATRIX_COLUMNS,
    free_registers,
    matrix_tile,
    shape_registers,
)
from gpt_architecture.kernels.decode.weights import CHUNK, STRIP_ROWS
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

_STRIP_CHUNK = 256 // TOGETHER
"""Colonnes d'une tranche de bandes : ses poids et 32 activations tiennent dans 32 Kio."""

_INTEGER_SLICE = 512
"""Colonnes d'une tranche de bandes d'entiers, de même."""

_TILE_ROWS = (0, *TILE_ROWS.values())  # par nombre de vecteurs
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
        part, first, base, rows = _block_of(item, part_rows, block_rows)
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
            _finish(bias, mode, out, residual, m, base, base + rows)


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
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        later = min(following, count(lots) - 1)  # au-delà du dernier, celui-là
        next_part, next_first, _, _ = _block_of(later, part_rows, block_rows)
        after = parts[next_part] + stride * next_first
        _multiply_wide(active, x, parts[part] + stride * first, rows, after, sums)
        _finish_wide(active, bias, mode, out, residual, base, rows, sums)
        item = following


# --- Poids en bandes --------------------------------------------------------------------------


@njit
def _spread(sums: Any, active: Any, out: Any, start: Any, stop: Any) -> None:
    """out[:, start … stop] = sums (bandes, M, STRIP_ROWS)."""
    stride = 4 * out.shape[1]
    for s in range((stop - start + STRIP_ROWS - 1) // STRIP_ROWS):
        first = start + s * STRIP_ROWS
        if stop - first >= STRIP_ROWS:
            copy_strip(active, sums[s].ctypes.data, out.ctypes.data + 4 * first, stride)
            continue
        for m in range(active):
            part, found = out[m, first:stop], sums[s, m]
            for r in range(part.size):
                part[r] = found[r]


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
            stop = min(rows, done + strips * STRIP_ROWS)
            _spread(sums, active, out, base + done, base + stop)
            done = stop
        for m in range(active):
            _finish(bias, mode, out, residual, m, base, base + rows)


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
    least: Integer,
    scales: Integers,
    factors: Matrix,
    offsets: Place,
) -> None:
    """Poids entiers en bandes ; un lot en est un nombre entier, sauf le dernier.

    Dès `least` activations, par les registres de matrices.
    """
    sums = np.empty((max(TILE_STRIPS, STREAMS), x.rows, STRIP_ROWS), np.float32)
    wide = np.empty((TILE_STRIPS, STRIP_ROWS * _INTEGER_SLICE), np.uint8)
    groups = factors.shape[1]
    width, line = groups * group, STRIP_ROWS * bits // 8  # octets d'une colonne d'une bande
    scale, factor, stride = 2 * STRIP_ROWS * groups, 4 * groups, 4 * STRIP_ROWS * x.rows
    matrices = active >= least and x.rows % MATRIX_COLUMNS == 0
    together = TILE_STRIPS if matrices or active > FEW else STREAMS
    most = MATRIX_COLUMNS if matrices else TILE_COLUMNS
    depth = CHUNK if group % (2 * CHUNK) else 2 * CHUNK
    tiles = (active + most - 1) // most
    widens = WIDENS and (tiles > 1 or matrices) and bits < 8  # dépliés une fois pour toutes
    slice_groups = groups if tiles == 1 and not widens else _INTEGER_SLICE // group
    lines = (depth // 4 + tiles - 1) // tiles  # de la tranche suivante, demandées par tuile
    if matrices:
        shape_registers(depth)
    for item in lots:
        part, first, base, rows = _block_of(item, part_rows, block_rows)
        done = 0
        while done < rows:
            left = (rows - done + STRIP_ROWS - 1) // STRIP_ROWS
            strips = together if left >= together else 1
            sums[:strips, :active] = _F(0.0)
            strip = (first + done) // STRIP_ROWS
            for g in range(0, groups, slice_groups):
                some = min(slice_groups, groups - g)
                codes, step = parts[part] + line * (width * strip + group * g), line * width
                ahead = line * group * some  # la tranche suivante, ou celle des bandes d'après
                if g + some == groups:
                    ahead += line * width * (strips - 1)
                if widens:
                    for s in range(strips):
                        target = wide[s].ctypes.data
                        widen(bits, codes + step * s, some * group // CHUNK, target)
                    codes, step = wide.ctypes.data, STRIP_ROWS * _INTEGER_SLICE
                for tile in range(tiles):
                    if matrices:
                        m = most * tile
                        place = factor * m + 4 * g
                        matrix_tile(
                            min(most, active - m),
                            strips,
                            codes,
                            step,
                            scales[part] + scale * strip + 2 * STRIP_ROWS * g,
                            scale,
                            x.address + x.width * m + CODE_BYTES * group * g,
                            x.width,
                            factors.ctypes.data + place,
                            offsets.address + place,
                            factor,
                            some,
                            group // depth,
                            depth,
                            sums.ctypes.data + 4 * STRIP_ROWS * m,
                            stride,
                            ahead + 64 * lines * tile,
                            0 if widens else min(lines, depth // 4 - lines * tile),
                        )
                        continue
                    m, last = active * tile // tiles, active * (tile + 1) // tiles
                    place = factor * m + 4 * g
                    integer_tile(
                        8 if widens else bits,
                        last - m,
                        strips,
                        codes,
                        step,
                        scales[part] + scale * strip + 2 * STRIP_ROWS * g,
                        scale,
                        x.address + x.width * m + CODE_BYTES * group * g,
                        x.width,
                        factors.ctypes.data + place,
                        offsets.address + place,
                        factor,
                        some,
                        group // CHUNK,
                        sums.ctypes.data + 4 * STRIP_ROWS * m,
                        stride,
                    )
            stop = min(rows, done + strips * STRIP_ROWS)
            _spread(sums, active, out, base + done, base + stop)
            done = stop
        for m in range(active):
            _finish(bias, mode, out, residual, m, base, base + rows)
    if matrices:
        free_registers()
