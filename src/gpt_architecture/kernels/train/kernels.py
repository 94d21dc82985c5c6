"""Noyaux de l'étape d'entraînement : embeddings, normes, résidus, GELU, attention, perte, AdamW.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques de dropout au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de threads. `keys` (2·B,) porte les clés d'un endroit ; `drop` nul
: rien n'est abandonné. Les noyaux qui écrivent ou lisent un produit de matrices ont leur double en
bf16 (`half_kernels`) : `rounded` et `widened` convertissent au passage, tout calcul reste fp32.

Formes : N = B·T tokens d'un lot, n tokens d'un morceau de tête, D largeur, F largeur du perceptron,
H têtes, V vocabulaire.
"""

from __future__ import annotations

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import (
    GELU_CUBE,
    GELU_SLOPE,
    exp,
    fill_multipliers,
    gelu,
    mix32,
    moments,
    rounded,
    widened,
)
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

ROW_BLOCK = 32
"""Lignes d'un lot : une réduction par lot."""

VOCAB_BLOCK = 256
"""Lignes du vocabulaire d'un lot."""

ADAMW_BLOCK = 1 << 15
"""Éléments d'un lot de mise à jour, ou d'addition."""

COLUMN_BLOCK = 64
"""Colonnes d'un lot, pour la somme des réductions."""

_F = np.float32


