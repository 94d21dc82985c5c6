"""Une ligne de poids contre quelques activations, en instructions vectorielles.

La ligne est lue une fois, du début à la fin : c'est l'ordre que la machine sait anticiper
(mesuré : quatre lignes de front divisent par deux le débit lu). Les C sommes restent dans des
registres. Le code est de l'IR générique de LLVM (charger, étendre, multiplier) : sur x86 ses
produits d'entiers deviennent l'instruction `vpmaddwd`, ailleurs l'équivalent de la machine.

Les adresses et les pas sont en octets ; la somme de la colonne c est écrite, en fp32, à
`out + c · out_stride`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

UNIT = 128
"""Poids entiers d'un tour de boucle : la largeur d'une ligne en est un multiple."""

GROUP_SIZES = (32, 64, 128)
"""Poids par échelle pour lesquels le code existe."""

FLOAT_COLUMNS, INTEGER_COLUMNS = 8, 4
"""Activations au plus par lecture d'une ligne : leurs sommes tiennent dans 16 registres."""

AHEAD = 2048
"""Octets d'avance des poids entiers : décoder remplit la fenêtre du processeur, qui n'atteint plus
assez tôt les lignes suivantes (mesuré : un quart du débit)."""

_I64, _I32, _I16, _I8 = (ir.IntType(bits) for bits in (64, 32, 16, 8))
_F32 = ir.FloatType()
_LANES = 8
_FLOATS, _SUMS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
_BYTES, _WORDS = ir.VectorType(_I8, 16), ir.VectorType(_I16, 16)
_PAIRS = ir.VectorType(_I32, 16)
_FUSE = ("contract", "nsz")

Values = list[Any]


