"""Les noyaux de réduction et de mise à jour : softmax, entropie croisée, sommes, AdamW.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques d'abandon au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de fils. `keys` (2·B,) porte les clés
d'un endroit ; `drop` nul : rien n'est abandonné.

Formes : H têtes, T tokens, V vocabulaire, n tokens d'un morceau de tête.
"""

from __future__ import annotations

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import exp, fill_multipliers, mix32
from gpt_architecture.kernels.runtime.kernel import (
    Cube,
    Halves,
    Integer,
    Integers,
    Lots,
    Matrix,
    Real,
    Vector,
    kernel,
)

VOCAB_BLOCK = 256
"""Lignes du vocabulaire d'un lot."""
ADAMW_BLOCK = 1 << 15
"""Éléments d'un lot de mise à jour."""
COLUMN_BLOCK = 64
"""Colonnes d'un lot, pour la somme des réductions."""

_F = np.float32


@kernel
def causal_softmax_(
    lots: Lots,
    scores: Cube,
    keys: Integers,
    heads: Integer,
    factor: Real,
    drop: Integer,
    scale: Real,
    dropped: Cube,
) -> None:
    """scores (B·H, T, T) → softmax causal de factor · scores, sur place ; une tête par lot.

    `dropped` reçoit les mêmes poids, abandonnés (il n'est pas touché si `drop` est nul).
    """
    length = scores.shape[1]
    multiplier = np.empty(length, np.float32)
    for head in lots:
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
                row = (head % heads) * length + t
                fill_multipliers(multiplier, keys, head // heads, row, drop, scale)
                for j in range(length):
                    dropped[head, t, j] = scores[head, t, j] * multiplier[j]


@kernel
def causal_softmax_backward_(
    lots: Lots,
    weights: Cube,
    keys: Integers,
    heads: Integer,
    factor: Real,
    drop: Integer,
    scale: Real,
    dropped: Cube,
    dweights: Cube,
) -> None:
    """dweights (B·H, T, T), dérivée des poids abandonnés → celle des scores, sur place.

    `dropped` reçoit les poids abandonnés, recalculés : le gradient des valeurs en a besoin.
    """
    length = weights.shape[1]
    multiplier = np.empty(length, np.float32)
    for head in lots:
        for t in range(length):
            dot = _F(0.0)
            if drop > 0:
                row = (head % heads) * length + t
                fill_multipliers(multiplier, keys, head // heads, row, drop, scale)
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


@kernel
def column_lse_(lots: Lots, logits: Matrix, top: Matrix, total: Matrix) -> None:
    """Par bloc de vocabulaire : maximum et Σ exp(l − max) de chaque colonne.

    logits (V, n) ; top et total (blocs, n).
    """
    vocab, columns = logits.shape
    for block in lots:
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


@kernel
def scaled_softmax_(lots: Lots, logits: Matrix, lse: Vector, factor: Real) -> None:
    """logits (V, n) → factor · exp(logits − lse), sur place, par bloc de vocabulaire."""
    vocab, columns = logits.shape
    for block in lots:
        for v in range(block * VOCAB_BLOCK, min(vocab, (block + 1) * VOCAB_BLOCK)):
            for j in range(columns):
                logits[v, j] = exp(logits[v, j] - lse[j]) * factor


@kernel
def sum_blocks_(lots: Lots, partial: Cube, part: Integer, out: Vector, beta: Real) -> None:
    """out (D,) = beta · out + Σ partial (blocs, parts, D)[:, part], dans l'ordre des blocs."""
    width = out.shape[0]
    for block in lots:
        start, end = block * COLUMN_BLOCK, min(width, (block + 1) * COLUMN_BLOCK)
        for j in range(start, end):
            out[j] = _F(0.0) if beta == _F(0.0) else out[j] * beta
        for row in range(partial.shape[0]):
            for j in range(start, end):
                out[j] += partial[row, part, j]


@kernel
def adamw_(
    lots: Lots,
    p: Vector,
    g: Vector,
    first: Halves,
    second: Halves,
    beta1: Real,
    beta2: Real,
    eps: Real,
    rate: Real,
    root: Real,
    decay: Real,
    step: Integer,
) -> None:
    """AdamW sur p (n,), aux moments en bf16 arrondis au hasard, par bloc d'éléments.

    Le tirage de l'arrondi est une fonction pure de l'étape et de l'élément.
    """
    key = mix32(np.uint32(step))
    for block in lots:
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
