"""L'ordre des suffixes d'une suite de tokens, et ce que l'index en garde sur disque.

Un bloc de l'index est une suite de tokens de l'un des fragments. Ses suffixes sont rangés dans
l'ordre de leurs octets, tels que le fragment les écrit : comparer deux passages est comparer deux
suites d'octets. Chaque place tient sur trois octets : un bloc compte au plus 2²⁴ tokens.

Formes : N tokens.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.shards.layout import HEADER_BYTES, TOKEN_DTYPE
from gpt_architecture.data.shards.reader import TokenShards
from gpt_architecture.storage import open_regular

Integers = NDArray[np.int64]

PLACE_BYTES = 3
MAX_BLOCK_TOKENS = 1 << (8 * PLACE_BYTES)

_KEY_BITS = 62


def suffix_order(tokens: NDArray[Any], depth: int | None = None) -> Integers:
    """Places (N,) des suffixes de `tokens` (N,), dans l'ordre de leurs `depth` premiers tokens.

    Par doublement (Manber et Myers, 1993) : les suffixes, rangés par leurs premiers tokens, le
    sont ensuite par le rang de ce qui les suit ; seuls les ex æquo sont repris (Larsson et
    Sadakane, 2007). Un suffixe plus court que `depth` vient avant ceux qu'il commence. Le temps
    est O(N log² N), même d'un seul token répété.

    Args:
        tokens: entiers ≥ 0, (N,).
        depth: tokens comparés, au moins ; None : tous.
    """
    size = len(tokens)
    depth = size if depth is None else depth
    present = np.bincount(tokens) > 0
    base = int(np.count_nonzero(present)) + 1
    rank = np.zeros(size + 1, dtype=np.int32)  # 0, en dernier : au-delà de la fin
    rank[:size] = np.cumsum(present, dtype=np.int32)[tokens]
    length = max(1, min(depth, int(_KEY_BITS / math.log2(base + 1))))
    key = np.zeros(size, dtype=np.int64)
    for shift in range(length):
        key *= base
        key[: max(0, size - shift)] += rank[shift:size]
    order = np.argsort(key)
    key = key[order]
    tied = _group(key, order, rank, None)
    while tied.size and length < depth:
        suffixes = order[tied]
        after = suffixes + length
        np.minimum(after, size, out=after)
        key = rank[suffixes].astype(np.int64)
        key *= size + 1
        key += rank[after]
        del after
        new = np.argsort(key)
        key, suffixes = key[new], suffixes[new]
        del new
        order[tied] = suffixes
        tied = _group(key, suffixes, rank, tied)
        length *= 2
    return order


def _group(
    key: Integers, suffixes: Integers, rank: NDArray[np.int32], places: Integers | None
) -> Integers:
    """Donne leur rang à des suffixes rangés par `key` ; rend les places des ex æquo.

    Le rang d'un groupe d'ex æquo est la place de son premier, plus un : il ne change pas quand un
    autre groupe se divise.

    Args:
        key: ce qui les a rangés.
        suffixes: les suffixes, dans l'ordre.
        rank: rang de chaque suffixe, changé sur place.
        places: leur place parmi tous ; None : ils y sont tous.
    """
    first = np.empty(key.size, dtype=bool)
    first[:1] = True
    np.not_equal(key[1:], key[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=key.size)
    heads = starts if places is None else places[starts]
    rank[suffixes] = np.repeat((heads + 1).astype(np.int32), sizes)
    ties = np.flatnonzero(np.repeat(sizes > 1, sizes))
    return ties if places is None else places[ties]


def sorted_block(path: Path | str, start: int, count: int) -> bytes:
    """Les places triées d'un bloc, `PLACE_BYTES` octets petit-boutistes par place.

    Args:
        path: le fragment.
        start: premier token du bloc, dans ce fragment.
        count: tokens du bloc.

    Raises:
        OSError: fragment illisible.
    """
    with open_regular(path) as file:
        file.seek(HEADER_BYTES + start * TOKEN_DTYPE.itemsize)
        data = file.read(count * TOKEN_DTYPE.itemsize)
    # Lus gros-boutistes, les tokens ont l'ordre de leurs octets
    order = suffix_order(np.frombuffer(data, dtype=TOKEN_DTYPE.newbyteorder(">")))
    places = order.astype("<u4").view(np.uint8).reshape(-1, 4)
    return places[:, :PLACE_BYTES].tobytes()


@dataclass(frozen=True, kw_only=True)
class Block:
    """Des tokens d'un fragment, dont les suffixes sont rangés ensemble.

    Attributes:
        number: rang du bloc, et nom de son fichier.
        path: le fragment.
        start: premier token, dans ce fragment.
        tokens: nombre de tokens.
        place: premier token, dans toute la part.
    """

    number: int
    path: Path
    start: int
    tokens: int
    place: int

    @property
    def name(self) -> str:
        """Nom du fichier des suffixes."""
        return f"provenance_{self.number:06d}.suf"


def blocks_of(tokens: TokenShards, block_tokens: int) -> list[Block]:
    """Les blocs d'une part : chaque fragment, en parts égales d'au plus `block_tokens` tokens."""
    found, place = list[Block](), 0
    for path, count in tokens.files:
        parts = -(-count // block_tokens)
        for start, end in pairwise(count * part // parts for part in range(parts + 1)):
            block = Block(
                number=len(found), path=path, start=start, tokens=end - start, place=place + start
            )
            found.append(block)
        place += count
    return found


def place_at(order: mmap.mmap, rank: int) -> int:
    """La place du suffixe de ce rang, dans son bloc."""
    first = rank * PLACE_BYTES
    return int.from_bytes(order[first : first + PLACE_BYTES], "little")


def raw_tokens(ids: Sequence[int] | Integers) -> bytes:
    """Des identifiants, tels que les fragments les écrivent."""
    return np.asarray(ids).astype(TOKEN_DTYPE).tobytes()


def common_start(first: bytes, second: bytes) -> int:
    """Octets communs au début de deux suites."""
    size = min(len(first), len(second))
    differ = int.from_bytes(first[:size]) ^ int.from_bytes(second[:size])
    return size - (differ.bit_length() + 7) // 8


def common_end(first: bytes, second: bytes) -> int:
    """Octets communs à la fin de deux suites."""
    size = min(len(first), len(second))
    differ = int.from_bytes(first[-size:], "little") ^ int.from_bytes(second[-size:], "little")
    return size - (differ.bit_length() + 7) // 8
