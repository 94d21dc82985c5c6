"""Ce qui entoure les produits : normes, codes des activations, attention, GELU.

Les trois premiers préparent les activations d'un pas : x (hauteur, D), gain et décalage de la
norme (vides : pas de norme), lignes de x à lire (vide : toutes). Le dernier sert quand PyTorch fait
les produits (voir `passes.TorchPass`).

Formes : M activations présentes, D largeur, H têtes, K taille d'une tête, S positions vues, F
largeur du perceptron.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit
from torch import Tensor

from gpt_architecture.kernels.decode.dots import DOTS
from gpt_architecture.kernels.decode.integer_tiles import CODE_BYTES
from gpt_architecture.kernels.decode.weights import STEP
from gpt_architecture.kernels.runtime.arithmetic import FAST, exp, gelu, moments
from gpt_architecture.kernels.runtime.kernel import (
    Counts,
    Integer,
    Integers,
    Lots,
    Matrix,
    Place,
    Vector,
    kernel,
    launch,
    pointer,
)

LINE = 16
"""Activations d'un lot de `transpose_rows_` : une ligne de cache de la sortie."""

_PANEL = 16
"""Lignes d'un lot de `decode_rows_` et de `bias_gelu_`."""

STATE_HEADER, STATE_BLOCK = 3, 5
"""Mots de l'état : d'abord adresse du cache, sa capacité, ses lignes ; puis, par bloc de requêtes
d'une séquence, sa ligne dans le cache, les positions qui y sont, sa première activation, et parmi
celles-ci la première requête du bloc et celle qui le suit."""

QUERIES = 16
"""Requêtes d'un bloc, au plus : de longues parts occupent tous les fils."""

_F, _CODE = np.float32, DOTS.dtype
_ORDER, _IN_ORDER = DOTS.order, DOTS.order == tuple(range(STEP))
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
def _encode(y: Any, codes: Any) -> Any:
    """Un groupe y → ses codes dans [−127, 127] ; rend leur échelle et leur somme."""
    peak, total = _peak(y), np.int32(0)
    factor = _F(127.0) / peak if peak > _F(1e-35) else _F(0.0)  # au-dessous, 127 / peak déborde
    for j in range(y.size):
        code = np.int32(np.floor(y[j] * factor + _F(0.5)))
        codes[j] = code
        total += code
    return peak / _F(127.0) if peak < _F(np.inf) else _F(np.nan), total


@kernel
def encode_rows_(
    lots: Lots,
    x: Matrix,
    gain: Vector,
    shift: Vector,
    chosen: Integers,
    codes: Place,
    factors: Matrix,
    offsets: Counts,
    group: Integer,
    bias: Integer,
) -> None:
    """codes · échelle ≈ norme(x), ligne par ligne, sur 8 bits, une échelle par groupe.

    codes (hauteur, D complété par des zéros), dans l'ordre qu'attend `DOTS` ; factors (hauteur,
    groupes), les échelles ; offsets (hauteur, groupes), −bias · (somme des codes du groupe), d'où
    partent les sommes de produits (voir `integer_tiles`). Une valeur infinie ou NaN rend
    l'échelle NaN : l'erreur se voit dans les logits.
    """
    width = x.shape[1]
    y = np.empty(width, np.float32)
    found = np.empty(group, np.int32)
    for m in lots:
        _normalize(x[_row_of(chosen, m)], gain, shift, y)
        row = carray(pointer(codes.address + codes.width * m), (codes.width // CODE_BYTES,), _CODE)
        for g in range((width + group - 1) // group):
            start, size = g * group, min(group, width - g * group)
            scale, total = _encode(y[start : start + size], found)
            found[size:] = 0
            factors[m, g], offsets[m, g] = scale, -bias * total
            if _IN_ORDER:
                for j in range(size):
                    row[start + j] = found[j]
            else:
                for j in range(0, size, STEP):
                    for i in range(STEP):
                        row[start + j + _ORDER[i]] = found[j + i]


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
    """Ajoute les clés et valeurs nouvelles au cache, puis calcule le contexte.

    Un lot est un bloc de requêtes d'une tête. Il écrit toutes les clés qu'il lira : celles des
    requêtes d'avant le sont par plusieurs lots, qui y mettent les mêmes bits.

    qkv (hauteur, 3·D) ; context (hauteur, D) ; state : voir STATE_HEADER.
    """
    storage, capacity, lines = state[0], state[1], state[2]
    width = context.shape[1]
    size = width // heads
    plane = capacity * size
    scores = np.empty(capacity, np.float32)
    for item in lots:
        head, word = item % heads, STATE_HEADER + STATE_BLOCK * (item // heads)
        line, past, row = state[word], state[word + 1], state[word + 2]
        start, stop = state[word + 3], state[word + 4]
        first = head * size
        where = storage + 4 * plane * ((2 * layer * lines + line) * heads + head)
        keys = carray(pointer(where), (capacity, size), np.float32)
        values = carray(pointer(where + 4 * plane * lines * heads), (capacity, size), np.float32)
        for t in range(stop):
            fresh, key, value = qkv[row + t], keys[past + t], values[past + t]
            k, v = fresh[width + first :], fresh[2 * width + first :]
            for j in range(size):
                key[j], value[j] = k[j], v[j]
        for t in range(start, stop):
            q = qkv[row + t, first : first + size]
            _attend(q, keys, values, past + t + 1, scores, context[row + t, first : first + size])


@kernel
def bias_gelu_(lots: Lots, x: Matrix, bias: Vector) -> None:
    """x (n, F) = gelu(x + biais), sur place."""
    rows, width = x.shape
    for item in lots:
        for n in range(item * _PANEL, min(rows, (item + 1) * _PANEL)):
            for j in range(width):
                x[n, j] = gelu(x[n, j] + bias[j])


def activate(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + biais), écrit à la place de x (n, F) contigu."""
    launch(bias_gelu_, -(-len(x) // _PANEL), x, bias)
    return x
