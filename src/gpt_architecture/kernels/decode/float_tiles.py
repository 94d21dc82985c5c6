"""Des lignes de poids fp32 contre des activations, en instructions vectorielles : trois tuiles.

* `float_dots` : une ligne contre quelques activations. Elle est lue du début à la fin, l'ordre que
  la machine sait anticiper ; les sommes restent dans des registres, et celles d'une activation ne
  dépendent ni des autres ni de leur nombre, au bit près.
* `wide_tile` : quelques lignes contre un lot d'activations transposées, (D, colonnes). Pour chaque
  poids, diffusé dans un registre, un vecteur de huit ou seize activations fait autant de produits ;
  au moins huit sommes avancent ensemble, le temps d'une multiplication.
* `strip_tile` : une bande de seize lignes entrelacées, (D, 16). Un vecteur en porte huit (seize
  avec AVX-512), chaque activation y est diffusée, et une somme avance colonne après colonne,
  toujours dans le même ordre : elle ne dépend ni des autres activations ni de leur nombre, au bit
  près. Une activation seule ne fait que lire les poids à la suite ; six emplissent les registres
  de sommes, à la vitesse d'un produit de matrices, avec quatre bandes à la fois pour AVX-512.

Les adresses et les pas sont en octets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir

from gpt_architecture.kernels.decode.weights import STRIP_ROWS
from gpt_architecture.kernels.runtime.kernel import emitted
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    FLOATS,
    HAS_AVX512,
    LANES,
    STREAMS,
    Values,
    accumulate,
    add,
    add_products,
    fold,
    int64,
    load,
    loop,
    offset_by,
    prefetch,
    splat,
    store_columns,
    switch,
)

FLOAT_COLUMNS = 6 if HAS_AVX512 else 4
"""Activations au plus de `float_dots`."""

WIDE_LANES = 2 * LANES if HAS_AVX512 else LANES
"""Activations d'un vecteur de `wide_tile`."""

TILE_ROWS = {1: 12, 2: 4} if HAS_AVX512 else {1: 8, 2: 4, 3: 3, 4: 2}
"""Lignes d'une tuile large pleine, par nombre de vecteurs d'activations."""

WIDE_COLUMNS = WIDE_LANES * max(TILE_ROWS)
"""Activations au plus de `wide_tile`."""

STRIP_COLUMNS = 6
"""Activations au plus de `strip_tile` : ses sommes tiennent dans les registres."""

TOGETHER, TOGETHER_COLUMNS = (4, STRIP_COLUMNS) if HAS_AVX512 else (2, 2)
"""Bandes d'une tuile de plusieurs, et activations au plus d'une telle tuile."""

_DOT_SUMS = 8  # sommes par colonne : assez pour couvrir la durée d'une multiplication
_DOT_VECTOR = ir.VectorType(F32, 2 * LANES if HAS_AVX512 else LANES)  # deux sommes, ou une
_DOT_REGISTERS = 24 if HAS_AVX512 else 12  # pour ces sommes ; les autres portent poids et adresses
_DOT_AHEAD = 8192  # octets d'avance
_WIDE_VECTOR = ir.VectorType(F32, WIDE_LANES)
_WIDE_UNROLL = 16  # colonnes d'un tour : une ligne de cache de poids
_STRIP_UNROLL = 8
_STRIP_LINE = 4 * STRIP_ROWS
_STRIP_LANES = STRIP_ROWS if HAS_AVX512 else LANES  # lignes d'un vecteur
_STRIP_VECTOR = ir.VectorType(F32, _STRIP_LANES)
_AHEAD = 2048  # octets d'avance : au-delà de ce que la machine anticipe d'elle-même


