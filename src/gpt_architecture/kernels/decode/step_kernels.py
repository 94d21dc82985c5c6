"""Ce qui entoure les produits : normes, codes des activations, attention, décodage, GELU.

Les trois premiers préparent les activations d'un pas : x (hauteur, D), gain et décalage de la
norme (vides : pas de norme), lignes de x à lire (vide : toutes). Les deux derniers servent quand
PyTorch fait les produits (voir `passes.TorchPass`).

Formes : M activations présentes, D largeur, H têtes, K taille d'une tête, S positions vues, F
largeur du perceptron, N lignes de poids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from gpt_architecture.kernels.decode.integer_tiles import UNIT, decode_row, paired_place
from gpt_architecture.kernels.runtime.arithmetic import FAST, exp, gelu, moments
from gpt_architecture.kernels.runtime.kernel import (
    Integer,
    Integers,
    Lots,
    Matrix,
    Place,
    Shorts,
    Vector,
    kernel,
    launch,
    pointer,
)

if TYPE_CHECKING:
    from gpt_architecture.core.grouped_codes import GroupedCodes

LINE = 16
"""Activations d'un lot de `transpose_rows_` : une ligne de cache de la sortie."""

_PANEL = 16
"""Lignes d'un lot de `decode_rows_` et de `bias_gelu_`."""

STATE_HEADER, STATE_SEQUENCE = 3, 4
"""Mots de l'état : d'abord adresse du cache, sa capacité, ses lignes ; puis, par séquence, sa ligne
dans le cache, les positions qui y sont, sa première activation et le nombre d'activations."""

_F = np.float32
_OPTIONS: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy"}


@njit(**_OPTIONS)
def _normalize(x: Any, gain: Any, shift: Any, y: Any) -> None:
    """y (D,) = norme(x) ; une norme sans gain recopie x."""
    width = x.size
    if gain.size == 0:
        for j in range(width):
            y[j] = x[j]
        return
    mean, inverse = moments(x)
    for j in range(width):
        y[j] = (x[j] - mean) * inverse * gain[j] + shift[j]


@njit(**_OPTIONS)
def _row_of(chosen: Any, item: Any) -> Any:
    """Ligne de x que lit le lot."""
    return chosen[item] if chosen.size > 0 else item


@kernel
def normalize_rows_(
    lots: Lots, x: Matrix, gain: Vector, shift: Vector, chosen: Integers, y: Matrix
) -> None:
    """y (hauteur, D) = norme(x), ligne par ligne."""
    for m in lots:
        _normalize(x[_row_of(chosen, m)], gain, shift, y[m])


@kernel
def transpose_rows_(
    lots: Lots,
    x: Matrix,
    gain: Vector,
    shift: Vector,
    chosen: Integers,
    y: Matrix,
    active: Integer,
) -> None:
    """y (D, hauteur) = norme(x)ᵀ, par LINE activations, dont `active` sont présentes."""
    width = x.shape[1]
    rows = np.empty((LINE, width), np.float32)
    for block in lots:
        first = block * LINE
        present = min(LINE, active - first)
        for i in range(present):
            _normalize(x[_row_of(chosen, first + i)], gain, shift, rows[i])
        for j in range(width):
            for i in range(present):
                y[j, first + i] = rows[i, j]


@njit(**_OPTIONS)
def _peak(y: Any) -> Any:
    """max |y|, infini ou NaN compris : |y| se compare comme un entier, la boucle se vectorise."""
    bits, top = y.view(np.int32), np.int32(0)
    for j in range(y.size):
        top = max(top, np.int32(bits[j] & np.int32(0x7FFFFFFF)))
    found = np.int32(top)
    return found.view(np.float32)


@njit(**_OPTIONS)
def _encode(y: Any, codes: Any, scale: Any, paired: Any) -> None:
    peak = _peak(y)
    factor = _F(32767.0) / peak if peak > _F(0.0) else _F(0.0)
    if paired:
        for j in range(0, y.size, 16):
            place = paired_place(j)
            for i in range(min(16, y.size - j)):
                codes[place + i] = np.int16(np.int32(np.floor(y[j + i] * factor + _F(0.5))))
    else:
        for j in range(y.size):
            codes[j] = np.int16(np.int32(np.floor(y[j] * factor + _F(0.5))))
    scale[0] = peak / _F(32767.0) if peak < _F(np.inf) else _F(np.nan)


