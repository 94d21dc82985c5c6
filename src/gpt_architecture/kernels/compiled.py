"""Les noyaux compilés par Numba : ce qui entoure les produits de matrices d'un pas.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques d'abandon au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de fils. Le début de chaque noyau nomme ses arguments, dans
l'ordre où `threads.launch` les reçoit.

Formes : N = B·T tokens d'un lot, D largeur, F largeur du perceptron, H têtes, V vocabulaire.
`keys` (2·B,) porte les clés d'un endroit ; `drop` nul : rien n'est abandonné.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cfunc

from gpt_architecture.kernels.arithmetic import FAST, exp, fill_multipliers, mix32, row_key
from gpt_architecture.kernels.threads import (
    KERNEL,
    claim,
    count,
    cube,
    halves,
    integer,
    integers,
    matrix,
    real,
    vector,
    words,
)

ROW_BLOCK = 32
"""Lignes d'un lot : une réduction par lot."""
VOCAB_BLOCK = 256
"""Lignes du vocabulaire d'un lot."""
ADAMW_BLOCK = 1 << 15
"""Éléments d'un lot de mise à jour."""
STRIP = 64
"""Colonnes d'un lot, pour la somme des réductions."""

_F = np.float32
_GELU_A, _GELU_B = _F(math.sqrt(2.0 / math.pi)), _F(0.044715)