@intrinsic
def float_dots(
    typingctx: Any,
    columns: Any,
    weight: Any,
    x: Any,
    x_stride: Any,
    length: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """Ligne fp32 de `length` poids contre 1 à FLOAT_COLUMNS activations fp32."""
    del typingctx, columns, weight, x, x_stride, length, out, out_stride

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        columns, *rest = arguments
        cases = {c: _float_case(c, rest) for c in range(1, FLOAT_COLUMNS + 1)}
        _switch(builder, columns, cases)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen


@intrinsic
def integer_dots(
    typingctx: Any,
    bits: Any,
    group: Any,
    columns: Any,
    codes: Any,
    scales: Any,
    x: Any,
    x_stride: Any,
    units: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """Ligne de poids sur `bits` 8 ou 4, une échelle bf16 par groupe, contre des activations.

    Les activations, de 1 à INTEGER_COLUMNS, sont sur 16 bits. `group` est dans GROUP_SIZES ;
    `units` : UNIT poids chacun. La somme d'un groupe est exacte : au plus 128 · 32767 · 128,
    répartis sur huit voies.
    """
    del typingctx, bits, group, columns, codes, scales, x, x_stride, units, out, out_stride

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits, group, columns, *rest = arguments
        cases = {
            (b + g) * 8 + c: _integer_case(b, g, c, rest)
            for b in (4, 8)
            for g in GROUP_SIZES
            for c in range(1, INTEGER_COLUMNS + 1)
        }
        key = builder.add(builder.shl(builder.add(bits, group), _int(3)), columns)
        _switch(builder, key, cases)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), codegen


def _float_case(columns: int, arguments: Values) -> Callable[[Any], None]:
    weight, x, x_stride, length, out, out_stride = arguments
    unroll = max(1, 8 // columns // 2 * 2) if columns < 8 else 1

    def emit(builder: Any) -> None:
        inputs = [_offset(builder, x, x_stride, c) for c in range(columns)]

        def step_of(kind: Any, size: int, times: int) -> Callable[[Any, Values], Values]:
            def step(index: Any, sums: Values) -> Values:
                pairs = []
                for i in range(times):
                    at = builder.add(builder.mul(index, _int(times * size)), _int(i * size))
                    w = _load(builder, kind, builder.add(weight, at))
                    pairs += [(w, _load(builder, kind, builder.add(v, at))) for v in inputs]
                return _add_products(builder, sums, pairs)

            return step

        zeros = [ir.Constant(_FLOATS, [0.0] * _LANES)] * (columns * unroll)
        whole = builder.udiv(length, _int(_LANES * unroll))
        sums = _loop(builder, _int(0), whole, zeros, step_of(_FLOATS, 4 * _LANES, unroll))
        totals = _fold(builder, sums, columns)
        done = builder.mul(whole, _int(_LANES * unroll))
        totals = _loop(builder, done, length, totals, step_of(_F32, 4, 1))
        _store(builder, totals, out, out_stride)

    return emit


def _integer_case(bits: int, group: int, columns: int, arguments: Values) -> Callable[[Any], None]:
    codes, scales, x, x_stride, units, out, out_stride = arguments
    decode = {4: _decode_int4, 8: _decode_int8}[bits]
    groups = UNIT // group
    chains = 2 if columns == 1 and groups > 1 else 1  # deux sommes se suivent sans s'attendre

    def emit(builder: Any) -> None:
        inputs = [_offset(builder, x, x_stride, c) for c in range(columns)]

        def step(index: Any, totals: Values) -> Values:
            at = builder.mul(index, _int(UNIT * bits // 8))
            _prefetch(builder, builder.add(codes, at), UNIT * bits // 8)
            weights = decode(builder, builder.add(codes, at))
            at = builder.mul(index, _int(2 * groups))
            factors = _bfloat16(builder, builder.add(scales, at), groups)
            at = builder.mul(index, _int(2 * UNIT))
            values = [builder.add(v, at) for v in inputs]
            totals = list(totals)
            per_group = len(weights) // groups
            for g in range(groups):
                for c in range(columns):
                    products = [
                        _dot_pairs(
                            builder,
                            weights[i],
                            _load(builder, _WORDS, _add(builder, values[c], 32 * i)),
                        )
                        for i in range(g * per_group, (g + 1) * per_group)
                    ]
                    total = _tree(builder, products)
                    slot = g % chains * columns + c
                    pair = (builder.sitofp(total, _FLOATS), factors[g])
                    totals[slot] = _add_products(builder, [totals[slot]], [pair])[0]
            return totals

        zeros = [ir.Constant(_FLOATS, [0.0] * _LANES)] * (columns * chains)
        totals = _loop(builder, _int(0), units, zeros, step)
        _store(builder, _fold(builder, totals, columns), out, out_stride)

    return emit


def _decode_int8(builder: Any, address: Any) -> Values:
    """128 octets signés → huit vecteurs."""
    return [
        builder.sext(_load(builder, _BYTES, _add(builder, address, 16 * i)), _WORDS)
        for i in range(UNIT // 16)
    ]


def _decode_int4(builder: Any, address: Any) -> Values:
    """64 octets → huit vecteurs.

    Par 64 poids, le mot de 16 bits l porte, des bits bas aux bits hauts, les poids l, 16 + l,
    32 + l et 48 + l, chacun plus 8 : masquer et décaler suffit, sans rien réordonner.
    """
    mask, bias = (ir.Constant(_WORDS, [value] * 16) for value in (15, 8))
    found = []
    for i in range(UNIT // 64):
        words = _load(builder, _WORDS, _add(builder, address, 32 * i))
        for shift in (0, 4, 8, 12):
            part = builder.lshr(words, ir.Constant(_WORDS, [shift] * 16))
            found.append(builder.sub(builder.and_(part, mask), bias))
    return found


def _bfloat16(builder: Any, address: Any, count: int) -> Values:
    """`count` valeurs bf16 qui se suivent, chacune dans les huit voies d'un vecteur fp32."""
    if count == 1:
        word = builder.zext(_load(builder, _I16, address), _I32)
        return [_splat_high(builder, builder.shl(word, ir.Constant(_I32, 16)))]
    found = []
    for i in range(count // 2):  # deux par mot de 32 bits : un chargement sert aux deux
        pair = _load(builder, _I32, _add(builder, address, 4 * i))
        lanes = _splat(builder, pair)
        low = builder.shl(lanes, ir.Constant(_SUMS, [16] * _LANES))
        high = builder.and_(lanes, ir.Constant(_SUMS, [-65536] * _LANES))
        found += [builder.bitcast(low, _FLOATS), builder.bitcast(high, _FLOATS)]
    return found


def _splat_high(builder: Any, word: Any) -> Any:
    return builder.bitcast(_splat(builder, word), _FLOATS)


def _splat(builder: Any, word: Any) -> Any:
    """Un entier de 32 bits dans les huit voies d'un vecteur."""
    blank = ir.Constant(_SUMS, ir.Undefined)
    first = builder.insert_element(blank, word, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, blank, ir.Constant(_SUMS, [0] * _LANES))


def _prefetch(builder: Any, address: Any, size: int) -> None:
    """Demande d'avance les lignes de cache qui suivent, de AHEAD, `size` octets."""
    byte = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    for offset in range(0, size, 64):
        where = builder.inttoptr(_add(builder, address, AHEAD + offset), byte)
        builder.call(function, [where, read, keep, data])


def _tree(builder: Any, values: Values) -> Any:
    """Somme d'entiers, deux à deux."""
    while len(values) > 1:
        values = [builder.add(*values[i : i + 2]) for i in range(0, len(values), 2)]
    return values[0]


def _fold(builder: Any, sums: Values, columns: int) -> Values:
    """Une somme par colonne : vecteurs de même colonne, puis voies."""
    folded = []
    for c in range(columns):
        total = sums[c]
        for other in sums[c + columns :: columns]:
            total = builder.fadd(total, other)
        folded.append(_sum_lanes(builder, total))
    return folded


def _add_products(builder: Any, totals: Values, pairs: list[tuple[Any, Any]]) -> Values:
    """totals + a · b, en une instruction là où la machine en a une."""
    return [
        builder.fadd(total, builder.fmul(a, b, flags=_FUSE), flags=_FUSE)
        for total, (a, b) in zip(totals, pairs, strict=True)
    ]


def _dot_pairs(builder: Any, a: Any, b: Any) -> Any:
    """Seize produits de deux vecteurs sur 16 bits, additionnés deux à deux sur 32."""
    products = builder.mul(builder.sext(a, _PAIRS), builder.sext(b, _PAIRS), flags=("nsw",))
    even, odd = (ir.Constant(_SUMS, list(range(first, 16, 2))) for first in (0, 1))
    return builder.add(
        builder.shuffle_vector(products, products, even),
        builder.shuffle_vector(products, products, odd),
    )


def _sum_lanes(builder: Any, vector: Any) -> Any:
    """Somme des huit voies, par moitiés."""
    for half in (4, 2, 1):
        lanes = ir.VectorType(_I32, half)
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(lanes, list(range(i, i + half))))
            for i in (0, half)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _store(builder: Any, totals: Values, out: Any, out_stride: Any) -> None:
    for column, value in enumerate(totals):
        address = _offset(builder, out, out_stride, column)
        builder.store(value, builder.inttoptr(address, _F32.as_pointer()), align=4)


def _switch(builder: Any, value: Any, cases: Mapping[int, Callable[[Any], None]]) -> None:
    """Émet chaque cas et saute à celui de `value` ; une valeur imprévue ne fait rien."""
    after = builder.append_basic_block("after")
    choice = builder.switch(value, after)
    for key, emit in cases.items():
        block = builder.append_basic_block("case")
        choice.add_case(_int(key), block)
        builder.position_at_end(block)
        emit(builder)
        builder.branch(after)
    builder.position_at_end(after)


def _loop(
    builder: Any, start: Any, stop: Any, values: Values, body: Callable[[Any, Values], Values]
) -> Values:
    """`for index in range(start, stop): values = body(index, values)` ; rend les dernières."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    index.add_incoming(start, before)
    carried = [builder.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    results = body(index, carried)
    index.add_incoming(builder.add(index, _int(1)), builder.block)
    for phi, result in zip(carried, results, strict=True):
        phi.add_incoming(result, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def _load(builder: Any, kind: Any, address: Any) -> Any:
    """Valeur à cette adresse, alignée ou non."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _add(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, _int(offset)) if offset else address


def _offset(builder: Any, address: Any, stride: Any, times: int) -> Any:
    return builder.add(address, builder.mul(stride, _int(times))) if times else address


def _int(value: int) -> Any:
    return ir.Constant(_I64, value)
