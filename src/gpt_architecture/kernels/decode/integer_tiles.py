"""Une ligne de poids entiers contre quelques activations, en instructions vectorielles.

La ligne est lue une fois, du début à la fin : c'est l'ordre que la machine sait anticiper
(mesuré : quatre lignes de front divisent par deux le débit lu). Les C sommes restent dans des
registres. Le code est de l'IR générique de LLVM (charger, étendre, multiplier) : sur x86 ses
produits d'entiers deviennent l'instruction `vpmaddwd`, ailleurs l'équivalent de la machine.

Les adresses et les pas sont en octets ; la somme de la colonne c est écrite, en fp32, à
`out + c · out_stride`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import njit

from gpt_architecture.kernels.runtime.kernel import emitted
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    FLOATS,
    HAS_AVX512,
    I8,
    I16,
    I32,
    LANES,
    Values,
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

UNIT = 128
"""Poids entiers d'un tour de boucle : la largeur d'une ligne en est un multiple."""

GROUP_SIZES = (32, 64, 128)
"""Poids par échelle pour lesquels le code existe."""

INTEGER_COLUMNS = 8 if HAS_AVX512 else 4
"""Activations au plus par lecture d'une ligne : leurs sommes tiennent dans les registres."""

_AHEAD = 2048
"""Octets d'avance des poids entiers : décoder remplit la fenêtre du processeur, qui n'atteint plus
assez tôt les lignes suivantes (mesuré : un quart du débit)."""

_SUMS = ir.VectorType(I32, LANES)

_INTEGER_LANES = 2 * LANES if HAS_AVX512 else LANES
"""Sommes d'un vecteur de produits d'entiers."""

PAIRED_BLOCKS = HAS_AVX512
"""Vrai si un vecteur porte, sur 4 bits, le même quart de deux blocs de 64 poids ; les activations
sont alors rangées dans l'ordre de `paired_place`."""


@njit(inline="always")
def paired_place(j: Any) -> Any:
    """Où est rangée l'activation j de son unité, pour des poids sur 4 bits par deux blocs."""
    unit, block, quarter, rest = j // 128, j // 64 % 2, j // 16 % 4, j % 16
    return unit * 128 + quarter * 32 + block * 16 + rest


@emitted
def integer_dots(
    builder: Any,
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
) -> None:
    """Ligne de poids sur `bits` 8 ou 4, une échelle bf16 par groupe, contre des activations.

    Les activations, de 1 à INTEGER_COLUMNS, sont sur 16 bits ; chacune est sommée dans le même
    ordre quel que soit leur nombre. `group` est dans GROUP_SIZES ; `units` : UNIT poids chacun. La
    somme d'un groupe est exacte : au plus 128 · 32767 · 128, répartis sur huit voies ou seize.
    """
    rest = [codes, scales, x, x_stride, units, out, out_stride]
    cases = {
        (b + g) * 16 + c: partial(_integer_case, b, g, c, rest)
        for b in (4, 8)
        for g in GROUP_SIZES
        for c in range(1, INTEGER_COLUMNS + 1)
    }
    key = builder.add(builder.shl(builder.add(bits, group), int64(4)), columns)
    switch(builder, key, cases)


@emitted
def decode_row(
    builder: Any, bits: Any, group: Any, codes: Any, scales: Any, units: Any, out: Any
) -> None:
    """out reçoit, en fp32, les poids d'une ligne d'entiers ; arguments de `integer_dots`."""
    rest = [codes, scales, units, out]
    cases = {b + g: partial(_decoding_case, b, g, rest) for b in (4, 8) for g in GROUP_SIZES}
    switch(builder, builder.add(bits, group), cases)


