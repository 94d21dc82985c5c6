"""Ce qu'un pas fait d'une ligne hors des produits, en instructions vectorielles.

* `encode_group` : les codes sur 8 bits d'un groupe d'activations, leur échelle, leur départ.
* `score_keys` : une requête contre seize clés à la fois. Chaque voie somme les produits de ses
  colonnes, puis les voies s'ajoutent par moitiés, pour les seize clés ensemble.
* `mix_values` : la somme pondérée des valeurs, position après position.

L'ordre de chaque somme est écrit : il ne dépend ni des autres requêtes ni de la découpe. Les
adresses et les pas sont en octets.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir

from gpt_architecture.kernels.decode.dots import DOTS, STEP
from gpt_architecture.kernels.decode.weights import CHUNK
from gpt_architecture.kernels.runtime.kernel import emitted
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    HAS_AVX512,
    I8,
    I16,
    I32,
    LANES,
    Values,
    add,
    add_products,
    int64,
    load,
    loop,
    offset_by,
    splat,
    switch,
)

KEYS = 2 * LANES if HAS_AVX512 else LANES
"""Clés d'un tour de `score_keys`, et colonnes d'un vecteur : une tête en a un nombre entier."""

MIXED = 4
"""Vecteurs de valeurs au plus de `mix_values` : assez de sommes pour ne pas s'attendre."""

_ROW = ir.VectorType(F32, KEYS)
_BITS = KEYS.bit_length() - 1
_REVERSED = [sum((rank >> i & 1) << (_BITS - 1 - i) for i in range(_BITS)) for rank in range(KEYS)]
"""Ordre des clés qui les remet en ordre quand leurs voies ont été ajoutées par moitiés."""

_LEAST_PEAK = 1e-35  # au-dessous, 127 / max déborde ; voir `grouped_codes.rounded`


def _intrinsic(builder: Any, name: str, result: Any, value: Any) -> Any:
    """Le résultat d'une fonction de LLVM à un argument."""
    kind = ir.FunctionType(result, [value.type])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), [value])


@emitted
def encode_group(
    builder: Any, x: Any, chunks: Any, codes: Any, scale: Any, offset: Any, bias: Any
) -> None:
    """Les codes de CHUNK · `chunks` activations fp32, rangés pour `DOTS` ; voir `encode_rows_`."""
    floats, words = ir.VectorType(F32, CHUNK), ir.VectorType(I32, CHUNK)
    size = DOTS.dtype().itemsize

    def largest(index: Any, found: Values) -> Values:
        bits = load(builder, words, builder.add(x, builder.mul(index, int64(4 * CHUNK))))
        bits = builder.and_(bits, ir.Constant(words, [0x7FFFFFFF] * CHUNK))
        return [builder.select(builder.icmp_unsigned(">", bits, found[0]), bits, found[0])]

    none = [ir.Constant(words, [0] * CHUNK)]
    (bits,) = loop(builder, int64(0), chunks, none, largest)
    peak = _intrinsic(builder, f"llvm.vector.reduce.umax.v{CHUNK}i32", I32, bits)
    peak = builder.bitcast(peak, F32)  # infini ou NaN compris : |x| se compare comme un entier
    small = builder.fcmp_ordered("<=", peak, ir.Constant(F32, _LEAST_PEAK))
    factor = builder.fdiv(ir.Constant(F32, 127.0), peak)
    factor = builder.select(small, ir.Constant(F32, 0.0), factor)
    factors = splat(builder, factor, CHUNK)

    def encode(index: Any, sums: Values) -> Values:
        values = load(builder, floats, builder.add(x, builder.mul(index, int64(4 * CHUNK))))
        values = builder.fadd(builder.fmul(values, factors), ir.Constant(floats, [0.5] * CHUNK))
        values = _intrinsic(builder, f"llvm.floor.v{CHUNK}f32", floats, values)
        found = builder.fptosi(values, words)
        order = [0] * CHUNK
        for place in range(CHUNK):
            step, rank = divmod(place, STEP)
            order[STEP * step + DOTS.order[rank]] = place
        placed = builder.shuffle_vector(found, found, ir.Constant(words, order))
        kind = ir.VectorType(I8 if size == 1 else I16, CHUNK)
        where = builder.add(codes, builder.mul(index, int64(size * CHUNK)))
        where = builder.inttoptr(where, kind.as_pointer())
        builder.store(builder.trunc(placed, kind), where, align=1)
        return [builder.add(sums[0], found)]

    (sums,) = loop(builder, int64(0), chunks, none, encode)
    total = _intrinsic(builder, f"llvm.vector.reduce.add.v{CHUNK}i32", I32, sums)
    total = builder.mul(total, builder.trunc(builder.neg(bias), I32))
    builder.store(total, builder.inttoptr(offset, I32.as_pointer()), align=4)
    finite = builder.fcmp_ordered("<", peak, ir.Constant(F32, float("inf")))
    share = builder.fmul(peak, ir.Constant(F32, 1.0 / 127.0))
    share = builder.select(finite, share, ir.Constant(F32, float("nan")))
    builder.store(share, builder.inttoptr(scale, F32.as_pointer()), align=4)


