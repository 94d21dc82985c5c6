"""Le plus de multiplications-additions d'octets que le processeur fait : la borne des entiers.

Une boucle qui ne lit rien : `CHAINS` sommes int32 tenues dans les registres, chacune attendue
seulement par la suivante. L'instruction est `vpdpbusd` (quatre produits d'octets par voie) là où
le processeur a VNNI, sinon `vpmaddwd` (deux produits de mots) et une addition.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from llvmlite import binding, ir

from gpt_architecture.kernels.runtime.kernel import Integer, Lots, Place, emitted, kernel, launch
from gpt_architecture.kernels.runtime.vector_ir import I16, I32, Values, int64, loop, splat

CHAINS = 12  # plus que la latence d'un produit fois ceux d'un cycle ; un registre chacune
TURNS = 20_000  # par lot : un dixième de milliseconde
LOTS = 64
READINGS = 9  # d'une mesure : un fil arrêté par un voisin n'en fausse que quelques-uns

_HOST = binding.get_host_cpu_features()
_VNNI = {
    16: bool(_HOST.get("avx512vnni")),
    8: bool(_HOST.get("avxvnni") or (_HOST.get("avx512vnni") and _HOST.get("avx512vl"))),
}
"""Voies int32 d'un registre → le processeur y a `vpdpbusd`."""
HAS_X86 = bool(_HOST.get("avx2"))
LANES = 16 if _VNNI[16] else 8
PER_LANE = 4 if _VNNI[LANES] else 2


def _product(builder: Any) -> Callable[[Any, Any], Any]:
    """(sommes, facteurs) → sommes suivantes, en l'instruction de cette machine."""
    sums = ir.VectorType(I32, LANES)
    if PER_LANE == 4:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * LANES}"
        kind = ir.FunctionType(sums, [sums, sums, sums])
        function = ir.Function(builder.module, kind, name)
        return lambda total, other: builder.call(function, [total, other, other])
    words = ir.VectorType(I16, 2 * LANES)
    function = ir.Function(
        builder.module, ir.FunctionType(sums, [words, words]), "llvm.x86.avx2.pmadd.wd"
    )

    def madd(total: Any, other: Any) -> Any:  # qui dépend de la somme : sinon il sortirait du tour
        found = builder.call(function, [builder.bitcast(each, words) for each in (total, other)])
        return builder.add(found, other)

    return madd


@emitted
def multiply(builder: Any, turns: Any, out: Any) -> None:
    """`turns` tours de CHAINS produits ; leur somme est écrite à l'adresse `out`."""
    times = _product(builder)
    start = [splat(builder, ir.Constant(I32, i), LANES) for i in range(CHAINS)]
    other = splat(builder, builder.trunc(turns, I32), LANES)

    def body(_index: Any, totals: Values) -> Values:
        return [times(total, other) for total in totals]

    totals = loop(builder, int64(0), turns, start, body)
    total = totals[0]
    for each in totals[1:]:
        total = builder.add(total, each)
    builder.store(total, builder.inttoptr(out, total.type.as_pointer()), align=4)


@kernel
def integer_peak_(lots: Lots, turns: Integer, out: Place) -> None:
    """out (n, 16) int32 : une ligne par lot."""
    for lot in lots:
        multiply(turns, out.address + 64 * lot)


class IntegerPeak:
    """Les multiplications-additions d'entiers de tous les fils, le plus vite possible."""

    def __init__(self) -> None:
        self._out = torch.zeros(LOTS, 16, dtype=torch.int32)
        self.products = LOTS * TURNS * CHAINS * LANES * PER_LANE

    def __call__(self) -> float:
        """Secondes pour `products` multiplications-additions : la médiane de plusieurs relevés."""
        found = []
        for _ in range(READINGS):
            start = time.perf_counter()
            launch(integer_peak_, LOTS, TURNS, self._out)
            found.append(time.perf_counter() - start)
        return statistics.median(found)