@kernel
def encode_rows_(
    lots: Lots,
    x: Matrix,
    gain: Vector,
    shift: Vector,
    chosen: Integers,
    codes: Shorts,
    scales: Vector,
    paired: Integer,
) -> None:
    """codes · échelle ≈ norme(x), ligne par ligne, sur 16 bits.

    codes (hauteur, D complété par des zéros) ; scales (hauteur,) ; `paired` vaut 1 pour les ranger
    par paires de blocs (voir `integer_tiles.paired_place`). Une valeur infinie ou NaN rend
    l'échelle NaN : l'erreur se voit dans les logits.
    """
    y = np.empty(x.shape[1], np.float32)
    for m in lots:
        _normalize(x[_row_of(chosen, m)], gain, shift, y)
        _encode(y, codes[m], scales[m : m + 1], paired > 0)


@njit(**_OPTIONS)
def _attend(q: Any, keys: Any, values: Any, seen: Any, scores: Any, out: Any) -> None:
    """out (K,) = attention de q (K,) aux `seen` premières positions ; scores : brouillon."""
    size = q.size
    scale = _F(1.0) / np.sqrt(_F(size))
    peak = _F(-np.inf)
    for s in range(seen):
        total = _F(0.0)
        for j in range(size):
            total += q[j] * keys[s, j]
        scores[s] = total * scale
        peak = max(peak, scores[s])
    total = _F(0.0)
    for s in range(seen):
        scores[s] = exp(scores[s] - peak)
        total += scores[s]
    for j in range(size):
        out[j] = _F(0.0)
    inverse = _F(1.0) / total
    whole = seen // 4 * 4
    for s in range(0, whole, 4):  # quatre positions à la fois : `out` est relu quatre fois moins
        a, b = scores[s] * inverse, scores[s + 1] * inverse
        c, e = scores[s + 2] * inverse, scores[s + 3] * inverse
        for j in range(size):
            out[j] += (a * values[s, j] + b * values[s + 1, j]) + (
                c * values[s + 2, j] + e * values[s + 3, j]
            )
    for s in range(whole, seen):
        a = scores[s] * inverse
        for j in range(size):
            out[j] += a * values[s, j]


@kernel
def attention_(
    lots: Lots, qkv: Matrix, context: Matrix, layer: Integer, heads: Integer, state: Integers
) -> None:
    """Ajoute les clés et valeurs nouvelles au cache, puis calcule le contexte ; un lot par tête.

    qkv (hauteur, 3·D) ; context (hauteur, D) ; state : voir STATE_HEADER.
    """
    storage, capacity, lines = state[0], state[1], state[2]
    width = context.shape[1]
    size = width // heads
    plane = capacity * size
    scores = np.empty(capacity, np.float32)
    for item in lots:
        head, word = item % heads, STATE_HEADER + STATE_SEQUENCE * (item // heads)
        line, past, row, queries = state[word], state[word + 1], state[word + 2], state[word + 3]
        first = head * size
        where = storage + 4 * plane * ((2 * layer * lines + line) * heads + head)
        keys = carray(pointer(where), (capacity, size), np.float32)
        values = carray(pointer(where + 4 * plane * lines * heads), (capacity, size), np.float32)
        for t in range(queries):
            for j in range(size):
                keys[past + t, j] = qkv[row + t, width + first + j]
                values[past + t, j] = qkv[row + t, 2 * width + first + j]
        for t in range(queries):
            q = qkv[row + t, first : first + size]
            _attend(q, keys, values, past + t + 1, scores, context[row + t, first : first + size])


@kernel
def decode_rows_(
    lots: Lots, codes: Place, scales: Place, out: Matrix, bits: Integer, group: Integer
) -> None:
    """out (N, D complété) = poids fp32 ; codes (N, octets), scales (N, groupes) bf16."""
    rows, units = out.shape[0], out.shape[1] // UNIT
    stride, scale_stride, out_stride = codes.width, 2 * scales.width, 4 * out.shape[1]
    for item in lots:
        for n in range(item * _PANEL, min(rows, (item + 1) * _PANEL)):
            code, scale = codes.address + stride * n, scales.address + scale_stride * n
            decode_row(bits, group, code, scale, units, out.ctypes.data + out_stride * n)


@kernel
def bias_gelu_(lots: Lots, x: Matrix, bias: Vector) -> None:
    """x (n, F) = gelu(x + biais), sur place."""
    rows, width = x.shape
    for item in lots:
        for n in range(item * _PANEL, min(rows, (item + 1) * _PANEL)):
            for j in range(width):
                x[n, j] = gelu(x[n, j] + bias[j])


def decode(weight: GroupedCodes) -> Tensor:
    """Les poids (N, D) fp32 que les codes représentent ; voir `grouped_codes.dequantize`."""
    rows = len(weight.codes)
    out = torch.empty(rows, weight.padded)
    arguments = (weight.codes, weight.scales, out, weight.bits, weight.group_size)
    launch(decode_rows_, -(-rows // _PANEL), *arguments)
    return out[:, : weight.width]


def activate(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + biais), écrit à la place de x (n, F) contigu."""
    launch(bias_gelu_, -(-len(x) // _PANEL), x, bias)
    return x
