"""De quoi écrire des boucles vectorielles en IR de LLVM, pour les tuiles des noyaux."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import binding, ir
from numba.core import codegen, config

I64, I32, I16, I8 = (ir.IntType(bits) for bits in (64, 32, 16, 8))
F32 = ir.FloatType()
LANES = 8
"""Valeurs fp32 d'un vecteur : un registre d'AVX2."""

FLOATS = ir.VectorType(F32, LANES)


def _features() -> dict[str, bool]:
    """Les jeux d'instructions que Numba emploiera, ses réglages compris.

    Une instruction qu'il ne saurait pas écrire arrêterait le processus.
    """
    asked: str | None = config.CPU_FEATURES
    text: str = codegen.get_host_cpu_features() if asked is None else asked  # type: ignore[no-untyped-call]
    return {each[1:]: each[0] == "+" for each in text.split(",") if each}


FEATURES = _features()
HAS_AVX512 = bool(FEATURES.get("avx512f") and FEATURES.get("avx512bw"))
"""Vrai si la machine a des registres deux fois plus larges, et deux fois plus nombreux."""

_CPU: str = config.CPU_NAME or binding.get_host_cpu_name()

STREAMS = 4 if HAS_AVX512 and not _CPU.startswith("znver") else 1
"""Lectures qu'un thread mène de front quand il ne fait que lire des poids.

Un Xeon (Ice Lake) cesse d'anticiper à chaque page de 4 Kio : par une lecture à la fois sur
chacun des deux cœurs, 23,5 Go/s ; par quatre, 27,5. Un Zen 5 va au plus vite par une seule.
"""
FUSE = ("contract", "nsz")
"""Libertés des sommes de produits : une seule instruction, signe de zéro sans importance."""

Values = list[Any]


def add_products(builder: Any, totals: Values, pairs: list[tuple[Any, Any]]) -> Values:
    """totals + a · b, en une instruction là où la machine en a une."""
    return [
        builder.fadd(total, builder.fmul(a, b, flags=FUSE), flags=FUSE)
        for total, (a, b) in zip(totals, pairs, strict=True)
    ]


def prefetch(builder: Any, address: Any, size: int) -> None:
    """Demande les lignes de cache des `size` octets à cette adresse, avant d'en avoir besoin."""
    byte = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    for offset in range(0, size, 64):
        where = builder.inttoptr(add(builder, address, offset), byte)
        builder.call(function, [where, read, keep, data])


def switch(builder: Any, value: Any, cases: Mapping[int, Callable[[Any], None]]) -> None:
    """Émet chaque cas et saute à celui de `value` ; une valeur imprévue ne fait rien."""
    after = builder.append_basic_block("after")
    choice = builder.switch(value, after)
    for key, emit in cases.items():
        block = builder.append_basic_block("case")
        choice.add_case(int64(key), block)
        builder.position_at_end(block)
        emit(builder)
        builder.branch(after)
    builder.position_at_end(after)


def loop(
    builder: Any, start: Any, stop: Any, values: Values, body: Callable[[Any, Values], Values]
) -> Values:
    """`for index in range(start, stop): values = body(index, values)` ; rend les dernières."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(start, before)
    carried = [builder.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
    builder.position_at_end(inside)
    results = body(index, carried)
    index.add_incoming(builder.add(index, int64(1)), builder.block)
    for phi, result in zip(carried, results, strict=True):
        phi.add_incoming(result, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def accumulate(
    builder: Any,
    outputs: Values,
    length: Any,
    unroll: int,
    ahead: Callable[[Any], None],
    one: Callable[[Any, Values], Values],
    *,
    kind: Any = FLOATS,
) -> None:
    """Ajoute `length` colonnes aux vecteurs `kind` que portent les adresses `outputs`.

    `one(colonne, sommes)` en ajoute une ; `ahead(colonne)` demande d'avance ce que liront les
    `unroll` suivantes.
    """

    def several(index: Any, sums: Values) -> Values:
        first = builder.mul(index, int64(unroll))
        ahead(first)
        for i in range(unroll):
            sums = one(builder.add(first, int64(i)), sums)
        return sums

    sums = [load(builder, kind, address) for address in outputs]
    whole = builder.udiv(length, int64(unroll))
    sums = loop(builder, int64(0), whole, sums, several)
    sums = loop(builder, builder.mul(whole, int64(unroll)), length, sums, one)
    for address, total in zip(outputs, sums, strict=True):
        builder.store(total, builder.inttoptr(address, kind.as_pointer()), align=4)


def splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    """Une valeur de 32 bits dans toutes les voies d'un vecteur."""
    blank = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(blank, value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, blank, zeros)


def load(builder: Any, kind: Any, address: Any) -> Any:
    """Valeur à cette adresse, alignée ou non."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def add(builder: Any, address: Any, offset: int) -> Any:
    """address + offset octets."""
    return builder.add(address, int64(offset)) if offset else address


def offset_by(builder: Any, address: Any, stride: Any, times: int) -> Any:
    """address + times · stride octets."""
    return builder.add(address, builder.mul(stride, int64(times))) if times else address


def int64(value: int) -> Any:
    """Constante entière sur 64 bits."""
    return ir.Constant(I64, value)


def fold(builder: Any, sums: Values, columns: int) -> Values:
    """Une somme par colonne : vecteurs de même colonne (une puissance de deux), puis voies.

    Toujours par moitiés et dans cet ordre : des vecteurs deux fois plus larges, deux fois moins
    nombreux, donnent les mêmes bits.
    """
    while len(sums) > columns:
        half = len(sums) // 2
        sums = _sums_of(builder, sums[:half], sums[half:])
    return [_sum_lanes(builder, total) for total in sums]


def _sum_lanes(builder: Any, vector: Any) -> Any:
    """Somme des voies, par moitiés."""
    while (half := vector.type.count // 2) > 1:
        low, high = _halves(builder, vector, half)
        (vector,) = _sums_of(builder, [low], [high])
    low, high = (builder.extract_element(vector, ir.Constant(I32, i)) for i in (0, 1))
    return _sums_of(builder, [low], [high])[0]


def _sums_of(builder: Any, first: Values, second: Values) -> Values:
    """Sommes deux à deux ; sans `FUSE`, le compilateur pourrait les réassocier."""
    return [builder.fadd(a, b, flags=FUSE) for a, b in zip(first, second, strict=True)]


def _halves(builder: Any, vector: Any, half: int) -> Values:
    lanes = ir.VectorType(I32, half)
    return [
        builder.shuffle_vector(vector, vector, ir.Constant(lanes, list(range(i, i + half))))
        for i in (0, half)
    ]


def store_columns(builder: Any, totals: Values, out: Any, out_stride: Any) -> None:
    """Écrit chaque somme, en fp32, à `out + colonne · out_stride`."""
    for column, value in enumerate(totals):
        address = offset_by(builder, out, out_stride, column)
        builder.store(value, builder.inttoptr(address, F32.as_pointer()), align=4)