@emitted
def float_dots(
    builder: Any,
    columns: Any,
    rows: Any,
    weight: Any,
    weight_stride: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """Ligne fp32 de `length` poids contre 1 à FLOAT_COLUMNS activations fp32.

    Ou `rows` = STREAMS lignes, à `weight_stride` l'une de l'autre, contre une activation : mêmes
    bits ; `out_stride` sépare alors leurs sommes.
    """
    rest = [weight, weight_stride, x, x_stride, length, out, out_stride]
    cases = {8 + c: partial(_float_case, c, 1, rest) for c in range(1, FLOAT_COLUMNS + 1)}
    cases.setdefault(8 * STREAMS + 1, partial(_float_case, 1, STREAMS, rest))
    switch(builder, builder.add(builder.shl(rows, int64(3)), columns), cases)


@emitted
def wide_tile(
    builder: Any,
    vectors: Any,
    rows: Any,
    weight: Any,
    weight_stride: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
    ahead: Any,
) -> None:
    """out (lignes, L·vectors) += weight (lignes, length) · x (length, L·vectors), en fp32.

    `rows` vaut TILE_ROWS[vectors] ou 1 ; les poids situés `ahead` octets plus loin sont demandés
    d'avance.
    """
    rest = [weight, weight_stride, x, x_stride, length, out, out_stride, ahead]
    cases = {
        16 * v + r: partial(_wide_case, v, r, rest)
        for v, full in TILE_ROWS.items()
        for r in (1, full)
    }
    switch(builder, builder.add(builder.shl(vectors, int64(4)), rows), cases)


@emitted
def strip_tile(
    builder: Any,
    columns: Any,
    strips: Any,
    weight: Any,
    weight_stride: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """out (strips, columns, 16) += x (columns, length) · weight (strips, length, 16), en fp32.

    `strips` vaut 1, ou TOGETHER pour TOGETHER_COLUMNS activations au plus ; les pas
    `weight_stride` et `out_stride` séparent deux bandes.
    """
    rest = [weight, weight_stride, x, x_stride, length, out, out_stride]
    cases = {8 * c + 1: partial(_strip_case, c, 1, rest) for c in range(1, STRIP_COLUMNS + 1)}
    several = range(1, TOGETHER_COLUMNS + 1)
    cases |= {8 * c + TOGETHER: partial(_strip_case, c, TOGETHER, rest) for c in several}
    switch(builder, builder.add(builder.shl(columns, int64(3)), strips), cases)


def _float_case(columns: int, rows: int, arguments: Values, builder: Any) -> None:
    """Chaque colonne a ses huit sommes de huit voies, dans le même ordre quel que soit leur nombre.

    Quand elles ne tiennent pas toutes dans les registres, la ligne est relue.
    """
    weight, weight_stride, x, x_stride, length, out, out_stride = arguments
    sums_count = columns * rows
    kind = _DOT_VECTOR if sums_count > 1 else FLOATS
    block, size = 4 * LANES * _DOT_SUMS, 4 * kind.count

    inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]
    weights = [offset_by(builder, weight, weight_stride, r) for r in range(rows)]

    def step_of(kind: Any, stride: int, offsets: range) -> Callable[[Any, Values], Values]:
        def step(index: Any, sums: Values) -> Values:
            pairs = []
            if stride == block and offsets[0] == 0:
                at = add(builder, builder.mul(index, int64(stride)), _DOT_AHEAD)
                for each in weights:
                    prefetch(builder, builder.add(each, at), block)
            for offset in offsets:
                at = add(builder, builder.mul(index, int64(stride)), offset)
                lines = [load(builder, kind, builder.add(each, at)) for each in weights]
                values = [load(builder, kind, builder.add(each, at)) for each in inputs]
                pairs += [(w, v) for w in lines for v in values]
            return add_products(builder, sums, pairs)

        return step

    whole = builder.udiv(length, int64(block // 4))
    several = block // size  # vecteurs d'un bloc que suit une lecture
    while sums_count * several > _DOT_REGISTERS:
        several //= 2
    found: Values = []
    for first in range(0, block, several * size):
        zeros = [ir.Constant(kind, [0.0] * kind.count)] * (sums_count * several)
        offsets = range(first, first + several * size, size)
        found += loop(builder, int64(0), whole, zeros, step_of(kind, block, offsets))
    totals = fold(builder, found, sums_count)
    done = builder.mul(whole, int64(block // 4))
    totals = loop(builder, done, length, totals, step_of(F32, 4, range(1)))
    store_columns(builder, totals, out, out_stride)


def _wide_case(vectors: int, rows: int, arguments: Values, builder: Any) -> None:
    weight, weight_stride, x, x_stride, length, out, out_stride, ahead = arguments

    weights = [offset_by(builder, weight, weight_stride, r) for r in range(rows)]
    outputs = [
        add(builder, offset_by(builder, out, out_stride, r), 4 * WIDE_LANES * v)
        for r in range(rows)
        for v in range(vectors)
    ]

    def one(index: Any, sums: Values) -> Values:
        line = builder.add(x, builder.mul(index, x_stride))
        columns = [
            load(builder, _WIDE_VECTOR, add(builder, line, 4 * WIDE_LANES * v))
            for v in range(vectors)
        ]
        at = builder.shl(index, int64(2))
        factors = [
            splat(builder, load(builder, F32, builder.add(w, at)), WIDE_LANES) for w in weights
        ]
        return add_products(builder, sums, [(a, b) for a in factors for b in columns])

    def ask(first: Any) -> None:
        for w in weights:
            where = builder.add(builder.add(w, ahead), builder.shl(first, int64(2)))
            prefetch(builder, where, 1)

    accumulate(builder, outputs, length, _WIDE_UNROLL, ask, one, kind=_WIDE_VECTOR)


def _strip_case(columns: int, strips: int, arguments: Values, builder: Any) -> None:
    weight, weight_stride, x, x_stride, length, out, out_stride = arguments

    inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]
    streams = [offset_by(builder, weight, weight_stride, s) for s in range(strips)]
    halves = [4 * _STRIP_LANES * i for i in range(STRIP_ROWS // _STRIP_LANES)]
    outputs = [
        add(builder, offset_by(builder, out, out_stride, s), _STRIP_LINE * c + half)
        for c in range(columns)
        for s in range(strips)
        for half in halves
    ]

    def one(index: Any, sums: Values) -> Values:
        at = builder.mul(index, int64(_STRIP_LINE))
        lines = [builder.add(stream, at) for stream in streams]
        weights = [
            load(builder, _STRIP_VECTOR, add(builder, n, half)) for n in lines for half in halves
        ]
        at = builder.shl(index, int64(2))
        values = [
            splat(builder, load(builder, F32, builder.add(v, at)), _STRIP_LANES) for v in inputs
        ]
        return add_products(builder, sums, [(w, v) for v in values for w in weights])

    def ask(first: Any) -> None:
        at = add(builder, builder.mul(first, int64(_STRIP_LINE)), _AHEAD)
        for stream in streams:
            prefetch(builder, builder.add(stream, at), _STRIP_LINE * _STRIP_UNROLL)

    accumulate(builder, outputs, length, _STRIP_UNROLL, ask, one, kind=_STRIP_VECTOR)


@emitted
def copy_strip(builder: Any, columns: Any, sums: Any, out: Any, out_stride: Any) -> None:
    """out (columns, ·) = sums (columns, STRIP_ROWS), ligne à ligne."""
    line = ir.VectorType(F32, STRIP_ROWS)

    def column(index: Any, _: Values) -> Values:
        found = load(builder, line, builder.add(sums, builder.mul(index, int64(4 * STRIP_ROWS))))
        where = builder.add(out, builder.mul(index, out_stride))
        builder.store(found, builder.inttoptr(where, line.as_pointer()), align=4)
        return []

    loop(builder, int64(0), columns, [], column)
