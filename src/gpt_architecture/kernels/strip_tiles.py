"""Une bande de seize lignes de poids contre quelques activations.

Les poids d'une bande sont entrelacés, (D, 16) : les seize poids d'une même colonne se suivent. Un
vecteur porte donc huit lignes, chaque valeur d'activation y est diffusée, et une somme avance
colonne après colonne, toujours dans le même ordre : elle ne dépend ni des autres activations ni de
leur nombre, au bit près. Une activation seule ne fait que lire les poids à la suite ; six
emplissent les registres de sommes, à la vitesse d'un produit de matrices.

Les adresses et les pas sont en octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from gpt_architecture.kernels.ir_tools import (
    F32,
    FLOATS,
    LANES,
    Values,
    add,
    add_products,
    int64,
    load,
    loop,
    offset_by,
    prefetch,
    splat,
    switch,
)
from gpt_architecture.kernels.packed_weights import STRIP

STRIP_COLUMNS = 12 * LANES // STRIP
"""Activations au plus d'une tuile : ses douze vecteurs de sommes tiennent dans 16 registres."""

_LINE = 4 * STRIP
_UNROLL = 8  # colonnes d'un tour
_AHEAD = 2048  # octets d'avance : au-delà de ce que la machine anticipe d'elle-même


@intrinsic
def strip_tile(
    typingctx: Any,
    columns: Any,
    weight: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
) -> Any:
    """out (columns, STRIP) += x (columns, length) · weight (length, STRIP), en fp32."""
    del typingctx, columns, weight, x, x_stride, length, out

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        columns, *rest = arguments
        switch(builder, columns, {c: _case(c, rest) for c in range(1, STRIP_COLUMNS + 1)})
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


def _case(columns: int, arguments: Values) -> Callable[[Any], None]:
    weight, x, x_stride, length, out = arguments

    def emit(builder: Any) -> None:
        inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]
        outputs = [add(builder, out, 4 * LANES * i) for i in range(STRIP // LANES * columns)]

        def one(index: Any, sums: Values) -> Values:
            line = builder.add(weight, builder.mul(index, int64(_LINE)))
            halves = [add(builder, line, 4 * LANES * i) for i in range(STRIP // LANES)]
            weights = [load(builder, FLOATS, half) for half in halves]
            at = builder.shl(index, int64(2))
            values = [splat(builder, load(builder, F32, builder.add(v, at))) for v in inputs]
            return add_products(builder, sums, [(w, v) for v in values for w in weights])

        def several(index: Any, sums: Values) -> Values:
            first = builder.mul(index, int64(_UNROLL))
            line = builder.add(weight, builder.mul(first, int64(_LINE)))
            prefetch(builder, add(builder, line, _AHEAD), _LINE * _UNROLL)
            for i in range(_UNROLL):
                sums = one(builder.add(first, int64(i)), sums)
            return sums

        sums = [load(builder, FLOATS, address) for address in outputs]
        whole = builder.udiv(length, int64(_UNROLL))
        sums = loop(builder, int64(0), whole, sums, several)
        sums = loop(builder, builder.mul(whole, int64(_UNROLL)), length, sums, one)
        for address, total in zip(outputs, sums, strict=True):
            builder.store(total, builder.inttoptr(address, FLOATS.as_pointer()), align=4)

    return emit
