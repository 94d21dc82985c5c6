"""Petites fonctions des noyaux compilés : exponentielle, GELU, normes, mélangeur, masques."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Libertés laissées au compilateur ; ni « nnan » ni « ninf » : un NaN doit se voir."""

_F = np.float32
_INLINE: dict[str, Any] = {
    "inline": "always",
    "fastmath": FAST,
    "cache": True,
    "error_model": "numpy",
}
GELU_SLOPE, GELU_CUBE = _F(math.sqrt(2.0 / math.pi)), _F(0.044715)
_LOG2E, _LN2_HI, _LN2_LO = _F(1.4426950408889634), _F(0.693359375), _F(-2.12194440e-4)


@intrinsic
def rounded(_typingctx: Any, target: Any, value: Any) -> Any:
    """`value` (fp32) telle que le tableau `target` la range : en bf16, au plus proche, ou en fp32.

    L'arrondi est fait sur les entiers : les mêmes bits sur tout processeur. Un NaN reste un NaN.
    """
    del value

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        x = arguments[1]
        if target.dtype != types.uint16:
            return x
        word, short = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(x, word)
        shift = ir.Constant(word, 16)
        odd = builder.and_(builder.lshr(bits, shift), ir.Constant(word, 1))
        near = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        is_nan = builder.fcmp_unordered("uno", x, x)
        near = builder.select(is_nan, ir.Constant(word, 0x7FC00000), near)
        return builder.trunc(builder.lshr(near, shift), short)

    kind = types.uint16 if target.dtype == types.uint16 else types.float32
    return kind(target, types.float32), codegen


@intrinsic
def widened(_typingctx: Any, value: Any) -> Any:
    """Un élément lu d'un tableau, en fp32 : bf16, rangé comme uint16, ou déjà fp32."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (x,) = arguments
        if value != types.uint16:
            return x
        word = ir.IntType(32)
        bits = builder.shl(builder.zext(x, word), ir.Constant(word, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), codegen


@njit(**_INLINE)
def exp(x: Any) -> Any:
    """Exponentielle fp32 vectorisable, à 2 ulp près ; x est ramené dans [−87, 88].

    Réduction de Cody et Waite, polynôme de la bibliothèque Cephes (S. Moshier).
    """
    x = _F(-87.0) if x < _F(-87.0) else x  # un NaN reste un NaN
    x = _F(88.0) if x > _F(88.0) else x
    n = np.int32(np.floor(x * _LOG2E + _F(0.5)))
    k = _F(n)
    r = x - k * _LN2_HI - k * _LN2_LO
    y = _F(1.9875691500e-4)
    y = y * r + _F(1.3981999507e-3)
    y = y * r + _F(8.3334519073e-3)
    y = y * r + _F(4.1665795894e-2)
    y = y * r + _F(1.6666665459e-1)
    y = y * r + _F(5.0000001201e-1)
    y = y * r * r + r + _F(1.0)
    return y * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**_INLINE)
def gelu(x: Any) -> Any:
    """GELU, approximation tanh : tanh(u) = 1 − 2 / (e^{2u} + 1)."""
    u = GELU_SLOPE * (x + GELU_CUBE * x * x * x)
    return x - x / (exp(u + u) + _F(1.0))


@njit(**_INLINE)
def mix32(x: Any) -> Any:
    """lowbias32 ; voir `keyed_dropout`."""
    # Numba calcule les entiers en 64 bits : chaque produit est ramené à 32.
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(**_INLINE)
def fill_multipliers(out: Any, keys: Any, index: Any, row: Any, drop: Any, scale: Any) -> None:
    """Écrit dans `out` (colonnes,) le facteur, `scale` ou 0, de chaque élément d'une ligne.

    Ligne `row` de la séquence `index` ; `keys` (2·B,) : clés basses et hautes des séquences.
    """
    low, high = np.uint32(keys[2 * index]), np.uint32(keys[2 * index + 1])
    key = np.uint32(mix32(np.uint32(low ^ np.uint32(row * 0x9E3779B9))) + high)
    half, limit = (out.size + 1) // 2, np.uint32(drop)
    for j in range(half):
        word = mix32(np.uint32(key ^ np.uint32(j)))
        out[j] = scale if np.uint32(word & np.uint32(0xFFFF)) >= limit else _F(0.0)
    for j in range(out.size - half):
        word = mix32(np.uint32(key ^ np.uint32(j)))
        out[half + j] = scale if np.uint32(word >> np.uint32(16)) >= limit else _F(0.0)


@njit(**_INLINE)
def mean_and_variance(x: Any) -> Any:
    """Moyenne et variance d'une ligne x (D,), pour une norme."""
    total = _F(0.0)
    for j in range(x.size):
        total += x[j]
    mean = total / _F(x.size)
    total = _F(0.0)
    for j in range(x.size):
        centered = x[j] - mean
        total += centered * centered
    return mean, total / _F(x.size)


@njit(**_INLINE)
def moments(x: Any) -> Any:
    """Moyenne et 1/écart-type d'une ligne x (D,)."""
    mean, variance = mean_and_variance(x)
    return mean, _F(1.0) / np.sqrt(variance + _F(1e-5))
