"""Les produits d'un pas sur des poids en bandes, fp32 ou entiers, un noyau pour chacun.

Chaque résultat ignore les autres activations, au bit près ; les poids sont en bandes
(`weights.StripMatrix`, `weights.IntegerStrips`). Un service y gagne de rendre le même texte quelle
que soit sa charge.

Les arguments sont ceux de `linear_kernels`. Des poids entiers y ajoutent leurs bits, les poids d'un
groupe, les adresses des échelles (bf16) des parties, puis, par activation et par groupe (hauteur,
groupes), l'échelle de x et le départ des sommes (voir `step_kernels.encode_rows_`).
Les deux derniers sont l'adaptateur de chaque activation (hauteur,), ou rien (voir
`step_kernels.low_rank_`), et ce qu'il ajoute à ses résultats (hauteur, N).

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
    copy_strip,
    strip_tile,
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
from gpt_architecture.kernels.decode.linear_kernels import block_of, finish
from gpt_architecture.kernels.decode.matrix_tiles import (
    MATRIX_COLUMNS,
    free_registers,
    matrix_tile,
    shape_registers,
)
from gpt_architecture.kernels.decode.weights import CHUNK, STRIP_ROWS
from gpt_architecture.kernels.runtime.kernel import (
    Integer,
    Integers,
    Lots,
    Matrix,
    Place,
    Vector,
    kernel,
)
from gpt_architecture.kernels.runtime.vector_ir import STREAMS

_F = np.float32

_STRIP_CHUNK = 256 // TOGETHER
"""Colonnes d'une tranche de bandes : ses poids et 32 activations tiennent dans 32 Kio."""

_INTEGER_SLICE = 512
"""Colonnes d'une tranche de bandes d'entiers, de même."""


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
def _adapt(owners: Any, delta: Any, out: Any, m: Any, start: Any, stop: Any) -> None:
    """Ajoute à la ligne m de `out` ce qu'y veut son adaptateur ; sans lui, elle garde ses bits."""
    if owners.size > 0 and owners[m] != 0:
        row, added = out[m, start:stop], delta[m, start:stop]
        for n in range(row.size):
            row[n] += added[n]


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
    owners: Integers,
    delta: Matrix,
) -> None:
    """Poids fp32 en bandes ; un lot en est un nombre entier, sauf le dernier."""
    sums = np.empty((TOGETHER, x.rows, STRIP_ROWS), np.float32)
    largest = min(active, STRIP_COLUMNS)
    together = TOGETHER if largest <= TOGETHER_COLUMNS else 1
    for item in lots:
        part, first, base, rows = block_of(item, part_rows, block_rows)
        done = 0
        while done < rows:
            strips = together if rows - done > (TOGETHER - 1) * STRIP_ROWS else 1
            _multiply_strips(active, x, parts[part] + 4 * x.width * (first + done), strips, sums)
            stop = min(rows, done + strips * STRIP_ROWS)
            _spread(sums, active, out, base + done, base + stop)
            done = stop
        for m in range(active):
            _adapt(owners, delta, out, m, base, base + rows)
            finish(bias, mode, out, residual, m, base, base + rows)


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
    owners: Integers,
    delta: Matrix,
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
        part, first, base, rows = block_of(item, part_rows, block_rows)
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
            _adapt(owners, delta, out, m, base, base + rows)
            finish(bias, mode, out, residual, m, base, base + rows)
    if matrices:
        free_registers()
