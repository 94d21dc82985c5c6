"""Les quantificateurs « K » de llama.cpp, que le paquet gguf ne sait que relire : q4_K, q5_K, q6_K.

Un bloc tient 256 poids d'une ligne, en groupes de 32 (q4_K, q5_K) ou de 16 (q6_K). Chaque groupe
essaie plusieurs grilles voisines et garde celle dont l'erreur, pondérée, est la plus petite ; les
échelles des groupes sont à leur tour quantifiées, sur 6 ou 8 bits, par une échelle fp16 du bloc.

Les octets sont ceux de `ggml_quantize_chunk` (ggml-org/llama.cpp, `ggml-quants.c`) sans matrice
d'importance. Cela tient à l'ordre des opérations, toutes en fp32 : une somme se fait terme après
terme, et aucune multiplication n'est fondue avec l'addition qui la suit. Les groupes sont donc en
colonnes : une réduction sur l'axe 0 les somme ligne après ligne.

Formes : N lignes d'une matrice, D largeur, n groupes, g poids d'un groupe, b blocs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

BLOCK = 256
"""Poids d'un bloc."""

_CHUNK = 512  # blocs traités ensemble : leurs tableaux restent dans le cache du processeur
_THREADS = 2  # numpy rend la main pendant ses calculs
_TINY = np.float32(1e-15)  # en dessous, un groupe de q6_K est nul
_NEIGHBOURS = tuple(rank for rank in range(-9, 10) if rank)  # les grilles voisines qu'essaie q6_K


class _Grid(NamedTuple):
    """Les grilles qu'un groupe de q4_K ou q5_K essaie.

    Attributes:
        top: plus grand code.
        first: ce que la première ajoute à `top`.
        steps: nombre de grilles, à 0,1 l'une de l'autre.
    """

    top: int
    first: float
    steps: int


_Q4, _Q5 = _Grid(15, -1.0, 21), _Grid(31, -0.5, 16)


def quantize(matrix: Floats, kind: Any) -> Codes:
    """Les octets (N, …) d'une matrice (N, D) fp32, d'un type GGML quelconque.

    Args:
        matrix: finie ; D est un multiple de 256 pour q4_K, q5_K et q6_K.
        kind: `gguf.GGMLQuantizationType` ; les types que le paquet gguf sait écrire le sont par
            lui.
    """
    pack = _PACKERS.get(kind.name)
    if pack is None:
        from gguf import quants  # noqa: PLC0415 — facultatif

        written: Codes = quants.quantize(matrix, kind)
        return written
    blocks = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1, BLOCK)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(_quiet(pack), _chunks(blocks)))
    return np.concatenate(parts).reshape(matrix.shape[0], -1)


def _quiet(pack: Callable[[Floats], Codes]) -> Callable[[Floats], Codes]:
    """Un groupe constant divise par zéro ; `where` écarte ensuite le résultat.

    Ce réglage de numpy ne vaut que dans le thread qui le pose.
    """

    def quiet(blocks: Floats) -> Codes:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return pack(blocks)

    return quiet


def _chunks(blocks: Floats) -> Iterator[Floats]:
    for start in range(0, len(blocks), _CHUNK):
        yield blocks[start : start + _CHUNK]


