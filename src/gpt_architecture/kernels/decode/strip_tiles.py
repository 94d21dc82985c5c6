"""Une bande de seize lignes de poids contre quelques activations.

Les poids d'une bande sont entrelacés, (D, 16) : les seize poids d'une même colonne se suivent. Un
vecteur porte donc huit lignes (seize avec AVX-512), chaque valeur d'activation y est diffusée, et
une somme avance colonne après colonne, toujours dans le même ordre : elle ne dépend ni des autres
activations ni de leur nombre, au bit près. Une activation seule ne fait que lire les poids à la
suite ; six emplissent les registres de sommes, à la vitesse d'un produit de matrices, avec quatre
bandes à la fois pour AVX-512.

Les adresses et les pas sont en octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpt_architecture.kernels.decode.weights import STRIP
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    HAS_AVX512,
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

_WIDTH = STRIP if HAS_AVX512 else LANES  # lignes d'un vecteur
_VECTOR = ir.VectorType(F32, _WIDTH)

STRIP_COLUMNS = 6
"""Activations au plus d'une tuile : ses sommes tiennent dans les registres."""

TOGETHER, TOGETHER_COLUMNS = (4, STRIP_COLUMNS) if HAS_AVX512 else (2, 2)
"""Bandes d'une tuile de plusieurs, et activations au plus d'une telle tuile."""

_LINE = 4 * STRIP
_UNROLL = 8  # colonnes d'un tour
_AHEAD = 2048  # octets d'avance : au-delà de ce que la machine anticipe d'elle-même


@intrinsic
def strip_tile(
    typingctx: Any,
    columns: Any,
    strips: Any,
    weight: Any,
    weight_stride: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """out (strips, columns, STRIP) += x (columns, length) · weight (strips, length, STRIP).

    En fp32. `strips` vaut 1, ou TOGETHER pour TOGETHER_COLUMNS activations au plus ; les pas
    `weight_stride` et `out_stride` séparent deux bandes.
    """
    del typingctx, columns, strips, weight, weight_stride, x, x_stride, length, out, out_stride

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        columns, strips, *rest = arguments
        cases = {8 * c + 1: _case(c, 1, rest) for c in range(1, STRIP_COLUMNS + 1)}
        several = range(1, TOGETHER_COLUMNS + 1)
        cases |= {8 * c + TOGETHER: _case(c, TOGETHER, rest) for c in several}
        switch(builder, builder.add(builder.shl(columns, int64(3)), strips), cases)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


def _case(columns: int, strips: int, arguments: Values) -> Callable[[Any], None]:
    weight, weight_stride, x, x_stride, length, out, out_stride = arguments

    def emit(builder: Any) -> None:
        inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]
        streams = [offset_by(builder, weight, weight_stride, s) for s in range(strips)]
        halves = [4 * _WIDTH * i for i in range(STRIP // _WIDTH)]
        outputs = [
            add(builder, offset_by(builder, out, out_stride, s), _LINE * c + half)
            for c in range(columns)
            for s in range(strips)
            for half in halves
        ]

        def one(index: Any, sums: Values) -> Values:
            at = builder.mul(index, int64(_LINE))
            lines = [builder.add(stream, at) for stream in streams]
            weights = [
                load(builder, _VECTOR, add(builder, n, half)) for n in lines for half in halves
            ]
            at = builder.shl(index, int64(2))
            values = [
                splat(builder, load(builder, F32, builder.add(v, at)), _WIDTH) for v in inputs
            ]
            return add_products(builder, sums, [(w, v) for v in values for w in weights])

        def several(index: Any, sums: Values) -> Values:
            first = builder.mul(index, int64(_UNROLL))
            at = add(builder, builder.mul(first, int64(_LINE)), _AHEAD)
            for stream in streams:
                prefetch(builder, builder.add(stream, at), _LINE * _UNROLL)
            for i in range(_UNROLL):
                sums = one(builder.add(first, int64(i)), sums)
            return sums

        accumulate(builder, outputs, length, _UNROLL, several, one, kind=_VECTOR)

    return emit
