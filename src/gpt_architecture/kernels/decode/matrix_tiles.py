"""Les mêmes produits d'entiers que `integer_tiles`, par les registres de matrices (AMX).

Un tel registre porte seize lignes de 64 octets ; `tdpbsud` ajoute à un registre de 16 × 16 totaux
de 32 bits le produit de seize activations (signées, 64 colonnes au plus) par seize lignes de poids
(non signés). Un pas d'une bande, quatre colonnes de seize lignes, est exactement une ligne du
second : la bande se charge telle quelle. Une tuile fait jusqu'à 32 activations contre deux bandes.

Les sommes d'un groupe étant entières et exactes, et leur conversion la même, ce sont les bits
d'`integer_tiles`. Les adresses et les pas sont en octets.
"""

from __future__ import annotations

import ctypes
import platform
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from gpt_architecture.kernels.decode.dots import DOTS, Vnni
from gpt_architecture.kernels.decode.integer_tiles import bfloat16
from gpt_architecture.kernels.decode.weights import CHUNK, STRIP_ROWS
from gpt_architecture.kernels.runtime.kernel import emitted
from gpt_architecture.kernels.runtime.vector_ir import (
    F32,
    FEATURES,
    I8,
    I32,
    I64,
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

MATRIX_COLUMNS = 32
"""Activations d'une tuile, contre deux bandes : quatre registres de totaux, deux d'activations,
deux de poids, tous ceux de la machine."""

_KNOWN = isinstance(DOTS, Vnni) and bool(FEATURES.get("amx-int8") and FEATURES.get("amx-tile"))
_ROWS = 16  # lignes d'un registre
_LINE = 4 * STRIP_ROWS  # octets d'une ligne de totaux
_SUMS, _INPUTS, _WEIGHTS = 0, 4, 6  # premier registre des totaux, des activations, des poids


def _granted() -> bool:
    """Vrai si le système laisse ce processus employer ces registres ; Linux veut qu'on le demande.

    La permission, acquise par tous les threads et par les processus nés d'un `fork`, ne se rend
    pas.
    """
    if not _KNOWN or platform.system() != "Linux":
        return False
    arch_prctl, ask, tile_data = 158, 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return int(ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, ask, tile_data)) == 0


GRANTED = _granted()
"""Vrai si les registres de matrices sont là, et permis."""

NEVER = 1 << 30
LEAST = 8 if GRANTED else NEVER
"""Activations dès lesquelles un pas va plus vite par ces registres que par les vecteurs (mesuré :
0,96 fois à six, 1,08 à huit, 1,2 à trente-deux)."""


def _call(builder: Any, name: str, *arguments: Any) -> None:
    """Une instruction de ces registres."""
    kind = ir.FunctionType(ir.VoidType(), [each.type for each in arguments])
    function = builder.module.declare_intrinsic(f"llvm.x86.{name}", (), kind)
    builder.call(function, list(arguments))


def _move(builder: Any, name: str, register: int, address: Any, stride: Any) -> None:
    """Charge ou range un registre, une ligne tous les `stride` octets."""
    where = builder.inttoptr(address, I8.as_pointer())
    _call(builder, name, ir.Constant(I8, register), where, stride)


@emitted
def shape_registers(builder: Any, depth: Any) -> None:
    """Donne aux registres de ce thread leur forme, pour `depth` colonnes (32 ou 64) à la fois."""
    if _KNOWN:
        switch(builder, depth, {each: partial(_shape, each) for each in (CHUNK, 2 * CHUNK)})