@kernel
def embed_(
    lots: Lots,
    ids: Integers,
    places: Integers,
    tokens: Matrix,
    positions: Matrix,
    keys: Integers,
    length: Integer,
    drop: Integer,
    scale: Real,
    x: Matrix,
) -> None:
    """x (N, D) = dropout(embedding du token + embedding de sa position), par bloc de lignes."""
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            token, place = ids[n], places[n]
            for j in range(width):
                x[n, j] = tokens[token, j] + positions[place, j]
            if drop > 0:
                fill_multipliers(factor, keys, n // length, n % length, drop, scale)
                for j in range(width):
                    x[n, j] *= factor[j]


@kernel
def embed_backward_(
    lots: Lots,
    dx: Matrix,
    keys: Integers,
    length: Integer,
    drop: Integer,
    scale: Real,
) -> None:
    """dx (N, D) *= masque, sur place, par bloc de lignes."""
    rows, width = dx.shape
    factor = np.empty(width, np.float32)
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            fill_multipliers(factor, keys, n // length, n % length, drop, scale)
            for j in range(width):
                dx[n, j] *= factor[j]


@kernel
def scatter_rows_(
    lots: Lots, order: Integers, starts: Integers, ids: Integers, dx: Matrix, gradient: Matrix
) -> None:
    """gradient[i] += Σ dx des lignes d'identifiant i, dans l'ordre ; un identifiant par lot.

    `order` trie les lignes par identifiant, `starts` délimite ceux qui diffèrent : chaque ligne
    de `gradient` n'est écrite que par un thread.
    """
    for s in lots:
        token = ids[order[starts[s]]]
        for i in range(starts[s], starts[s + 1]):
            n = order[i]
            for j in range(dx.shape[1]):
                gradient[token, j] += dx[n, j]


@kernel
def layer_norm_(
    lots: Lots, x: Matrix, gain: Vector, shift: Vector, y: Matrix, stats: Matrix, again: Integer
) -> None:
    """y (N, D) = norme(x), par bloc de lignes.

    stats (N, 2) reçoit moyenne et 1/écart-type ; si `again` vaut 1, ils y sont déjà.
    """
    rows, width = x.shape
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if again == 0:
                stats[n, 0], stats[n, 1] = moments(x[n])
            mean, inverse = stats[n, 0], stats[n, 1]
            for j in range(width):
                y[n, j] = rounded(y, (x[n, j] - mean) * inverse * gain[j] + shift[j])


@kernel
def layer_norm_backward_(
    lots: Lots,
    dy: Matrix,
    x: Matrix,
    stats: Matrix,
    gain: Vector,
    dx: Matrix,
    partial: Cube,
    keep: Real,
) -> None:
    """dx (N, D) = (ou +=) dérivée de la norme ; partial (blocs, 2, D) : sommes de gain, shift."""
    rows, width = x.shape
    for block in lots:
        partial[block] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            mean, inverse = stats[n, 0], stats[n, 1]
            first, second = _F(0.0), _F(0.0)
            for j in range(width):
                normal = (x[n, j] - mean) * inverse
                slope = widened(dy[n, j]) * gain[j]
                first += slope
                second += slope * normal
            first /= _F(width)
            second /= _F(width)
            for j in range(width):
                normal = (x[n, j] - mean) * inverse
                slope = widened(dy[n, j])
                value = (slope * gain[j] - first - normal * second) * inverse
                partial[block, 0, j] += slope * normal
                partial[block, 1, j] += slope
                dx[n, j] = dx[n, j] + value if keep > _F(0.0) else value


@kernel
def residual_(
    lots: Lots,
    x: Matrix,
    branch: Matrix,
    bias: Vector,
    keys: Integers,
    length: Integer,
    drop: Integer,
    scale: Real,
    out: Matrix,
) -> None:
    """out (N, D) = x + dropout(branch + bias), par bloc de lignes."""
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                fill_multipliers(factor, keys, n // length, n % length, drop, scale)
                for j in range(width):
                    out[n, j] = x[n, j] + (widened(branch[n, j]) + bias[j]) * factor[j]
            else:
                for j in range(width):
                    out[n, j] = x[n, j] + (widened(branch[n, j]) + bias[j])


@kernel
def residual_backward_(
    lots: Lots,
    dx: Matrix,
    keys: Integers,
    length: Integer,
    drop: Integer,
    scale: Real,
    dbranch: Matrix,
    partial: Cube,
) -> None:
    """dbranch (N, D) = dx · masque ; partial (blocs, 1, D) en reçoit les sommes par bloc."""
    rows, width = dx.shape
    factor = np.ones(width, np.float32)
    for block in lots:
        partial[block] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                fill_multipliers(factor, keys, n // length, n % length, drop, scale)
            for j in range(width):
                value = dx[n, j] * factor[j]
                dbranch[n, j] = rounded(dbranch, value)
                partial[block, 0, j] += value


@kernel
def gelu_(lots: Lots, pre: Matrix, bias: Vector, out: Matrix) -> None:
    """out (N, F) = gelu(pre + biais), par bloc de lignes."""
    rows, width = pre.shape
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                out[n, j] = rounded(out, gelu(widened(pre[n, j]) + bias[j]))


@kernel
def gelu_backward_(lots: Lots, dout: Matrix, pre: Matrix, bias: Vector, partial: Cube) -> None:
    """dout (N, F) *= gelu'(pre + biais), sur place ; partial (blocs, 1, F) : sommes du biais."""
    rows, width = pre.shape
    for block in lots:
        partial[block] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                x = widened(pre[n, j]) + bias[j]
                square = x * x
                u = GELU_SLOPE * (x + GELU_CUBE * x * square)
                half = _F(1.0) / (exp(u + u) + _F(1.0))  # (1 − tanh u) / 2
                slope = _F(2.0) * half * (_F(1.0) - half)  # (1 − tanh² u) / 2
                slope *= GELU_SLOPE * (_F(1.0) + _F(3.0) * GELU_CUBE * square)
                value = widened(dout[n, j]) * (_F(1.0) - half + x * slope)
                dout[n, j] = rounded(dout, value)
                partial[block, 0, j] += value


@kernel
def causal_softmax_(
    lots: Lots,
    scores: Cube,
    first: Integers,
    keys: Integers,
    heads: Integer,
    factor: Real,
    drop: Integer,
    scale: Real,
    dropped: Cube,
) -> None:
    """scores (B·H, T, T) → softmax causal de factor · scores, sur place ; une tête par lot.

    Le token n ne voit rien avant `first[n]`, où son document commence dans sa rangée. `dropped`
    reçoit les mêmes poids, abandonnés (il n'est pas touché si `drop` est nul).
    """
    length = scores.shape[1]
    multiplier = np.empty(length, np.float32)
    for head in lots:
        for t in range(length):
            start = first[(head // heads) * length + t]
            seen = scores[head, t, start : t + 1]
            top = seen[0]
            for j in range(1, seen.size):
                top = max(top, seen[j])
            total = _F(0.0)
            for j in range(seen.size):
                value = exp((seen[j] - top) * factor)
                seen[j] = value
                total += value
            inverse = _F(1.0) / total
            for j in range(seen.size):
                seen[j] *= inverse
            scores[head, t, :start] = _F(0.0)
            scores[head, t, t + 1 :] = _F(0.0)
            if drop > 0:
                row = (head % heads) * length + t
                fill_multipliers(multiplier, keys, head // heads, row, drop, scale)
                for j in range(length):
                    dropped[head, t, j] = scores[head, t, j] * multiplier[j]


@kernel
def causal_softmax_backward_(
    lots: Lots,
    weights: Cube,
    first: Integers,
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
            start = first[(head // heads) * length + t]
            seen, slopes = weights[head, t, start : t + 1], dweights[head, t, start : t + 1]
            if drop > 0:
                row = (head % heads) * length + t
                fill_multipliers(multiplier, keys, head // heads, row, drop, scale)
                kept, lost = multiplier[start : t + 1], dropped[head, t, start : t + 1]
                for j in range(seen.size):
                    slope = slopes[j] * kept[j]
                    lost[j] = seen[j] * kept[j]
                    slopes[j] = slope
                    dot += seen[j] * slope
                dropped[head, t, :start] = _F(0.0)
                dropped[head, t, t + 1 :] = _F(0.0)
            else:
                for j in range(seen.size):
                    dot += seen[j] * slopes[j]
            for j in range(seen.size):
                slope = (slopes[j] - dot) * factor
                slopes[j] = seen[j] * slope
            dweights[head, t, :start] = _F(0.0)
            dweights[head, t, t + 1 :] = _F(0.0)


@kernel
def column_lse_(lots: Lots, logits: Matrix, top: Matrix, total: Matrix) -> None:
    """Par bloc de vocabulaire : maximum et Σ exp(l − max) de chaque colonne.

    logits (V, n) ; top et total (blocs, n).
    """
    vocab, columns = logits.shape
    for block in lots:
        start, end = block * VOCAB_BLOCK, min(vocab, (block + 1) * VOCAB_BLOCK)
        top[block], total[block] = logits[start], _F(0.0)
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
def add_product_(lots: Lots, product: Halves, out: Vector, beta: Real) -> None:
    """out (n,) = product (bf16), ajouté à out si beta n'est pas nul, par bloc d'éléments."""
    for block in lots:
        begin, end = block * ADAMW_BLOCK, min(out.shape[0], (block + 1) * ADAMW_BLOCK)
        source, total = product[begin:end], out[begin:end]
        if beta == _F(0.0):
            for i in range(total.size):
                total[i] = widened(source[i])
        else:
            for i in range(total.size):
                total[i] += widened(source[i])


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
        begin, end = block * ADAMW_BLOCK, min(p.shape[0], (block + 1) * ADAMW_BLOCK)
        # Numba ne vectorise que des indices partis de zéro, qu'il sait positifs
        weights, slopes = p[begin:end], g[begin:end]
        means, squares = first[begin:end], second[begin:end]
        for i in range(weights.size):
            m = beta1 * widened(means[i]) + (_F(1.0) - beta1) * slopes[i]
            v = beta2 * widened(squares[i]) + (_F(1.0) - beta2) * slopes[i] * slopes[i]
            weights[i] = weights[i] * decay - rate * m / (np.sqrt(v) * root + eps)
            noise = mix32(np.uint32(key ^ np.uint32(begin + i)))
            low, high = np.uint32(noise & np.uint32(0xFFFF)), np.uint32(noise >> np.uint32(16))
            means[i] = np.uint16(np.uint32(np.float32(m).view(np.uint32) + low) >> np.uint32(16))
            squares[i] = np.uint16(np.uint32(np.float32(v).view(np.uint32) + high) >> np.uint32(16))
