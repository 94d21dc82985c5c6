"""Ce qu'un pas fait d'une ligne hors des produits, en instructions vectorielles.

* `encode_group` : les codes sur 8 bits d'un groupe d'activations, leur échelle, leur départ.
* `score_keys` : une requête contre seize clés à la fois. Chaque voie somme les produits de ses
  colonnes, puis les voies s'ajoutent par moitiés, pour les seize clés ensemble.
* `turn_keys`, `score_turned` : les mêmes sommes, aux mêmes bits, pour quelques requêtes à la fois.
  Les clés sont d'abord transposées : une voie est alors une clé, et rien ne se mélange plus.
* `mix_values` : la somme pondérée des valeurs, position après position, d'une ou quelques requêtes.

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
    FUSE,
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

TOGETHER = 4 if HAS_AVX512 else 2
"""Requêtes de `score_turned`, et d'un tour de `mix_values` : leurs sommes tiennent dans les
registres."""

TURNED = (1, 2, 4, 8)
"""Vecteurs d'une tête que `score_turned` connaît : des têtes de 16 à 128, moitié moins en AVX2."""

_ROW = ir.VectorType(F32, KEYS)
_FENCE = f"llvm.arithmetic.fence.v{KEYS}f32"
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
def turn_keys(builder: Any, keys: Any, stride: Any, vectors: Any, last: Any, out: Any) -> None:
    """out (KEYS · `vectors`, KEYS) = les KEYS clés, transposées ; voir `score_keys`."""
    places = []
    for rank in range(KEYS):
        here = builder.select(builder.icmp_signed("<", int64(rank), last), int64(rank), last)
        places.append(builder.add(keys, builder.mul(here, stride)))

    def square(index: Any, _: Values) -> Values:
        at = builder.mul(index, int64(4 * KEYS))
        rows = [load(builder, _ROW, builder.add(place, at)) for place in places]
        start = builder.add(out, builder.mul(index, int64(4 * KEYS * KEYS)))
        for rank, row in enumerate(_transposed(builder, rows)):
            where = builder.inttoptr(add(builder, start, 4 * KEYS * rank), _ROW.as_pointer())
            builder.store(row, where, align=4)
        return []

    loop(builder, int64(0), vectors, [], square)


def _transposed(builder: Any, rows: Values) -> Values:
    """KEYS vecteurs transposés : à chaque tour, le bit haut du rang et celui de la voie changent
    de place.
    """
    lanes = ir.VectorType(I32, KEYS)
    kinds = [[low + i % 2 * KEYS + i // 2 for i in range(KEYS)] for low in (0, KEYS // 2)]
    for _ in range(_BITS):
        pairs = list(zip(rows[: KEYS // 2], rows[KEYS // 2 :], strict=True))
        rows = [
            builder.shuffle_vector(a, b, ir.Constant(lanes, kind))
            for a, b in pairs
            for kind in kinds
        ]
    return rows


@emitted
def score_turned(
    builder: Any,
    vectors: Any,
    q: Any,
    q_stride: Any,
    last: Any,
    turned: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """out (TOGETHER, KEYS) = requêtes · clés transposées, aux bits de `score_keys`.

    `vectors` est de TURNED. La requête de rang r est à `q + r · q_stride`, ses scores à
    `out + r · out_stride` ; au-delà du rang `last`, celle-là.
    """
    ranks = [
        builder.select(builder.icmp_signed("<", int64(t), last), int64(t), last)
        for t in range(TOGETHER)
    ]
    queries = [builder.add(q, builder.mul(rank, q_stride)) for rank in ranks]
    outputs = [builder.add(out, builder.mul(rank, out_stride)) for rank in ranks]
    cases = {n: partial(turned_tile, n, [turned, queries, outputs]) for n in TURNED}
    switch(builder, vectors, cases)


def turned_tile(vectors: int, arguments: Values, builder: Any) -> None:
    """Le cas de `score_turned` pour ce nombre de vecteurs : clés, requêtes, sorties."""
    turned, queries, outputs = arguments

    def lane(rank: int) -> Values:
        """La somme de la voie `rank` de `score_keys`, pour chaque requête.

        Sans barrière, le compilateur choisirait lui-même les produits à ne pas arrondir.
        """
        sums: Values = [ir.Constant(_ROW, [0.0] * KEYS)] * TOGETHER
        for column in range(rank, KEYS * vectors, KEYS):
            keys = load(builder, _ROW, add(builder, turned, 4 * KEYS * column))
            values = [load(builder, F32, add(builder, query, 4 * column)) for query in queries]
            pairs = [(splat(builder, value, KEYS), keys) for value in values]
            sums = add_products(builder, sums, pairs)
            sums = [_intrinsic(builder, _FENCE, _ROW, each) for each in sums]
        return sums

    def total(rank: int, width: int) -> Values:
        """Les voies de même reste modulo `width`, ajoutées dans l'ordre de `score_keys`."""
        if width == KEYS:
            return lane(rank)
        pairs = zip(total(rank, 2 * width), total(rank + width, 2 * width), strict=True)
        return [builder.fadd(a, b, flags=FUSE) for a, b in pairs]

    for place, scores in zip(outputs, total(0, 1), strict=True):
        builder.store(scores, builder.inttoptr(place, _ROW.as_pointer()), align=4)


@emitted
def mix_values(
    builder: Any,
    vectors: Any,
    queries: Any,
    weights: Any,
    weights_stride: Any,
    values: Any,
    stride: Any,
    count: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """out (queries, KEYS · `vectors`) += Σ poids · valeur, de `count` positions, dans l'ordre.

    `vectors` va de 1 à MIXED, `queries` vaut 1 ou TOGETHER ; la valeur de rang r est à
    `values + r · stride`.
    """
    rest = [weights, weights_stride, values, stride, count, out, out_stride]
    cases = {
        8 * q + n: partial(_mix_case, n, q, rest)
        for q in (1, TOGETHER)
        for n in range(1, MIXED + 1)
    }
    switch(builder, builder.add(builder.shl(queries, int64(3)), vectors), cases)


def _mix_case(vectors: int, queries: int, arguments: Values, builder: Any) -> None:
    weights, weights_stride, values, stride, count, out, out_stride = arguments
    factors = [offset_by(builder, weights, weights_stride, q) for q in range(queries)]
    places = [
        add(builder, offset_by(builder, out, out_stride, q), 4 * KEYS * v)
        for q in range(queries)
        for v in range(vectors)
    ]

    def position(index: Any, sums: Values) -> Values:
        at, row = builder.shl(index, int64(2)), builder.add(values, builder.mul(index, stride))
        rows = [load(builder, _ROW, add(builder, row, 4 * KEYS * v)) for v in range(vectors)]
        shares = [
            splat(builder, load(builder, F32, builder.add(factor, at)), KEYS) for factor in factors
        ]
        return add_products(builder, sums, [(a, b) for a in shares for b in rows])

    sums = [load(builder, _ROW, place) for place in places]
    sums = loop(builder, int64(0), count, sums, position)
    for place, total in zip(places, sums, strict=True):
        builder.store(total, builder.inttoptr(place, _ROW.as_pointer()), align=4)
