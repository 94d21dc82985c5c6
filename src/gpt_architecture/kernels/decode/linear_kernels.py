"""Les produits « poids × quelques activations » : la lecture des poids fixe leur durée.

Un lot est un bloc de lignes d'une matrice de poids, lu une fois et employé pour toutes les
activations. Les noyaux diffèrent par le format des poids, et `linear_apart_` par l'ordre de ses
sommes. Leurs arguments, dans l'ordre :

0. activations présentes, M ;
1. x (hauteur, D) : fp32, ou codes sur 16 bits pour des poids entiers ;
2. adresses des parties, matrices de même forme qui se lisent comme une seule, empilées ;
3. lignes d'une partie ;
4. lignes d'un bloc ;
5. biais (N,), ou vide ;
6. mode ;
7. out (hauteur, N) ;
8. résidu (hauteur, N), ou vide ;
9. pour des poids entiers, leur nombre de bits, 8 ou 4 ;
10. poids d'un groupe ;
11. adresses des échelles (bf16) des parties ;
12. échelles de x (hauteur,).

Formes : M activations, D largeur (complétée à un nombre entier de groupes pour des entiers), N
lignes de poids en tout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from gpt_architecture.kernels.decode.dot_tiles import (
    FLOAT_COLUMNS,
    INTEGER_COLUMNS,
    UNIT,
    float_dots,
    integer_dots,
)
from gpt_architecture.kernels.runtime.arithmetic import FAST, exp
from gpt_architecture.kernels.runtime.threads import (
    address,
    claim,
    count,
    extent,
    integer,
    integers,
    kernel,
    matrix,
    vector,
    words,
)

PLAIN, GELU, RESIDUAL = 0, 1, 2
"""Modes : out = xW + b ; out = gelu(xW + b) ; résidu += xW + b, où out sert de brouillon."""

_F = np.float32
_GELU_A, _GELU_B = _F(math.sqrt(2.0 / math.pi)), _F(0.044715)


@njit
def _float_rows(d: Any, part: Any, first: Any, last: Any, m: Any, columns: Any) -> None:
    """Lignes first … last d'une partie contre les activations m … m + columns."""
    width, out_stride = extent(d, 1, 1), 4 * extent(d, 7, 1)
    stride = 4 * width
    x = address(d, 1) + stride * m
    weight = integers(d, 2)[part] + stride * first
    out = address(d, 7) + out_stride * m + 4 * (part * integer(d, 3) + first)
    for _ in range(last - first):
        float_dots(columns, weight, x, stride, width, out, out_stride)
        weight += stride
        out += 4


@njit
def _apart_rows(d: Any, part: Any, first: Any, last: Any, active: Any) -> None:
    """Lignes first … last d'une partie contre chaque activation, sommée comme si elle était seule.

    La ligne, lue pour la première, est encore dans le plus proche des caches pour les suivantes.
    """
    width, out_stride = extent(d, 1, 1), 4 * extent(d, 7, 1)
    stride = 4 * width
    weight = integers(d, 2)[part] + stride * first
    out = address(d, 7) + 4 * (part * integer(d, 3) + first)
    for _ in range(last - first):
        for m in range(active):
            x = address(d, 1) + stride * m
            float_dots(1, weight, x, stride, width, out + out_stride * m, out_stride)
        weight += stride
        out += 4


@njit
def _integer_rows(d: Any, part: Any, first: Any, last: Any, m: Any, columns: Any) -> None:
    """Voir `_float_rows`."""
    width, bits, group = extent(d, 1, 1), integer(d, 9), integer(d, 10)
    stride, scale_stride, x_stride = width * bits // 8, 2 * (width // group), 2 * width
    out_stride = 4 * extent(d, 7, 1)
    x = address(d, 1) + x_stride * m
    codes = integers(d, 2)[part] + stride * first
    scales = integers(d, 11)[part] + scale_stride * first
    out = address(d, 7) + out_stride * m + 4 * (part * integer(d, 3) + first)
    for _ in range(last - first):
        integer_dots(
            bits, group, columns, codes, scales, x, x_stride, width // UNIT, out, out_stride
        )
        codes += stride
        scales += scale_stride
        out += 4


@njit(inline="always", fastmath=FAST, error_model="numpy")
def gelu(x: Any) -> Any:
    """GELU, approximation tanh : tanh(u) = 1 − 2 / (e^{2u} + 1)."""
    u = _GELU_A * (x + _GELU_B * x * x * x)
    return x - x / (exp(u + u) + _F(1.0))


@njit(fastmath=FAST, error_model="numpy")
def finish(d: Any, m: Any, start: Any, stop: Any) -> None:
    """Biais, puis activation ou résidu, des colonnes start … stop de la ligne m de `out`."""
    bias, mode, out = vector(d, 5), integer(d, 6), matrix(d, 7)
    if bias.size > 0:
        for n in range(start, stop):
            out[m, n] += bias[n]
    if mode == GELU:
        for n in range(start, stop):
            out[m, n] = gelu(out[m, n])
    elif mode == RESIDUAL:
        residual = matrix(d, 8)
        for n in range(start, stop):
            residual[m, n] += out[m, n]


@njit(fastmath=FAST, error_model="numpy")
def _rescale(d: Any, m: Any, start: Any, stop: Any) -> None:
    """Ramène à leur échelle les produits de codes de l'activation m."""
    out, factor = matrix(d, 7), vector(d, 12)[m]
    for n in range(start, stop):
        out[m, n] *= factor


@njit
def block_of(d: Any, item: Any) -> Any:
    """(partie, première ligne, dernière exclue) d'un lot."""
    per_part, size = integer(d, 3), integer(d, 4)
    blocks = (per_part + size - 1) // size
    first = (item % blocks) * size
    return item // blocks, first, min(first + size, per_part)


@kernel
def linear_float_(data: Any) -> None:
    """Poids fp32 ; une partie est (lignes, D)."""
    d = words(data)
    active = integer(d, 0)
    item = claim(data)
    while item < count(d):
        part, first, last = block_of(d, item)
        for m in range(0, active, FLOAT_COLUMNS):
            _float_rows(d, part, first, last, m, min(active - m, FLOAT_COLUMNS))
        base = part * integer(d, 3)
        for m in range(active):
            finish(d, m, base + first, base + last)
        item = claim(data)


@kernel
def linear_apart_(data: Any) -> None:
    """Comme `linear_float_`, mais chaque activation reçoit les bits qu'elle aurait seule."""
    d = words(data)
    active = integer(d, 0)
    item = claim(data)
    while item < count(d):
        part, first, last = block_of(d, item)
        _apart_rows(d, part, first, last, active)
        base = part * integer(d, 3)
        for m in range(active):
            finish(d, m, base + first, base + last)
        item = claim(data)


@kernel
def linear_integer_(data: Any) -> None:
    """Poids entiers ; une partie est (lignes, D) octets signés, ou (lignes, D/2) octets."""
    d = words(data)
    active = integer(d, 0)
    item = claim(data)
    while item < count(d):
        part, first, last = block_of(d, item)
        for m in range(0, active, INTEGER_COLUMNS):
            _integer_rows(d, part, first, last, m, min(active - m, INTEGER_COLUMNS))
        base = part * integer(d, 3)
        for m in range(active):
            _rescale(d, m, base + first, base + last)
            finish(d, m, base + first, base + last)
        item = claim(data)