def _pack_q4(blocks: Floats) -> Codes:
    """(b, 256) → (b, 144) : d, dmin, 12 octets d'échelles, puis deux codes par octet."""
    head, codes = _affine(blocks, _Q4)  # (b, 8, 32)
    pairs = codes.reshape(-1, 4, 2, 32)
    return np.concatenate([head, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def _pack_q5(blocks: Floats) -> Codes:
    """(b, 256) → (b, 176) : comme q4_K, les cinquièmes bits des codes avant les quatre autres."""
    head, codes = _affine(blocks, _Q5)
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    ranks = np.arange(8, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(codes >> 4 << ranks, axis=1)  # (b, 32), un bit par groupe
    return np.concatenate([head, high, low], axis=1)


def _pack_q6(blocks: Floats) -> Codes:
    """(b, 256) → (b, 210) : quatre bits, puis deux bits des codes, 16 échelles int8, d fp16."""
    x = blocks.reshape(-1, 16)
    scales, codes = _symmetric(x.T)  # (n,), (16, n)
    scales, groups = scales.reshape(-1, 16), x.reshape(-1, 16, 16)
    largest = abs(scales).argmax(axis=1)[:, None]
    top = np.take_along_axis(scales, largest, axis=1)  # (b, 1), signé
    empty = abs(top) < _TINY
    inverse = np.float32(-128) / top
    d = np.where(empty, 0, np.float32(1) / inverse).astype(np.float16)
    levels = np.where(empty, 0, np.minimum(_rounded(inverse * scales), 127)).astype(np.int8)
    step = (d.astype(np.float32) * levels)[..., None]
    again = _nearest(groups / step, 31, -32) + 32
    kept = codes.T.reshape(-1, 16, 16)
    final = np.where(step == 0, kept, again)
    final = np.where(empty[..., None], 0, final).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.stack([final[:, :, i] & 15 | (final[:, :, i + 2] & 15) << 4 for i in (0, 1)], axis=2)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(final >> 4 << shifts, axis=2)  # (b, 2, 32)
    parts = low.reshape(-1, 128), high.reshape(-1, 64), levels.view(np.uint8), d.view(np.uint8)
    return np.concatenate(parts, axis=1)


_PACKERS: dict[str, Callable[[Floats], Codes]] = {
    "Q4_K": _pack_q4,
    "Q5_K": _pack_q5,
    "Q6_K": _pack_q6,
}


def _affine(blocks: Floats, grid: _Grid) -> tuple[Codes, Codes]:
    """q4_K et q5_K : l'en-tête (b, 16) de chaque bloc et ses codes (b, 8, 32)."""
    x = np.ascontiguousarray(blocks.reshape(-1, 32).T)  # (32, n)
    scales, floors, codes = _fit(x, grid)
    scales, floors = scales.reshape(-1, 8), floors.reshape(-1, 8)
    levels, d = _sixth(scales)
    bottoms, d_min = _sixth(floors)
    step = (d.astype(np.float32) * levels)[..., None]  # (b, 8, 1)
    floor = (d_min.astype(np.float32) * bottoms)[..., None]
    again = _nearest((blocks.reshape(-1, 8, 32) + floor) / step, grid.top)
    final = np.where(step == 0, codes.T.reshape(-1, 8, 32), again).astype(np.uint8)
    packed = _pack_levels(levels.astype(np.uint8), bottoms.astype(np.uint8))
    return np.concatenate([d.view(np.uint8), d_min.view(np.uint8), packed], axis=1), final


def _sixth(values: Floats) -> tuple[Floats, NDArray[np.float16]]:
    """(b, 8) valeurs positives → leurs codes sur 6 bits (b, 8), et l'échelle fp16 (b, 1)."""
    top = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    inverse = np.where(top > 0, np.float32(63) / top, np.float32(0))
    codes = np.minimum(_rounded(inverse * values) & 255, 63)  # ggml borne l'octet, non l'entier
    return codes.astype(np.float32), (top / np.float32(63)).astype(np.float16)


def _pack_levels(levels: Codes, bottoms: Codes) -> Codes:
    """Deux fois huit codes de 6 bits en 12 octets (b, 12)."""
    high = [(each[:, 4:] >> 4) << 6 for each in (levels, bottoms)]
    first = levels[:, :4] | high[0], bottoms[:, :4] | high[1]
    return np.concatenate([*first, levels[:, 4:] & 15 | (bottoms[:, 4:] & 15) << 4], axis=1)


def _fit(x: Floats, grid: _Grid) -> tuple[Floats, Floats, Codes]:
    """La meilleure grille affine de chaque colonne de x (32, n).

    Returns:
        Pas (n,), minimum opposé (n,) ≥ 0, codes (32, n) : x ≈ pas·code − minimum.
    """
    top = np.float32(grid.top)
    weights = np.sqrt(_total(x * x) / np.float32(len(x))) + abs(x)
    low, high = np.minimum(x.min(axis=0), np.float32(0)), x.max(axis=0)
    constant = high == low
    sum_w, sum_x = _total(weights), _total(weights * x)
    scale = top / (high - low)
    step, floor = np.float32(1) / scale, low.copy()
    codes = _nearest(scale * (x - low), grid.top)
    best = _error(step, codes, floor, x, weights)
    for rank in range(grid.steps):
        offset = np.float32(grid.first) + np.float32(0.1) * np.float32(rank) + top
        tried = _nearest(offset / (high - floor) * (x - floor), grid.top)  # depuis le meilleur
        weighted = weights * tried
        sum_l, sum_l2, sum_xl = _total(weighted), _total(weighted * tried), _total(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_step: Floats = np.divide(sum_w * sum_xl - sum_x * sum_l, determinant)
        new_floor: Floats = np.divide(sum_l2 * sum_x - sum_l * sum_xl, determinant)
        positive = new_floor > 0
        np.copyto(new_step, sum_xl / sum_l2, where=positive)
        new_floor[positive] = 0
        error = _error(new_step, tried, new_floor, x, weights)
        better = (determinant > 0) & (error < best)
        np.copyto(codes, tried, where=better)
        for kept, new in ((best, error), (step, new_step), (floor, new_floor)):
            np.copyto(kept, new, where=better)
    codes[:, constant] = 0
    step[constant] = 0
    return step, -floor, codes.astype(np.uint8)


def _error(step: Floats, codes: Floats, floor: Floats, x: Floats, weights: Floats) -> Floats:
    difference = step * codes + floor - x
    return _total(weights * (difference * difference))


def _symmetric(x: Floats) -> tuple[Floats, Codes]:
    """La meilleure grille centrée de chaque colonne de x (16, n) : pas signé (n,), codes (16, n).

    x ≈ pas·(code − 32).
    """
    x = np.ascontiguousarray(x)
    largest = abs(x).argmax(axis=0)
    peak = np.take_along_axis(x, largest[None], axis=0)[0]
    weights = x * x
    weighted_x = weights * x

    def tried(numerator: np.float32) -> tuple[Floats, Floats, Floats]:
        levels = _nearest(numerator / peak * x, 31, -32)
        return levels, _total(weighted_x * levels), _total(weights * levels * levels)

    codes, sum_xl, sum_l2 = tried(np.float32(-32))
    step = np.where(sum_l2 > 0, sum_xl / sum_l2, np.float32(0))
    best = step * sum_xl
    for rank in _NEIGHBOURS:
        levels, sum_xl, sum_l2 = tried(-(np.float32(32) + np.float32(0.1) * np.float32(rank)))
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        np.copyto(codes, levels, where=better)
        np.copyto(step, sum_xl / sum_l2, where=better)
        np.copyto(best, step * sum_xl, where=better)
    empty = abs(peak) < _TINY
    codes[:, empty] = -32
    step[empty] = 0
    return step, (codes + 32).astype(np.uint8)


def _nearest(values: Floats, top: int, bottom: int = 0) -> Floats:
    """L'entier le plus proche, borné."""
    return np.clip(_rounded(values), bottom, top).astype(np.float32)


def _rounded(values: Floats) -> NDArray[np.int32]:
    """L'entier le plus proche, le pair à mi-chemin, comme ggml le trouve.

    Ajouter 1,5·2²³ pousse la partie entière dans les derniers bits, qui sont lus. D'un NaN, `rint`
    garderait NaN ; ici c'est 0, et d'un infini −2²².
    """
    bits = (values + np.float32(12582912)).view(np.int32)
    return (bits & 0x7FFFFF) - 0x400000


def _total(values: Floats) -> Floats:
    """La somme de chaque colonne, terme après terme, en fp32."""
    total: Floats = np.add.reduce(values, axis=0)
    return total