def _kernel(body: Any) -> Any:
    """Compile un noyau ; le résultat est gardé sur disque d'un lancement à l'autre."""
    return cfunc(KERNEL, fastmath=FAST, cache=True, error_model="numpy")(body)


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
def sum_blocks_(data: Any) -> None:
    """out (D,) = beta · out + Σ partial (blocs, parts, D)[:, part], dans l'ordre des blocs."""
    d = words(data)
    partial, part, out, beta = cube(d, 0), integer(d, 1), vector(d, 2), real(d, 3)
    width = out.shape[0]
    strip = claim(data)
    while strip < count(d):
        start, end = strip * STRIP, min(width, (strip + 1) * STRIP)
        for j in range(start, end):
            out[j] = _F(0.0) if beta == _F(0.0) else out[j] * beta
        for block in range(partial.shape[0]):
            for j in range(start, end):
                out[j] += partial[block, part, j]
        strip = claim(data)


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
def causal_softmax_(data: Any) -> None:
    """scores (B·H, T, T) → softmax causal de factor · scores, sur place ; une tête par lot.

    `dropped` reçoit les mêmes poids, abandonnés (il n'est pas touché si `drop` est nul).
    """
    d = words(data)
    scores, keys, heads, factor = cube(d, 0), integers(d, 1), integer(d, 2), real(d, 3)
    drop, scale, dropped = integer(d, 4), real(d, 5), cube(d, 6)
    length = scores.shape[1]
    multiplier = np.empty(length, np.float32)
    head = claim(data)
    while head < count(d):
        for t in range(length):
            top = scores[head, t, 0]
            for j in range(1, t + 1):
                top = max(top, scores[head, t, j])
            total = _F(0.0)
            for j in range(t + 1):
                value = exp((scores[head, t, j] - top) * factor)
                scores[head, t, j] = value
                total += value
            inverse = _F(1.0) / total
            for j in range(t + 1):
                scores[head, t, j] *= inverse
            for j in range(t + 1, length):
                scores[head, t, j] = _F(0.0)
            if drop > 0:
                key = row_key(keys, head // heads, (head % heads) * length + t)
                fill_multipliers(multiplier, key, length, drop, scale)
                for j in range(length):
                    dropped[head, t, j] = scores[head, t, j] * multiplier[j]
        head = claim(data)


@_kernel
def causal_softmax_backward_(data: Any) -> None:
    """dweights (B·H, T, T), dérivée des poids abandonnés → celle des scores, sur place.

    `dropped` reçoit les poids abandonnés, recalculés : le gradient des valeurs en a besoin.
    """
    d = words(data)
    weights, keys, heads, factor = cube(d, 0), integers(d, 1), integer(d, 2), real(d, 3)
    drop, scale, dropped, dweights = integer(d, 4), real(d, 5), cube(d, 6), cube(d, 7)
    length = weights.shape[1]
    multiplier = np.empty(length, np.float32)
    head = claim(data)
    while head < count(d):
        for t in range(length):
            dot = _F(0.0)
            if drop > 0:
                key = row_key(keys, head // heads, (head % heads) * length + t)
                fill_multipliers(multiplier, key, length, drop, scale)
                for j in range(t + 1):
                    weight = weights[head, t, j]
                    slope = dweights[head, t, j] * multiplier[j]
                    dropped[head, t, j] = weight * multiplier[j]
                    dweights[head, t, j] = slope
                    dot += weight * slope
                for j in range(t + 1, length):
                    dropped[head, t, j] = _F(0.0)
            else:
                for j in range(t + 1):
                    dot += weights[head, t, j] * dweights[head, t, j]
            for j in range(t + 1):
                slope = (dweights[head, t, j] - dot) * factor
                dweights[head, t, j] = weights[head, t, j] * slope
            for j in range(t + 1, length):
                dweights[head, t, j] = _F(0.0)
        head = claim(data)


@_kernel
def column_lse_(data: Any) -> None:
    """Par bloc de vocabulaire : maximum et Σ exp(l − max) de chaque colonne.

    logits (V, n) ; top et total (blocs, n).
    """
    d = words(data)
    logits, top, total = matrix(d, 0), matrix(d, 1), matrix(d, 2)
    vocab, columns = logits.shape
    block = claim(data)
    while block < count(d):
        start, end = block * VOCAB_BLOCK, min(vocab, (block + 1) * VOCAB_BLOCK)
        for j in range(columns):
            top[block, j] = logits[start, j]
            total[block, j] = _F(0.0)
        for v in range(start + 1, end):
            for j in range(columns):
                top[block, j] = max(top[block, j], logits[v, j])
        for v in range(start, end):
            for j in range(columns):
                total[block, j] += exp(logits[v, j] - top[block, j])
        block = claim(data)


@_kernel
def scaled_softmax_(data: Any) -> None:
    """logits (V, n) → factor · exp(logits − lse), sur place, par bloc de vocabulaire."""
    d = words(data)
    logits, lse, factor = matrix(d, 0), vector(d, 1), real(d, 2)
    vocab, columns = logits.shape
    block = claim(data)
    while block < count(d):
        for v in range(block * VOCAB_BLOCK, min(vocab, (block + 1) * VOCAB_BLOCK)):
            for j in range(columns):
                logits[v, j] = exp(logits[v, j] - lse[j]) * factor
        block = claim(data)


@_kernel
def adamw_(data: Any) -> None:
    """AdamW sur p (n,), aux moments en bf16 arrondis au hasard, par bloc d'éléments.

    Le tirage de l'arrondi est une fonction pure de l'étape et de l'élément.
    """
    d = words(data)
    p, g, first, second = vector(d, 0), vector(d, 1), halves(d, 2), halves(d, 3)
    beta1, beta2, eps = real(d, 4), real(d, 5), real(d, 6)
    rate, root, decay, step = real(d, 7), real(d, 8), real(d, 9), integer(d, 10)
    key = mix32(np.uint32(step))
    block = claim(data)
    while block < count(d):
        for i in range(block * ADAMW_BLOCK, min(p.shape[0], (block + 1) * ADAMW_BLOCK)):
            m = np.uint32(np.uint32(first[i]) << np.uint32(16)).view(np.float32)
            v = np.uint32(np.uint32(second[i]) << np.uint32(16)).view(np.float32)
            m = beta1 * m + (_F(1.0) - beta1) * g[i]
            v = beta2 * v + (_F(1.0) - beta2) * g[i] * g[i]
            p[i] = p[i] * decay - rate * m / (np.sqrt(v) * root + eps)
            noise = mix32(np.uint32(key ^ np.uint32(i)))
            low, high = np.uint32(noise & np.uint32(0xFFFF)), np.uint32(noise >> np.uint32(16))
            first[i] = np.uint16(np.uint32(np.float32(m).view(np.uint32) + low) >> np.uint32(16))
            second[i] = np.uint16(np.uint32(np.float32(v).view(np.uint32) + high) >> np.uint32(16))
        block = claim(data)
