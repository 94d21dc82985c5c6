"""Les noyaux de réduction et de mise à jour : softmax, entropie croisée, sommes, AdamW.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques d'abandon au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de fils. Le début de chaque noyau nomme ses arguments, dans
l'ordre où `kernel.launch` les reçoit. `keys` (2·B,) porte les clés d'un endroit ; `drop` nul :
rien n'est abandonné.

Formes : H têtes, T tokens, V vocabulaire, n tokens d'un morceau de tête.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import exp, fill_multipliers, mix32, row_key
from gpt_architecture.kernels.runtime.kernel import (
    claim,
    count,
    cube,
    halves,
    integer,
    integers,
    kernel,
    matrix,
    real,
    vector,
    words,
)

VOCAB_BLOCK = 256
"""Lignes du vocabulaire d'un lot."""
ADAMW_BLOCK = 1 << 15
"""Éléments d'un lot de mise à jour."""
STRIP = 64
"""Colonnes d'un lot, pour la somme des réductions."""

_F = np.float32


@kernel
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


@kernel
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


@kernel
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


@kernel
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


@kernel
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


@kernel
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
