"""Les noyaux qui avancent ligne par ligne : embeddings, normes, branches résiduelles, GELU.

Chacun parcourt la mémoire une fois là où PyTorch la parcourt plusieurs fois, et recalcule les
masques d'abandon au lieu de les lire. Les réductions se font par blocs fixes, dans l'ordre : le
résultat ne dépend pas du nombre de fils. `keys` (2·B,) porte les clés
d'un endroit ; `drop` nul : rien n'est abandonné.

Formes : N = B·T tokens d'un lot, D largeur, F largeur du perceptron, V vocabulaire.
"""

from __future__ import annotations

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import (
    GELU_CUBE,
    GELU_SLOPE,
    exp,
    fill_multipliers,
    gelu,
    moments,
)
from gpt_architecture.kernels.runtime.kernel import (
    Cube,
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

_F = np.float32


@kernel
def embed_(
    lots: Lots,
    ids: Integers,
    tokens: Matrix,
    positions: Matrix,
    keys: Integers,
    length: Integer,
    drop: Integer,
    scale: Real,
    x: Matrix,
) -> None:
    """x (N, D) = abandon(embedding du token + embedding de la position), par bloc de lignes."""
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            token, t = ids[n], n % length
            for j in range(width):
                x[n, j] = tokens[token, j] + positions[t, j]
            if drop > 0:
                fill_multipliers(factor, keys, n // length, t, drop, scale)
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
    positions: Matrix,
) -> None:
    """dx (N, D) *= masque, sur place ; sa somme par position s'ajoute à positions (P, D)."""
    rows, width = dx.shape
    factor = np.empty(width, np.float32)
    for t in lots:
        for b in range(rows // length):
            n = b * length + t
            if drop > 0:
                fill_multipliers(factor, keys, b, t, drop, scale)
                for j in range(width):
                    dx[n, j] *= factor[j]
            for j in range(width):
                positions[t, j] += dx[n, j]


@kernel
def scatter_rows_(
    lots: Lots, order: Integers, starts: Integers, ids: Integers, dx: Matrix, gradient: Matrix
) -> None:
    """gradient[token] += Σ dx des places du token, dans l'ordre ; un token par lot.

    `order` trie les places par token, `starts` délimite les tokens distincts : chaque ligne
    n'est écrite que par un fil.
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
                y[n, j] = (x[n, j] - mean) * inverse * gain[j] + shift[j]


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
    """out (N, D) = x + abandon(branch + bias), par bloc de lignes."""
    rows, width = x.shape
    factor = np.empty(width, np.float32)
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                fill_multipliers(factor, keys, n // length, n % length, drop, scale)
                for j in range(width):
                    out[n, j] = x[n, j] + (branch[n, j] + bias[j]) * factor[j]
            else:
                for j in range(width):
                    out[n, j] = x[n, j] + (branch[n, j] + bias[j])


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
    factor = np.empty(width, np.float32)
    for j in range(width):
        factor[j] = _F(1.0)
    for block in lots:
        for j in range(width):
            partial[block, 0, j] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if drop > 0:
                fill_multipliers(factor, keys, n // length, n % length, drop, scale)
            for j in range(width):
                value = dx[n, j] * factor[j]
                dbranch[n, j] = value
                partial[block, 0, j] += value


@kernel
def gelu_(lots: Lots, pre: Matrix, bias: Vector, out: Matrix) -> None:
    """pre (N, F) += biais, sur place, s'il n'est pas vide ; out = gelu(pre), par bloc de lignes."""
    rows, width = pre.shape
    for block in lots:
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            if bias.size > 0:
                for j in range(width):
                    pre[n, j] += bias[j]
            for j in range(width):
                out[n, j] = gelu(pre[n, j])


@kernel
def gelu_backward_(lots: Lots, dout: Matrix, pre: Matrix, partial: Cube) -> None:
    """dout (N, F) *= gelu'(pre), sur place ; partial (blocs, 1, F) : sommes pour le biais."""
    rows, width = pre.shape
    for block in lots:
        for j in range(width):
            partial[block, 0, j] = _F(0.0)
        for n in range(block * ROW_BLOCK, min(rows, (block + 1) * ROW_BLOCK)):
            for j in range(width):
                x = pre[n, j]
                square = x * x
                u = GELU_SLOPE * (x + GELU_CUBE * x * square)
                half = _F(1.0) / (exp(u + u) + _F(1.0))  # (1 − tanh u) / 2
                slope = _F(2.0) * half * (_F(1.0) - half)  # (1 − tanh² u) / 2
                slope *= GELU_SLOPE * (_F(1.0) + _F(3.0) * GELU_CUBE * square)
                value = dout[n, j] * (_F(1.0) - half + x * slope)
                dout[n, j] = value
                partial[block, 0, j] += value