def _shape(depth: int, builder: Any) -> None:
    """Voir l'instruction `ldtilecfg` : octets d'une ligne, puis nombre de lignes, par registre."""
    widths = [64] * _INPUTS + [depth] * 2 + [64] * 2
    rows = [_ROWS] * _WEIGHTS + [depth // 4] * 2
    octets = bytes([1]) + bytes(15) + b"".join(each.to_bytes(2, "little") for each in widths)
    octets = (octets + bytes(16) + bytes(rows)).ljust(64, b"\0")
    image = cgutils.make_bytearray(octets)  # type: ignore[no-untyped-call]
    content = cgutils.alloca_once_value(builder, image)  # type: ignore[no-untyped-call]
    _call(builder, "ldtilecfg", builder.bitcast(content, I8.as_pointer()))


@emitted
def free_registers(builder: Any) -> None:
    """Rend les registres : un thread qui en garde coûte davantage à interrompre."""
    if _KNOWN:
        _call(builder, "tilerelease")


@emitted
def matrix_tile(
    builder: Any,
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
    steps: Any,
    depth: Any,
    out: Any,
    out_stride: Any,
    ahead: Any,
    lines: Any,
) -> None:
    """Comme `integer_tile` sur 8 bits, de 1 à MATRIX_COLUMNS activations, une ou deux bandes.

    `steps` tours de `depth` colonnes par groupe. Un nombre entier de fois seize activations est lu,
    présentes ou non. À chaque registre de poids, `lines` lignes sont demandées d'avance, `ahead`
    octets plus loin.
    """
    rest = [columns, codes, codes_stride, scales, scales_stride, x, x_stride, factors, offsets]
    rest += [factors_stride, groups, steps, depth, out, out_stride, ahead, lines]
    halves = builder.lshr(builder.add(columns, int64(_ROWS - 1)), int64(4))
    key = builder.add(builder.shl(strips, int64(2)), halves)
    cases = {4 * s + h: partial(_tile, s, h, rest) for s in (1, 2) for h in (1, 2)}
    if _KNOWN:
        switch(builder, key, cases)


def _tile(strips: int, halves: int, arguments: Values, builder: Any) -> None:
    columns, codes, codes_stride, scales, scales_stride, x, x_stride = arguments[:7]
    factors, offsets, factors_stride, groups, steps, depth, out, out_stride = arguments[7:15]
    ahead, lines = arguments[15:]
    words = ir.VectorType(I32, STRIP_ROWS)
    size = _LINE * strips * halves * _ROWS
    kind = ir.ArrayType(words, 2 * size // _LINE)
    scratch = cgutils.alloca_once(builder, kind)  # type: ignore[no-untyped-call]
    totals = builder.ptrtoint(scratch, I64)  # de deux groupes : celui d'avant s'ajoute encore
    streams = [offset_by(builder, codes, codes_stride, s) for s in range(strips)]
    shares = [offset_by(builder, scales, scales_stride, s) for s in range(strips)]
    outputs = [offset_by(builder, out, out_stride, s) for s in range(strips)]
    inputs = [offset_by(builder, x, x_stride, _ROWS * h) for h in range(halves)]
    pairs = [(h, s) for h in range(halves) for s in range(strips)]

    def fetch(here: Values, index: Any, _: Values) -> Values:
        for each in here:
            prefetch(builder, builder.add(each, builder.mul(index, int64(64))), 64)
        return []

    def step(first: Any, index: Any, _: Values) -> Values:
        at = builder.mul(builder.add(first, index), depth)
        here = [builder.add(each, builder.mul(at, int64(STRIP_ROWS))) for each in streams]
        later = [builder.add(each, ahead) for each in here]
        loop(builder, int64(0), lines, [], partial(fetch, later))
        for s, each in enumerate(here):
            _move(builder, "tileloadd64", _WEIGHTS + s, each, int64(64))
        for h, each in enumerate(inputs):
            _move(builder, "tileloadd64", _INPUTS + h, builder.add(each, at), x_stride)
        for h, s in pairs:
            registers = (_SUMS + 2 * h + s, _INPUTS + h, _WEIGHTS + s)
            _call(builder, "tdpbsud", *(ir.Constant(I8, each) for each in registers))
        return []

    def multiply(index: Any) -> None:
        for h, s in pairs:
            _call(builder, "tilezero", ir.Constant(I8, _SUMS + 2 * h + s))
        loop(builder, int64(0), steps, [], partial(step, builder.mul(index, steps)))

    def place_of(index: Any) -> Any:
        return builder.add(totals, builder.mul(builder.and_(index, int64(1)), int64(size)))

    def store(index: Any) -> None:
        for h, s in pairs:
            place = add(builder, place_of(index), _LINE * (h * _ROWS * strips + s))
            _move(builder, "tilestored64", _SUMS + 2 * h + s, place, int64(_LINE * strips))

    def fold(index: Any) -> None:
        at, rank = builder.mul(index, int64(2 * STRIP_ROWS)), builder.shl(index, int64(2))
        weights = [bfloat16(builder, builder.add(share, at), STRIP_ROWS) for share in shares]
        numbers = [builder.add(each, rank) for each in (factors, offsets)]
        _fold(builder, columns, place_of(index), weights, numbers, factors_stride, outputs)

    def group(index: Any, _: Values) -> Values:
        multiply(index)
        fold(builder.sub(index, int64(1)))  # pendant que les registres multiplient
        store(index)
        return []

    multiply(int64(0))
    store(int64(0))
    loop(builder, int64(1), groups, [], group)
    fold(builder.sub(groups, int64(1)))


def _fold(
    builder: Any,
    columns: Any,
    totals: Any,
    weights: Values,
    numbers: Values,
    stride: Any,
    outputs: Values,
) -> None:
    """outputs += (totaux + départ) · échelles, pour les activations présentes.

    Args:
        totals: adresse des totaux (activations, bandes, 16) d'un groupe.
        weights: échelles des poids, par bande.
        numbers: adresses de l'échelle et du départ de la première activation, `stride` les sépare.
        outputs: adresses des sommes fp32 (activations, 16), par bande.
    """
    floats, words = ir.VectorType(F32, STRIP_ROWS), ir.VectorType(I32, STRIP_ROWS)

    def column(index: Any, _: Values) -> Values:
        mine = builder.mul(index, stride)
        factor, start = (
            splat(builder, load(builder, kind, builder.add(each, mine)), STRIP_ROWS)
            for kind, each in zip((F32, I32), numbers, strict=True)
        )
        row = builder.add(totals, builder.mul(index, int64(_LINE * len(weights))))
        for s, weight in enumerate(weights):
            found = load(builder, words, add(builder, row, _LINE * s))
            found = builder.sitofp(builder.add(found, start), floats)
            place = builder.add(outputs[s], builder.mul(index, int64(_LINE)))
            before = load(builder, floats, place)
            (after,) = add_products(builder, [before], [(found, builder.fmul(weight, factor))])
            builder.store(after, builder.inttoptr(place, floats.as_pointer()), align=4)
        return []

    loop(builder, int64(0), columns, [], column)
