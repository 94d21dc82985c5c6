"""Des bandes de poids entiers contre des activations entières, en instructions vectorielles.

Une bande est faite de seize lignes de poids, entrelacées par pas de quatre colonnes
(`weights.IntegerStrips`). Les octets sont multipliés comme la machine sait le faire (`dots`) : des
poids non signés, décalés de `DOTS.bias(bits)` ; ce que ce décalage ajoute à une somme ne dépend que
des activations, et en est ôté d'avance (`offsets`).

La somme d'un groupe est exacte ; elle est convertie en fp32, multipliée par ses deux échelles et
ajoutée dans l'ordre des groupes, chaque ligne dans sa voie : ni les autres activations, ni leur
nombre n'y changent un bit, ni la machine si elle fond produit et addition.

Les adresses et les pas sont en octets.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from llvmlite import ir

from gpt_architecture.kernels.decode.dots import DOTS, Dots
from gpt_architecture.kernels.decode.weights import CHUNK, STEP, STRIP_ROWS
from gpt_architecture.kernels.runtime.kernel import emitted
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    HAS_AVX512,
    I16,
    I32,
    STREAMS,
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

BITS = (4, 6, 8)
"""Bits d'un poids pour lesquels le code existe."""

TILE_COLUMNS, TILE_STRIPS = (6, 2) if HAS_AVX512 else (4, 1)
"""Activations, et bandes, au plus d'une tuile : leurs sommes tiennent dans les registres."""

FEW = 2
"""Activations au plus pour que lire les poids soit tout le travail d'une tuile."""

CODE_BYTES = DOTS.dtype().itemsize
"""Octets du code d'une activation."""

WIDENS = DOTS.bias(8) > 0
"""Vrai si des codes élargis se multiplient comme ceux de 8 bits."""

_STEPS = CHUNK // STEP
_STEP_BYTES = STEP * STRIP_ROWS  # un pas d'une bande : une ligne de cache, sur 8 bits
_AHEAD = 4096
"""Octets d'avance des poids : décoder remplit la fenêtre du processeur, qui n'atteint plus assez
tôt les suivants (mesuré : un quart du débit)."""


