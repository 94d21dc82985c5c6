"""Ce qui entoure les produits d'un pas de décodage : normes, codes des activations, attention.

Formes : M activations présentes, D largeur,
H têtes, K taille d'une tête, S positions vues.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from gpt_architecture.kernels.decode.dot_tiles import paired_place
from gpt_architecture.kernels.runtime.arithmetic import FAST, exp
from gpt_architecture.kernels.runtime.kernel import (
    claim,
    count,
    integer,
    integers,
    kernel,
    matrix,
    pointer,
    shorts,
    vector,
    words,
)

STATE_HEADER, STATE_SEQUENCE = 3, 4
"""Mots de l'état : d'abord adresse du cache, sa capacité, ses lignes ; puis, par séquence, sa ligne
dans le cache, les positions qui y sont, sa première activation et le nombre d'activations."""

_F = np.float32
_OPTIONS: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy"}


@njit(**_OPTIONS)
def normalize(x: Any, gain: Any, shift: Any, y: Any) -> None:
    """y (D,) = norme(x) ; une norme sans gain recopie x."""
    width = x.size
    if gain.size == 0:
        for j in range(width):
            y[j] = x[j]
        return
    total = _F(0.0)
    for j in range(width):
        total += x[j]
    mean = total / _F(width)
    total = _F(0.0)
    for j in range(width):
        total += (x[j] - mean) * (x[j] - mean)
    inverse = _F(1.0) / np.sqrt(total / _F(width) + _F(1e-5))
    for j in range(width):
        y[j] = (x[j] - mean) * inverse * gain[j] + shift[j]


@njit(**_OPTIONS)
def row_of(d: Any, item: Any) -> Any:
    """Ligne de x que lit le lot : celle que dit l'argument 4, ou la même s'il est vide."""
    chosen = integers(d, 4)
    return chosen[item] if chosen.size > 0 else item


@kernel
def normalize_rows_(data: Any) -> None:
    """y = norme(x), ligne par ligne.

    Arguments : lignes présentes, x (hauteur, D), gain, décalage, lignes choisies, y (hauteur, D).
    """
    d = words(data)
    x, gain, shift, y = matrix(d, 1), vector(d, 2), vector(d, 3), matrix(d, 5)
    m = claim(data)
    while m < count(d):
        normalize(x[row_of(d, m)], gain, shift, y[m])
        m = claim(data)


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
def encode_rows_(data: Any) -> None:
    """codes · échelle ≈ norme(x), ligne par ligne, sur 16 bits ; un gain vide : pas de norme.

    Arguments : lignes présentes, x (hauteur, D), gain, décalage, lignes choisies, codes
    (hauteur, D complété par des zéros), échelles (hauteur,), et 1 pour les ranger par paires de
    blocs (voir `dot_tiles.paired_place`). Une valeur infinie ou NaN rend l'échelle NaN : l'erreur
    se voit dans les logits.
    """
    d = words(data)
    x, gain, shift, codes, scales = (
        matrix(d, 1),
        vector(d, 2),
        vector(d, 3),
        shorts(d, 5),
        vector(d, 6),
    )
    width, paired = x.shape[1], integer(d, 7) > 0
    y = np.empty(width, np.float32)
    m = claim(data)
    while m < count(d):
        normalize(x[row_of(d, m)], gain, shift, y)
        _encode(y, codes[m], scales[m : m + 1], paired)
        m = claim(data)


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
def attention_(data: Any) -> None:
    """Ajoute les clés et valeurs nouvelles au cache, puis calcule le contexte ; un lot par tête.

    Arguments : inutilisé, projections (hauteur, 3·D), contexte (hauteur, D), couche, H, état
    (voir STATE_HEADER).
    """
    d = words(data)
    qkv, context, layer, heads, state = (
        matrix(d, 1),
        matrix(d, 2),
        integer(d, 3),
        integer(d, 4),
        integers(d, 5),
    )
    storage, capacity, lines = state[0], state[1], state[2]
    width = context.shape[1]
    size = width // heads
    plane = capacity * size
    scores = np.empty(capacity, np.float32)
    item = claim(data)
    while item < count(d):
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
        item = claim(data)
