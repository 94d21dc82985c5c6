"""Les noyaux qui avancent ligne par ligne : embeddings, normes, branches résiduelles, GELU.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques d'abandon au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de fils. Le début de chaque noyau nomme ses arguments, dans
l'ordre où `kernel.launch` les reçoit. `keys` (2·B,) porte les clés d'un endroit ; `drop` nul :
rien n'est abandonné.

Formes : N = B·T tokens d'un lot, D largeur, F largeur du perceptron, V vocabulaire.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import exp, fill_multipliers, row_key
from gpt_architecture.kernels.runtime.kernel import (
    claim,
    count,
    cube,
    integer,
    integers,
    kernel,
    matrix,
    real,
    vector,
    words,
)

ROW_BLOCK = 32
"""Lignes d'un lot : une réduction par lot."""

_F = np.float32
_GELU_A, _GELU_B = _F(math.sqrt(2.0 / math.pi)), _F(0.044715)


@kernel
def embed_(data: Any) -> None:
    """x (N, D) = abandon(embedding du token + embedding de la position), par bloc de lignes."""
    d = words(data)
    ids, tokens, positions, keys = integers(d, 0), matrix(d, 1), matrix(d, 2), integers(d, 3)
    length, drop, scale, x = integer(d, 4), integer(d, 5), real(d, 6), matrix(d, 7)
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            token, t = ids[n], n % length
            for j in range(width):
                x[n, j] = tokens[token, j] + positions[t, j]
            if drop > 0:
                fill_multipliers(factor, row_key(keys, n // length, t), width, drop, scale)
                for j in range(width):
                    x[n, j] *= factor[j]
        block = claim(data)


@kernel
def embed_backward_(data: Any) -> None:
    """dx (N, D) *= masque, sur place ; sa somme par position s'ajoute à positions (P, D)."""
    d = words(data)
    dx, keys, length, drop = matrix(d, 0), integers(d, 1), integer(d, 2), integer(d, 3)
    scale, positions = real(d, 4), matrix(d, 5)
    rows, width = dx.shape
    factor = np.empty(width, np.float32)
    t = claim(data)
    while t < count(d):
        for b in range(rows // length):
            n = b * length + t
            if drop > 0:
                fill_multipliers(factor, row_key(keys, b, t), width, drop, scale)
                for j in range(width):
                    dx[n, j] *= factor[j]
            for j in range(width):
                positions[t, j] += dx[n, j]
        t = claim(data)


@kernel
def scatter_rows_(data: Any) -> None:
    """gradient[token] += Σ dx des places du token, dans l'ordre ; un token par lot.

    `order` trie les places par token, `starts` délimite les tokens distincts : chaque ligne
    n'est écrite que par un fil.
    """
    d = words(data)
    order, starts, ids = integers(d, 0), integers(d, 1), integers(d, 2)
    dx, gradient = matrix(d, 3), matrix(d, 4)
    s = claim(data)
    while s < count(d):
        token = ids[order[starts[s]]]
        for i in range(starts[s], starts[s + 1]):
            n = order[i]
            for j in range(dx.shape[1]):
                gradient[token, j] += dx[n, j]
        s = claim(data)


@kernel
def layer_norm_(data: Any) -> None:
    """y (N, D) = norme(x) ; stats (N, 2) reçoit moyenne et 1/écart-type, par bloc de lignes."""
    d = words(data)
    x, gain, shift, y, stats = matrix(d, 0), vector(d, 1), vector(d, 2), matrix(d, 3), matrix(d, 4)
    rows, width = x.shape
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            total = _F(0.0)
            for j in range(width):
                total += x[n, j]
            mean = total / _F(width)
            total = _F(0.0)
            for j in range(width):
                centered = x[n, j] - mean
                total += centered * centered
            inverse = _F(1.0) / np.sqrt(total / _F(width) + _F(1e-5))
            stats[n, 0], stats[n, 1] = mean, inverse
            for j in range(width):
                y[n, j] = (x[n, j] - mean) * inverse * gain[j] + shift[j]
        block = claim(data)


@kernel
def normalize_again_(data: Any) -> None:
    """y (N, D) = norme(x), depuis les statistiques déjà calculées, par bloc de lignes."""
    d = words(data)
    x, gain, shift, y, stats = matrix(d, 0), vector(d, 1), vector(d, 2), matrix(d, 3), matrix(d, 4)
    rows, width = x.shape
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            mean, inverse = stats[n, 0], stats[n, 1]
            for j in range(width):
                y[n, j] = (x[n, j] - mean) * inverse * gain[j] + shift[j]
        block = claim(data)


@kernel
def layer_norm_backward_(data: Any) -> None:
    """dx (N, D) = (ou +=) dérivée de la norme ; partial (blocs, 2, D) : sommes de gain, shift."""
    d = words(data)
    dy, x, stats, gain = matrix(d, 0), matrix(d, 1), matrix(d, 2), vector(d, 3)
    dx, partial, keep = matrix(d, 4), cube(d, 5), real(d, 6)
    rows, width = x.shape
    block = claim(data)
    while block < count(d):
        for j in range(width):
            partial[block, 0, j] = _F(0.0)
            partial[block, 1, j] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            mean, inverse = stats[n, 0], stats[n, 1]
            first, second = _F(0.0), _F(0.0)
            for j in range(width):
                normal = (x[n, j] - mean) * inverse
                slope = dy[n, j] * gain[j]
                first += slope
                second += slope * normal
            first /= _F(width)
            second /= _F(width)
            for j in range(width):
                normal = (x[n, j] - mean) * inverse
                value = (dy[n, j] * gain[j] - first - normal * second) * inverse
                partial[block, 0, j] += dy[n, j] * normal
                partial[block, 1, j] += dy[n, j]
                dx[n, j] = dx[n, j] + value if keep > _F(0.0) else value
        block = claim(data)


@kernel
def residual_(data: Any) -> None:
    """out (N, D) = x + abandon(branch + bias), par bloc de lignes."""
    d = words(data)
    x, branch, bias, keys = matrix(d, 0), matrix(d, 1), vector(d, 2), integers(d, 3)
    length, drop, scale, out = integer(d, 4), integer(d, 5), real(d, 6), matrix(d, 7)
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                key = row_key(keys, n // length, n % length)
                fill_multipliers(factor, key, width, drop, scale)
                for j in range(width):
                    out[n, j] = x[n, j] + (branch[n, j] + bias[j]) * factor[j]
            else:
                for j in range(width):
                    out[n, j] = x[n, j] + (branch[n, j] + bias[j])
        block = claim(data)


@kernel
def residual_backward_(data: Any) -> None:
    """dbranch (N, D) = dx · masque ; partial (blocs, 1, D) en reçoit les sommes par bloc."""
    d = words(data)
    dx, keys, length, drop = matrix(d, 0), integers(d, 1), integer(d, 2), integer(d, 3)
    scale, dbranch, partial = real(d, 4), matrix(d, 5), cube(d, 6)
    rows, width = dx.shape
    factor = np.empty(width, np.float32)
    for j in range(width):
        factor[j] = _F(1.0)
    block = claim(data)
    while block < count(d):
        for j in range(width):
            partial[block, 0, j] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                key = row_key(keys, n // length, n % length)
                fill_multipliers(factor, key, width, drop, scale)
            for j in range(width):
                value = dx[n, j] * factor[j]
                dbranch[n, j] = value
                partial[block, 0, j] += value
        block = claim(data)


@kernel
def gelu_(data: Any) -> None:
    """pre (N, F) += bias, sur place ; out = gelu(pre), approximation tanh, par bloc de lignes."""
    d = words(data)
    pre, bias, out = matrix(d, 0), vector(d, 1), matrix(d, 2)
    rows, width = pre.shape
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                x = pre[n, j] + bias[j]
                pre[n, j] = x
                u = _GELU_A * (x + _GELU_B * x * x * x)
                out[n, j] = x - x / (exp(u + u) + _F(1.0))  # tanh(u) = 1 − 2 / (e^{2u} + 1)
        block = claim(data)


@kernel
def gelu_again_(data: Any) -> None:
    """out (N, F) = gelu(pre), par bloc de lignes."""
    d = words(data)
    pre, out = matrix(d, 0), matrix(d, 1)
    rows, width = pre.shape
    block = claim(data)
    while block < count(d):
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                x = pre[n, j]
                u = _GELU_A * (x + _GELU_B * x * x * x)
                out[n, j] = x - x / (exp(u + u) + _F(1.0))
        block = claim(data)


@kernel
def gelu_backward_(data: Any) -> None:
    """dout (N, F) *= gelu'(pre), sur place ; partial (blocs, 1, F) : sommes pour le biais."""
    d = words(data)
    dout, pre, partial = matrix(d, 0), matrix(d, 1), cube(d, 2)
    rows, width = pre.shape
    block = claim(data)
    while block < count(d):
        for j in range(width):
            partial[block, 0, j] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                x = pre[n, j]
                square = x * x
                u = _GELU_A * (x + _GELU_B * x * square)
                half = _F(1.0) / (exp(u + u) + _F(1.0))  # (1 − tanh u) / 2
                slope = _F(2.0) * half * (_F(1.0) - half)  # (1 − tanh² u) / 2
                slope *= _GELU_A * (_F(1.0) + _F(3.0) * _GELU_B * square)
                value = dout[n, j] * (_F(1.0) - half + x * slope)
                dout[n, j] = value
                partial[block, 0, j] += value
        block = claim(data)