def _integer_case(bits: int, group: int, columns: int, arguments: Values, builder: Any) -> None:
    codes, scales, x, x_stride, units, out, out_stride = arguments
    lanes = _INTEGER_LANES
    words, floats = ir.VectorType(I16, 2 * lanes), ir.VectorType(F32, lanes)
    scaled = 1 if group == UNIT else UNIT // group // (2 if bits == 4 and HAS_AVX512 else 1)
    chains = min(scaled, 2)  # deux sommes se suivent sans s'attendre

    inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]

    def step(index: Any, totals: Values) -> Values:
        at = builder.mul(index, int64(UNIT * bits // 8))
        prefetch(builder, add(builder, builder.add(codes, at), _AHEAD), UNIT * bits // 8)
        weights = _decode(builder, bits, builder.add(codes, at), words)
        at = builder.mul(index, int64(2 * (UNIT // group)))
        factors = _factors(builder, bits, builder.add(scales, at), UNIT // group, lanes)
        at = builder.mul(index, int64(2 * UNIT))
        values = [builder.add(v, at) for v in inputs]
        totals = list(totals)
        each = len(weights) // scaled
        for g in range(scaled):
            for c in range(columns):
                products = [
                    _dot_pairs(
                        builder,
                        weights[i],
                        load(builder, words, add(builder, values[c], 4 * lanes * i)),
                    )
                    for i in range(g * each, (g + 1) * each)
                ]
                total = _tree(builder, products)
                slot = g % chains * columns + c
                pair = (builder.sitofp(total, floats), factors[g])
                totals[slot] = add_products(builder, [totals[slot]], [pair])[0]
        return totals

    zeros = [ir.Constant(floats, [0.0] * lanes)] * (columns * chains)
    totals = loop(builder, int64(0), units, zeros, step)
    store_columns(builder, fold(builder, totals, columns), out, out_stride)


def _decoding_case(bits: int, group: int, arguments: Values, builder: Any) -> None:
    codes, scales, units, out = arguments
    kind = ir.VectorType(I16, 2 * LANES)
    groups = UNIT // group

    def step(index: Any, nothing: Values) -> Values:
        at = builder.mul(index, int64(UNIT * bits // 8))
        prefetch(builder, add(builder, builder.add(codes, at), _AHEAD), UNIT * bits // 8)
        words = _decode(builder, bits, builder.add(codes, at), kind)
        at = builder.mul(index, int64(2 * groups))
        factors = _bfloat16(builder, builder.add(scales, at), groups, LANES)
        place = builder.add(out, builder.mul(index, int64(4 * UNIT)))
        for i, word in enumerate(words):
            for half in (0, 1):
                lanes = ir.Constant(_SUMS, list(range(LANES * half, LANES * (half + 1))))
                part = builder.shuffle_vector(word, word, lanes)
                value = builder.sitofp(builder.sext(part, _SUMS), FLOATS)
                value = builder.fmul(value, factors[i * groups // len(words)])
                address = add(builder, place, 64 * i + 32 * half)
                builder.store(value, builder.inttoptr(address, FLOATS.as_pointer()), align=4)
        return nothing

    loop(builder, int64(0), units, [], step)


def _decode(builder: Any, bits: int, address: Any, words: Any) -> Values:
    """UNIT poids sur 8 ou 4 bits, en vecteurs `words` de mots de 16 bits."""
    return (_decode_int8 if bits == 8 else _decode_int4)(builder, address, words)


def _decode_int8(builder: Any, address: Any, words: Any) -> Values:
    """128 octets signés."""
    size = words.count
    octets = ir.VectorType(I8, size)
    return [
        builder.sext(load(builder, octets, add(builder, address, size * i)), words)
        for i in range(UNIT // size)
    ]


def _decode_int4(builder: Any, address: Any, words: Any) -> Values:
    """64 octets → quatre vecteurs de trente-deux, ou huit de seize.

    Par 64 poids, le mot de 16 bits l porte, des bits bas aux bits hauts, les poids l, 16 + l,
    32 + l et 48 + l, chacun plus 8 : masquer et décaler suffit, sans rien réordonner.
    """
    size = words.count
    mask, bias = (ir.Constant(words, [value] * size) for value in (15, 8))
    found = []
    for i in range(32 // size):
        packed = load(builder, words, add(builder, address, 32 * i))
        for shift in (0, 4, 8, 12):
            part = builder.lshr(packed, ir.Constant(words, [shift] * size))
            found.append(builder.sub(builder.and_(part, mask), bias))
    return found


def _factors(builder: Any, bits: int, address: Any, groups: int, width: int) -> Values:
    """Les échelles d'une unité, dans l'ordre de ses vecteurs, chacune dans les voies qu'elle suit.

    Sur 4 bits par deux blocs, la moitié basse d'un vecteur est du premier, la haute du second.
    """
    if bits == 8 or not PAIRED_BLOCKS or groups == 1:
        return _bfloat16(builder, address, groups, width)
    half = width // 2
    places = ir.Constant(ir.VectorType(I32, width), [0] * half + [1] * half)
    if groups == 2:  # une échelle par bloc
        both = load(builder, ir.VectorType(I16, 2), address)
        both = builder.zext(both, ir.VectorType(I32, 2))
        both = builder.shl(both, ir.Constant(ir.VectorType(I32, 2), [16, 16]))
        spread = builder.shuffle_vector(both, both, places)
        return [builder.bitcast(spread, ir.VectorType(F32, width))]
    both = load(builder, ir.VectorType(I32, 2), address)  # deux échelles par bloc
    return _low_and_high(builder, builder.shuffle_vector(both, both, places))


def _bfloat16(builder: Any, address: Any, count: int, width: int) -> Values:
    """`count` valeurs bf16 qui se suivent, chacune dans les `width` voies d'un vecteur fp32."""
    floats = ir.VectorType(F32, width)
    if count == 1:
        word = builder.zext(load(builder, I16, address), I32)
        word = builder.shl(word, ir.Constant(I32, 16))
        return [builder.bitcast(splat(builder, word, width), floats)]
    found = []
    for i in range(count // 2):  # deux par mot de 32 bits : un chargement sert aux deux
        pair = load(builder, I32, add(builder, address, 4 * i))
        found += _low_and_high(builder, splat(builder, pair, width))
    return found


def _low_and_high(builder: Any, words: Any) -> Values:
    """Les deux valeurs bf16 de mots de 32 bits, en fp32 : la basse, la haute."""
    width = words.type.count
    floats = ir.VectorType(F32, width)
    low = builder.shl(words, ir.Constant(words.type, [16] * width))
    high = builder.and_(words, ir.Constant(words.type, [-65536] * width))
    return [builder.bitcast(low, floats), builder.bitcast(high, floats)]


def _tree(builder: Any, values: Values) -> Any:
    """Somme d'entiers, deux à deux."""
    while len(values) > 1:
        values = [builder.add(*values[i : i + 2]) for i in range(0, len(values), 2)]
    return values[0]


def _dot_pairs(builder: Any, a: Any, b: Any) -> Any:
    """Produits de deux vecteurs sur 16 bits, additionnés deux à deux sur 32."""
    size = a.type.count
    pairs, sums = (ir.VectorType(I32, count) for count in (size, size // 2))
    products = builder.mul(builder.sext(a, pairs), builder.sext(b, pairs), flags=("nsw",))
    even, odd = (ir.Constant(sums, list(range(first, size, 2))) for first in (0, 1))
    return builder.add(
        builder.shuffle_vector(products, products, even),
        builder.shuffle_vector(products, products, odd),
    )