@emitted
def score_keys(
    builder: Any, q: Any, keys: Any, stride: Any, vectors: Any, last: Any, out: Any
) -> None:
    """out (KEYS,) = q · clé, pour KEYS clés de KEYS · `vectors` colonnes, fp32.

    La clé de rang r est à `keys + r · stride` ; au-delà du rang `last`, celle-là.
    """
    places = []
    for rank in _REVERSED:
        here = builder.select(builder.icmp_signed("<", int64(rank), last), int64(rank), last)
        places.append(builder.add(keys, builder.mul(here, stride)))

    def column(index: Any, sums: Values) -> Values:
        at = builder.mul(index, int64(4 * KEYS))
        query = load(builder, _ROW, builder.add(q, at))
        rows = [load(builder, _ROW, builder.add(place, at)) for place in places]
        return add_products(builder, sums, [(query, row) for row in rows])

    sums = loop(builder, int64(0), vectors, [ir.Constant(_ROW, [0.0] * KEYS)] * KEYS, column)
    half = KEYS // 2
    while half:  # deux vecteurs deviennent un : les voies sans le bit `half`, plus celles qui l'ont
        lows = [i // half * 2 * half + i % half for i in range(KEYS)]
        kinds = [
            ir.Constant(ir.VectorType(I32, KEYS), [low + bit for low in lows]) for bit in (0, half)
        ]
        pairs = zip(sums[: len(sums) // 2], sums[len(sums) // 2 :], strict=True)
        sums = [
            builder.fadd(*(builder.shuffle_vector(a, b, each) for each in kinds)) for a, b in pairs
        ]
        half //= 2
    builder.store(sums[0], builder.inttoptr(out, _ROW.as_pointer()), align=4)


@emitted
def mix_values(
    builder: Any, vectors: Any, weights: Any, values: Any, stride: Any, count: Any, out: Any
) -> None:
    """out (KEYS · `vectors`,) += Σ poids · valeur, de `count` positions, dans l'ordre.

    `vectors` va de 1 à MIXED ; la valeur de rang r est à `values + r · stride`.
    """
    rest = [weights, values, stride, count, out]
    cases = {n: partial(_mix_case, n, rest) for n in range(1, MIXED + 1)}
    switch(builder, vectors, cases)


def _mix_case(vectors: int, arguments: Values, builder: Any) -> None:
    weights, values, stride, count, out = arguments

    def position(index: Any, sums: Values) -> Values:
        weight = load(builder, F32, builder.add(weights, builder.shl(index, int64(2))))
        weight, row = splat(builder, weight, KEYS), builder.add(values, builder.mul(index, stride))
        rows = [load(builder, _ROW, add(builder, row, 4 * KEYS * v)) for v in range(vectors)]
        return add_products(builder, sums, [(weight, each) for each in rows])

    places = [offset_by(builder, out, int64(4 * KEYS), v) for v in range(vectors)]
    sums = [load(builder, _ROW, place) for place in places]
    sums = loop(builder, int64(0), count, sums, position)
    for place, total in zip(places, sums, strict=True):
        builder.store(total, builder.inttoptr(place, _ROW.as_pointer()), align=4)
