"""Ce qui entoure les produits : normes, codes des activations, attention, GELU.

Les trois premiers préparent les activations d'un pas : x (hauteur, D), gain et décalage de la
norme (vides : pas de norme), lignes de x à lire (vide : toutes). `low_rank_` est le calcul des
adaptateurs (voir `core.adapters`). Le dernier sert quand PyTorch fait les produits (voir
`passes.TorchPass`).

Formes : M activations présentes, D largeur, H têtes, K taille d'une tête, S positions vues, F
largeur du perceptron.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit
from torch import Tensor

from gpt_architecture.kernels.decode.integer_tiles import CODE_BYTES
from gpt_architecture.kernels.decode.row_tiles import (
    KEYS,
    MIXED,
    TOGETHER,
    TURNED,
    encode_group,
    mix_values,
    score_keys,
    score_turned,
    turn_keys,
)
from gpt_architecture.kernels.decode.weights import CHUNK
from gpt_architecture.kernels.runtime.arithmetic import FAST, exp, gelu, mean_and_variance
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
"""Lignes d'un lot de `bias_gelu_`."""

STATE_HEADER, STATE_BLOCK = 4, 5
"""Mots de l'état : d'abord adresse du cache, sa capacité, ses lignes, et les requêtes d'un bloc au
plus ; puis, par bloc de requêtes d'une séquence, sa ligne dans le cache, les positions qui y sont,
sa première activation, et parmi celles-ci la première requête du bloc et celle qui le suit."""

QUERIES = 32
"""Requêtes d'un bloc, au plus : de longues parts occupent tous les threads."""

TABLE = 3
"""Mots de la table d'un adaptateur, par matrice ; voir `low_rank_`."""

_LINE = 16
"""Valeurs d'une ligne de cache : une clé transposée à cheval sur deux en lirait deux."""

_VALUES = 64
"""Valeurs d'un tour : 16 Kio, pour des têtes de 64."""

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
    mean, variance = mean_and_variance(x)
    # En fp64 : en fp32, ce serait une estimation propre à chaque processeur, puis corrigée.
    inverse = _F(1.0 / np.sqrt(np.float64(variance + _F(1e-5))))
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
    width, groups = x.shape[1], factors.shape[1]
    y = np.zeros(groups * group, np.float32)
    for m in lots:
        _normalize(x[_row_of(chosen, m)], gain, shift, y[:width])
        for g in range(groups):
            encode_group(
                y.ctypes.data + 4 * group * g,
                group // CHUNK,
                codes.address + codes.width * m + CODE_BYTES * group * g,
                factors.ctypes.data + 4 * (groups * m + g),
                offsets.ctypes.data + 4 * (groups * m + g),
                bias,
            )


@njit(**_OPTIONS)
def _floats(address: Any, size: Any) -> Any:
    """Les `size` valeurs fp32 à cette adresse."""
    return carray(pointer(address), (size,), np.float32)


@kernel
def low_rank_(
    lots: Lots,
    x: Matrix,
    gain: Vector,
    shift: Vector,
    owners: Integers,
    first: Integer,
    parts: Integer,
    part_rows: Integer,
    delta: Matrix,
) -> None:
    """delta (hauteur, N) = s·B·A·norme(x), pour les lignes qui ont un adaptateur ; les autres non.

    Un lot est une partie d'une ligne : le résultat n'est fait que d'elle. `owners` : l'adresse de
    la table de l'adaptateur de chaque ligne, 0 s'il n'y en a pas. Une table a TABLE mots par
    matrice, dont celles d'ici suivent `first` autres : adresses de A (r, D) et de s·Bᵀ (r, lignes
    d'une partie), puis r, nul si l'adaptateur laisse cette matrice.
    """
    width = x.shape[1]
    y = np.empty(width, np.float32)
    for item in lots:
        m, part = item // parts, item % parts
        if owners[m] == 0:
            continue
        table = carray(pointer(owners[m] + 8 * TABLE * (first + part)), (TABLE,), np.int64)
        rank = table[2]
        target = delta[m, part * part_rows : (part + 1) * part_rows]
        target[:] = _F(0.0)
        if rank == 0:
            continue
        _normalize(x[m], gain, shift, y)
        for k in range(rank):
            low = _F(0.0)
            down = _floats(table[0] + 4 * width * k, width)
            for j in range(width):
                low += down[j] * y[j]
            up = _floats(table[1] + 4 * part_rows * k, part_rows)
            for n in range(part_rows):
                target[n] += low * up[n]


