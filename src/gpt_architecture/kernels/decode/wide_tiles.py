"""Quelques lignes de poids contre un lot d'activations rangées par colonnes.

Les activations sont transposées, (D, colonnes) : pour chaque poids, diffusé dans un registre, un
vecteur de huit activations suffit à huit produits. Les sommes d'une tuile (lignes × vecteurs)
restent dans les registres ; au moins huit avancent ensemble, le temps d'une multiplication.

Les adresses et les pas sont en octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    FLOATS,
    LANES,
    Values,
    accumulate,
    add,
    add_products,
    int64,
    load,
    offset_by,
    prefetch,
    splat,
    switch,
)

TILE_ROWS = {1: 8, 2: 4, 3: 3, 4: 2}
"""Lignes d'une tuile pleine, par nombre de vecteurs de huit colonnes."""

MAX_COLUMNS = LANES * max(TILE_ROWS)
"""Activations au plus."""

_UNROLL = 16  # colonnes d'un tour : une ligne de cache de poids


@intrinsic
def wide_tile(
    typingctx: Any,
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
) -> Any:
    """out (lignes, 8·vectors) += weight (lignes, length) · x (length, 8·vectors), en fp32.

    `rows` vaut TILE_ROWS[vectors] ou 1 ; les poids situés `ahead` octets plus loin sont demandés
    d'avance.
    """
    del typingctx, vectors, rows, weight, weight_stride, x, x_stride, length, out, out_stride, ahead

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vectors, rows, *rest = arguments
        cases = {16 * v + r: _case(v, r, rest) for v, full in TILE_ROWS.items() for r in (1, full)}
        switch(builder, builder.add(builder.shl(vectors, int64(4)), rows), cases)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), codegen


def _case(vectors: int, rows: int, arguments: Values) -> Callable[[Any], None]:
    weight, weight_stride, x, x_stride, length, out, out_stride, ahead = arguments

    def emit(builder: Any) -> None:
        weights = [offset_by(builder, weight, weight_stride, r) for r in range(rows)]
        outputs = [
            add(builder, offset_by(builder, out, out_stride, r), 4 * LANES * v)
            for r in range(rows)
            for v in range(vectors)
        ]

        def one(index: Any, sums: Values) -> Values:
            line = builder.add(x, builder.mul(index, x_stride))
            columns = [
                load(builder, FLOATS, add(builder, line, 4 * LANES * v)) for v in range(vectors)
            ]
            at = builder.shl(index, int64(2))
            factors = [splat(builder, load(builder, F32, builder.add(w, at))) for w in weights]
            return add_products(builder, sums, [(a, b) for a in factors for b in columns])

        def several(index: Any, sums: Values) -> Values:
            first = builder.mul(index, int64(_UNROLL))
            for w in weights:
                where = builder.add(builder.add(w, ahead), builder.shl(first, int64(2)))
                prefetch(builder, where, 1)
            for i in range(_UNROLL):
                sums = one(builder.add(first, int64(i)), sums)
            return sums

        accumulate(builder, outputs, length, _UNROLL, several, one)

    return emit