@emitted
def integer_tile(
    builder: Any,
    bits: Any,
    columns: Any,
    strips: Any,
    codes: Any,
    codes_stride: Any,
    scales: Any,
    scales_stride: Any,
    x: Any,
    x_stride: Any,
    factors: Any,
    offsets: Any,
    factors_stride: Any,
    groups: Any,
    chunks: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """out (strips, columns, 16) += x (columns, ·) · bandes (strips, ·, 16), en fp32.

    `strips`, de 1 à TILE_STRIPS, et `columns`, de 1 à TILE_COLUMNS ; ou STREAMS bandes, et FEW
    activations au plus. `groups` groupes de `chunks` tours chacun. `scales` : les échelles bf16
    (groupe, 16) des poids ; `factors` et `offsets` : l'échelle fp32 des activations et le départ
    entier de la somme, par groupe. Les pas `codes`, `scales`, `out` séparent deux bandes, les
    autres deux activations.
    """
    rest = [codes, codes_stride, scales, scales_stride, x, x_stride, factors, offsets]
    rest += [factors_stride, groups, chunks, out, out_stride]
    key = builder.add(
        builder.shl(builder.add(builder.shl(bits, int64(3)), strips), int64(3)), columns
    )
    sizes = dict.fromkeys(range(1, TILE_STRIPS + 1), TILE_COLUMNS)
    sizes.setdefault(STREAMS, FEW)
    cases = {
        (b * 8 + s) * 8 + c: partial(tile, DOTS, b, c, s, rest)
        for b in BITS
        for s, most in sizes.items()
        for c in range(1, most + 1)
    }
    switch(builder, key, cases)


@emitted
def widen(builder: Any, bits: Any, codes: Any, chunks: Any, out: Any) -> None:
    """out reçoit les codes de `chunks` tours d'une bande sur 4 ou 6 bits, un par octet."""
    cases = {b: partial(_widen_case, b, [codes, chunks, out]) for b in BITS if b < 8}
    switch(builder, bits, cases)


def _widen_case(bits: int, arguments: Values, builder: Any) -> None:
    codes, chunks, out = arguments
    words = ir.VectorType(I32, DOTS.rows)

    def chunk(index: Any, nothing: Values) -> Values:
        here = builder.add(codes, builder.mul(index, int64(CHUNK * STRIP_ROWS * bits // 8)))
        prefetch(builder, add(builder, here, _AHEAD), CHUNK * STRIP_ROWS * bits // 8)
        there = builder.add(out, builder.mul(index, int64(CHUNK * STRIP_ROWS)))
        for row in range(0, STRIP_ROWS, DOTS.rows):
            steps = _steps(builder, bits, add(builder, here, STEP * row), words)
            for step, code in enumerate(steps):
                place = add(builder, there, _STEP_BYTES * step + STEP * row)
                builder.store(code, builder.inttoptr(place, words.as_pointer()), align=4)
        return nothing

    loop(builder, int64(0), chunks, [], chunk)


def tile(dots: Dots, bits: int, columns: int, strips: int, arguments: Values, builder: Any) -> None:
    """Une tuile, par les produits `dots` ; voir `integer_tile`."""
    codes, codes_stride, scales, scales_stride, x, x_stride, factors, offsets = arguments[:8]
    factors_stride, groups, chunks, out, out_stride = arguments[8:]
    words, floats = (ir.VectorType(kind, dots.rows) for kind in (I32, F32))
    places = range(0, STRIP_ROWS, dots.rows)  # première ligne de chaque vecteur d'une bande
    streams = [offset_by(builder, codes, codes_stride, s) for s in range(strips)]
    shares = [offset_by(builder, scales, scales_stride, s) for s in range(strips)]
    inputs = [offset_by(builder, x, x_stride, c) for c in range(columns)]
    size = dots.dtype().itemsize

    def chunk(first: Any, index: Any, totals: Values) -> Values:
        place = builder.add(first, index)
        at = builder.mul(place, int64(CHUNK * STRIP_ROWS * bits // 8))
        here = [builder.add(stream, at) for stream in streams]
        for each in here:
            prefetch(builder, add(builder, each, _AHEAD), CHUNK * STRIP_ROWS * bits // 8)
        at = builder.mul(place, int64(CHUNK * size))
        values = [builder.add(each, at) for each in inputs]
        decoders = [
            _steps(builder, bits, add(builder, each, STEP * row), words)
            for each in here
            for row in places
        ]
        for step in range(_STEPS):
            raw = [next(decoder) for decoder in decoders]
            weights = [dots.weights(builder, each, bits) for each in raw]
            done: Values = []
            for c, value in enumerate(values):
                operands = dots.inputs(builder, add(builder, value, STEP * size * step))
                for i, weight in enumerate(weights):
                    total = totals[c * len(weights) + i]
                    done.append(dots.accumulate(builder, total, weight, operands))
            totals = done
        return totals

    def group(index: Any, sums: Values) -> Values:
        at = builder.shl(index, int64(2))
        starts, each = [], strips * len(places)
        for c in range(columns):
            where = builder.add(offset_by(builder, offsets, factors_stride, c), at)
            starts += [splat(builder, load(builder, I32, where), dots.rows)] * each
        first = builder.mul(index, chunks)
        totals = loop(builder, int64(0), chunks, starts, partial(chunk, first))
        at_scales = builder.mul(index, int64(2 * STRIP_ROWS))
        weights = [
            bfloat16(builder, add(builder, builder.add(share, at_scales), 2 * row), dots.rows)
            for share in shares
            for row in places
        ]
        pairs = []
        for c in range(columns):
            where = builder.add(offset_by(builder, factors, factors_stride, c), at)
            factor = splat(builder, load(builder, F32, where), dots.rows)
            for i, weight in enumerate(weights):
                total = builder.sitofp(totals[c * each + i], floats)
                pairs.append((total, builder.fmul(weight, factor)))
        return add_products(builder, sums, pairs)

    line = 4 * STRIP_ROWS
    outputs = [
        add(builder, offset_by(builder, out, out_stride, s), line * c + 4 * row)
        for c in range(columns)
        for s in range(strips)
        for row in places
    ]
    sums = [load(builder, floats, address) for address in outputs]
    sums = loop(builder, int64(0), groups, sums, group)
    for address, total in zip(outputs, sums, strict=True):
        builder.store(total, builder.inttoptr(address, floats.as_pointer()), align=4)


def _steps(builder: Any, bits: int, address: Any, words: Any) -> Iterator[Any]:
    """Les huit pas d'un tour, en mots de 32 bits d'octets non signés ; voir `IntegerStrips`."""

    def read(line: int) -> Any:
        return load(builder, words, add(builder, address, _STEP_BYTES * line))

    def masked(value: Any, shift: int, mask: int) -> Any:
        """value · 2^shift, réduit aux bits `mask` de chaque octet."""
        amount = ir.Constant(words, [abs(shift)] * words.count)
        if shift:
            value = builder.shl(value, amount) if shift > 0 else builder.lshr(value, amount)
        return builder.and_(value, ir.Constant(words, [mask * 0x01010101] * words.count))

    high = None
    for step in range(_STEPS):
        if bits == 8:
            yield read(step)
            continue
        if step % 2 == 0:
            both = read(step // 2)
        code = masked(both, -4 * (step % 2), 15)
        if bits == 6:
            if step % 4 == 0:
                high = read(_STEPS // 2 + step // 4)
            code = builder.or_(code, masked(high, 4 - 2 * (step % 4), 0x30))
        yield code


def bfloat16(builder: Any, address: Any, count: int) -> Any:
    """`count` valeurs bf16 qui se suivent, en fp32."""
    half = builder.zext(
        load(builder, ir.VectorType(I16, count), address), ir.VectorType(I32, count)
    )
    word = builder.shl(half, ir.Constant(half.type, [16] * count))
    return builder.bitcast(word, ir.VectorType(F32, count))
