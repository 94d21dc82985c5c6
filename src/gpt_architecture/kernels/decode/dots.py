"""Comment la machine multiplie des octets : l'instruction, et la forme qu'elle veut.

Un vecteur de poids porte quatre octets non signés (q + décalage) de chacune de ses lignes ; les
quatre activations, signées, sont diffusées dans toutes ses voies ; la somme des quatre produits de
chaque ligne s'ajoute, exacte, à un total de 32 bits. Toutes les façons rendent donc les mêmes
entiers.

* `Vnni` : `vpdpbusd`, en 512 ou 256 bits (AVX512-VNNI, AVX-VNNI).
* `Sdot` : le produit scalaire d'ARM ; il veut des poids signés.
* `Pairs` : partout ailleurs. Les octets de rang pair et impair sont étendus à 16 bits, et leurs
  produits ajoutés deux à deux : `vpmaddwd` sur x86.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from llvmlite import ir

from gpt_architecture.kernels.decode.weights import STEP
from gpt_architecture.kernels.runtime.vector_ir import (
    FEATURES,
    HAS_AVX512,
    I8,
    I16,
    I32,
    Values,
    add,
    load,
    splat,
)


class Dots(ABC):
    """Une façon de multiplier.

    Attributes:
        rows: lignes d'un vecteur.
        dtype: type NumPy d'une activation.
        order: rang où ranger chacune des quatre activations d'un pas.
    """

    rows: int
    dtype: type[np.signedinteger[Any]] = np.int8
    order = (0, 1, 2, 3)

    def bias(self, bits: int) -> int:
        """Ce que chaque poids a de trop dans les produits."""
        return 1 << (bits - 1)

    def weights(self, builder: Any, raw: Any, bits: int) -> Values:
        """Les opérandes d'un vecteur de poids, mots de 32 bits d'octets non signés."""
        del builder, bits
        return [raw]

    def inputs(self, builder: Any, address: Any) -> Values:
        """Les opérandes des quatre activations à cette adresse."""
        return [splat(builder, load(builder, I32, address), self.rows)]

    @abstractmethod
    def accumulate(self, builder: Any, total: Any, weights: Values, inputs: Values) -> Any:
        """total + les produits."""


class Vnni(Dots):
    """VNNI, par vecteurs de seize lignes ou de huit."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def accumulate(self, builder: Any, total: Any, weights: Values, inputs: Values) -> Any:
        """Voir `Dots`."""
        kind = total.type
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.rows}"
        function = ir.FunctionType(kind, [kind, kind, kind])
        call = builder.module.declare_intrinsic(name, (), function)
        return builder.call(call, [total, *weights, *inputs])


class Sdot(Dots):
    """Le produit scalaire d'ARM, par vecteurs de quatre lignes."""

    rows = 4

    def bias(self, bits: int) -> int:
        """Voir `Dots` ; sur 8 bits, le décalage est ôté des poids."""
        return 0 if bits == 8 else super().bias(bits)

    def weights(self, builder: Any, raw: Any, bits: int) -> Values:
        """Voir `Dots`."""
        octets = ir.VectorType(I8, STEP * self.rows)
        if bits == 8:
            raw = builder.xor(raw, ir.Constant(raw.type, [-0x7F7F7F80] * self.rows))
        return [builder.bitcast(raw, octets)]

    def inputs(self, builder: Any, address: Any) -> Values:
        """Voir `Dots`."""
        (word,) = super().inputs(builder, address)
        return [builder.bitcast(word, ir.VectorType(I8, STEP * self.rows))]

    def accumulate(self, builder: Any, total: Any, weights: Values, inputs: Values) -> Any:
        """Voir `Dots`."""
        octets = weights[0].type
        function = ir.FunctionType(total.type, [total.type, octets, octets])
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        call = builder.module.declare_intrinsic(name, (), function)
        return builder.call(call, [total, *weights, *inputs])


class Pairs(Dots):
    """Des octets étendus à 16 bits, par paires."""

    dtype = np.int16
    order = (0, 2, 1, 3)  # les rangs pairs, puis les impairs

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def weights(self, builder: Any, raw: Any, bits: int) -> Values:
        """Voir `Dots`."""
        del bits
        words = ir.VectorType(I16, 2 * self.rows)
        mask, shift = (ir.Constant(words, [value] * words.count) for value in (255, 8))
        pairs = builder.bitcast(raw, words)
        return [builder.and_(pairs, mask), builder.lshr(pairs, shift)]

    def inputs(self, builder: Any, address: Any) -> Values:
        """Voir `Dots`."""
        words = ir.VectorType(I16, 2 * self.rows)
        found = [
            splat(builder, load(builder, I32, add(builder, address, i)), self.rows) for i in (0, 4)
        ]
        return [builder.bitcast(each, words) for each in found]

    def accumulate(self, builder: Any, total: Any, weights: Values, inputs: Values) -> Any:
        """Voir `Dots` ; LLVM reconnaît `vpmaddwd` dans ces produits."""
        wide = ir.VectorType(I32, 2 * self.rows)
        places = [ir.Constant(total.type, list(range(i, 2 * self.rows, 2))) for i in (0, 1)]
        for a, b in zip(weights, inputs, strict=True):
            products = builder.mul(builder.sext(a, wide), builder.sext(b, wide), flags=("nsw",))
            even, odd = (builder.shuffle_vector(products, products, each) for each in places)
            total = builder.add(total, builder.add(even, odd))
        return total


def _machine() -> Dots:
    """Celle de cette machine."""
    if FEATURES.get("avx512vnni") and HAS_AVX512:
        return Vnni(16)
    if FEATURES.get("avxvnni"):
        return Vnni(8)
    if FEATURES.get("dotprod"):
        return Sdot()
    return Pairs(16 if HAS_AVX512 else 8)


DOTS = _machine()
"""La façon de cette machine."""