@njit(**_OPTIONS)
def _score(q: Any, keys: Any, size: Any, count: Any, out: Any) -> None:
    """out = q · clé, de `count` clés de `size` valeurs, KEYS au plus ; out en a toujours KEYS."""
    if size % KEYS == 0:
        score_keys(q, keys, 4 * size, size // KEYS, count - 1, out)
        return
    query, scores = _floats(q, size), _floats(out, count)
    for s in range(count):
        total, key = _F(0.0), _floats(keys + 4 * size * s, size)
        for j in range(size):
            total += query[j] * key[j]
        scores[s] = total


@njit(**_OPTIONS)
def _mix(
    queries: Any, weights: Any, line: Any, values: Any, size: Any, count: Any, out: Any, stride: Any
) -> None:
    """out (queries, size) += Σ poids · valeur, de `count` positions ; une requête, ou TOGETHER."""
    if size % KEYS == 0:
        for j in range(0, size, MIXED * KEYS):
            vectors, where = min(MIXED, (size - j) // KEYS), values + 4 * j
            mix_values(vectors, queries, weights, line, where, 4 * size, count, out + 4 * j, stride)
        return
    for t in range(queries):
        shares, total = _floats(weights + line * t, count), _floats(out + stride * t, size)
        for s in range(count):
            value = _floats(values + 4 * size * s, size)
            for j in range(size):
                total[j] += shares[s] * value[j]


@njit(**_OPTIONS)
def _softmax(scores: Any, scale: Any) -> Any:
    """scores devient exp((scores − max) · scale) ; rend 1 / leur somme."""
    bits, top, total = scores.view(np.int32), np.int32(-0x80000000), _F(0.0)
    for s in range(
        scores.size
    ):  # dans l'ordre des entiers : la boucle se vectorise, un NaN se voit
        top = max(top, np.int32(bits[s] ^ ((bits[s] >> 31) & np.int32(0x7FFFFFFF))))
    top = np.int32(top ^ ((top >> 31) & np.int32(0x7FFFFFFF)))
    peak = top.view(np.float32)
    for s in range(scores.size):
        scores[s] = exp((scores[s] - peak) * scale)
        total += scores[s]
    return _F(1.0) / total


@njit(**_OPTIONS)
def _score_all(q: Any, keys: Any, past: Any, scores: Any, turned: Any) -> None:
    """scores (T, S) = q · clés ; à partir de TOGETHER requêtes, les clés sont transposées."""
    count, size = q.shape
    q_stride, line, vectors = q.strides[0], scores.strides[0], size // KEYS
    first_q, first_score, first_turned = q.ctypes.data, scores.ctypes.data, turned.ctypes.data
    turns = False
    for known in TURNED:
        turns = turns or (count >= TOGETHER and size == known * KEYS)
    for s in range(0, past + count - 1, KEYS):
        block, first = keys + 4 * size * s, max(0, s - past + 1)  # la première qui voit une clé
        if turns:
            turn_keys(block, 4 * size, vectors, min(KEYS, past + count - 1 - s) - 1, first_turned)
        for t in range(first, count, TOGETHER if turns else 1):
            query, where = first_q + q_stride * t, first_score + line * t + 4 * s
            if turns:
                score_turned(vectors, query, q_stride, count - 1 - t, first_turned, where, line)
            else:
                _score(query, block, size, min(KEYS, past + t - s), where)


@njit(**_OPTIONS)
def _mix_all(scores: Any, values: Any, past: Any, out: Any) -> None:
    """out (T, K) += Σ scores · valeur ; la requête t voit `past` + t positions."""
    count, size = out.shape
    line, stride = scores.strides[0], out.strides[0]
    for s in range(0, past + count - 1, _VALUES):
        for t in range(max(0, s - past + 1), count, TOGETHER):
            shared, together = 0, min(TOGETHER, count - t)
            weights = scores.ctypes.data + line * t + 4 * s
            where, here = out.ctypes.data + stride * t, values + 4 * size * s
            if together == TOGETHER:  # les positions que la première voit, toutes les voient
                shared = min(_VALUES, past + t - s)
                _mix(TOGETHER, weights, line, here, size, shared, where, stride)
            weights, here = weights + 4 * shared, here + 4 * size * shared
            for u in range(together):
                rest = min(_VALUES, past + t + u - s) - shared
                _mix(1, weights + line * u, line, here, size, rest, where + stride * u, stride)


@njit(**_OPTIONS)
def _attend(q: Any, keys: Any, values: Any, past: Any, scores: Any, turned: Any, out: Any) -> None:
    """out (T, K) = attention de q (T, K) ; la requête t voit `past` + t positions.

    `keys` et `values` : leurs adresses. Quelques-unes servent à toutes les requêtes tant
    qu'elles sont dans le premier cache ; par adresses, un tableau par tour coûterait plus que les
    produits. Une requête seule et plusieurs font les mêmes sommes, dans le même ordre.
    """
    count, size = q.shape
    scale, inverses = _F(1.0) / np.sqrt(_F(size)), np.empty(count, np.float32)
    _score_all(q, keys, past, scores, turned)
    for t in range(count):
        inverses[t] = _softmax(scores[t, : past + t], scale)
        out[t, :] = _F(0.0)
    _mix_all(scores, values, past, out)
    for t in range(count):
        row = out[t]
        for j in range(size):
            row[j] *= inverses[t]


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
    # À la taille du passage : toujours QUERIES lignes, et chaque couche redemanderait au système
    # ces 132 Kio, page par page.
    scores = np.empty((state[3], capacity + KEYS), np.float32)
    turned = np.empty(size * KEYS + _LINE, np.float32)
    turned = turned[-(turned.ctypes.data // 4) % _LINE :]
    for item in lots:
        head, word = item % heads, STATE_HEADER + STATE_BLOCK * (item // heads)
        line, past, row = state[word], state[word + 1], state[word + 2]
        start, stop = state[word + 3], state[word + 4]
        first = head * size
        where = storage + 4 * plane * ((2 * layer * lines + line) * heads + head)
        keys = carray(pointer(where), (capacity, size), np.float32)
        second = where + 4 * plane * lines * heads
        values = carray(pointer(second), (capacity, size), np.float32)
        for t in range(stop):
            fresh, key, value = qkv[row + t], keys[past + t], values[past + t]
            k, v = fresh[width + first :], fresh[2 * width + first :]
            for j in range(size):
                key[j], value[j] = k[j], v[j]
        q = qkv[row + start : row + stop, first : first + size]
        out = context[row + start : row + stop, first : first + size]
        _attend(q, where, second, past + start + 1, scores, turned, out)


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
