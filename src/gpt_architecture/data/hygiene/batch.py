"""Un lot de documents vu par NumPy : ses mots, ses lignes, leurs empreintes, d'un seul tenant.

Tout ce qui compare des textes part d'ici : qualité, langue, doublons, recouvrements. Les documents
sont mis bout à bout, en minuscules, un caractère nul après chacun (aucun n'en contient).

Formes : N caractères du lot, W mots, L lignes, D documents.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

MAX_CHARACTERS = 8 << 20
"""Caractères d'un lot, au plus : ses tableaux tiennent alors dans un quart de gigaoctet."""

_LAST_LETTER = 0x40000  # les plans suivants n'ont ni lettre, ni chiffre, ni blanc
_BASE = 0x9E3779B97F4A7C15  # impair : il a un inverse modulo 2⁶⁴
_MODULUS = 1 << 64
_STEP = 1 << 16
_UNSORTED = 1 << 16  # empreintes qui attendent d'être réunies aux autres, au moins
_KEPT_RUNS = 5  # mots d'une suite gardée pour en faire de plus longues

WORD, LETTER, BLANK, SYMBOL, ELLIPSIS, ENDING, BULLET = (np.uint8(1 << n) for n in range(7))
"""Classes d'un caractère, cumulables : `\\w`, une lettre, `\\s`, puis `_MEMBERS`."""
_MEMBERS = {
    "#{}…": SYMBOL,
    "…": ELLIPSIS,
    ".!?…:;»”\"’')]": ENDING,
    "•‣▪●◦■□*": BULLET,
}


@cache
def _classes() -> NDArray[np.uint8]:
    """La classe de chaque point de code : celles des expressions régulières, et les nôtres."""
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    every = "".join(map(chr, range(_LAST_LETTER)))
    for pattern, kind in ((r"\w+", WORD), (r"[^\W\d_]+", LETTER), (r"\s+", BLANK)):
        for match in re.finditer(pattern, every):
            table[match.start() : match.end()] |= kind
    table[0] |= BLANK
    for members, kind in _MEMBERS.items():
        for character in members:
            table[ord(character)] |= kind
    return table


@cache
def _powers(base: int, count: int) -> Hashes:
    """(count,) Puissances de `base` modulo 2⁶⁴."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    products: Hashes = np.cumprod(powers, dtype=np.uint64)
    return products


def _weights(count: int) -> Hashes:
    """(count,) Le poids de chaque place d'une suite."""
    rounded = 1 << max(_STEP - 1, count - 1).bit_length()  # peu de tailles : peu de tables gardées
    return _powers(_BASE, rounded)[:count]


def _inverse_weights(places: Places) -> Hashes:
    """L'inverse du poids de ces places."""
    inverse = pow(_BASE, -1, _MODULUS)
    high = _powers(pow(inverse, _STEP, _MODULUS), 2 * MAX_CHARACTERS // _STEP)
    weights: Hashes = _powers(inverse, _STEP)[places & (_STEP - 1)] * high[places >> 16]
    return weights


def _mixed(hashes: Hashes) -> Hashes:
    """Répand chaque bit sur les 64 ; une bijection."""
    hashes = hashes ^ (hashes >> np.uint64(31))
    hashes = hashes * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(29))


def hash_text(text: str) -> int:
    """L'empreinte de 64 bits d'un mot ou d'une ligne ; l'oracle de `Batch`."""
    total = 0
    for place, character in enumerate(text):
        total = (total + ord(character) * pow(_BASE, place, _MODULUS)) % _MODULUS
    return int(_mixed(np.array([total], np.uint64))[0])


def hash_bytes(data: bytes) -> int:
    """L'empreinte de 64 bits d'un document entier : le début de son BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def union(pieces: Iterable[Hashes]) -> Hashes:
    """Les empreintes de toutes ces suites, triées, chacune une fois.

    Quelques-unes attendent, une part de celles déjà triées, avant de l'être avec elles : la durée
    suit leur nombre, et la mémoire en tient trois copies.
    """
    found, waiting, size = np.zeros(0, np.uint64), list[Hashes](), 0
    for piece in pieces:
        waiting.append(piece)
        size += piece.size
        if size > max(_UNSORTED, found.size // 4):
            found, waiting, size = _sorted_once([found, *waiting]), [], 0
    return _sorted_once([found, *waiting])


def _sorted_once(parts: Sequence[Hashes]) -> Hashes:
    """Triées sur place : `np.unique` en fait une table de hachage, bien plus grosse qu'elles."""
    merged = np.concatenate(parts)
    merged.sort()
    new = np.ones(merged.size, np.bool_)
    np.not_equal(merged[1:], merged[:-1], out=new[1:])
    return merged[new]


class _Prefix:
    """Les sommes partielles d'une suite, d'où vient l'empreinte de tout intervalle.

    Args:
        values: (N,) entiers.
    """

    def __init__(self, values: NDArray[np.unsignedinteger]) -> None:
        self._sums = np.zeros(values.size + 1, np.uint64)
        np.multiply(values, _weights(values.size), out=self._sums[1:])
        np.cumsum(self._sums[1:], out=self._sums[1:])

    def hashes(self, starts: Places, ends: Places) -> Hashes:
        """Empreinte de chaque [début, fin[ : la même où qu'il soit."""
        return _mixed((self._sums[ends] - self._sums[starts]) * _inverse_weights(starts))


class Known:
    """Un ensemble d'empreintes, où chercher beaucoup d'autres.

    Args:
        hashes: les empreintes.
    """

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = _sorted_once([hashes])
        bits = min(25, max(10, (8 * self.hashes.size).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, np.bool_)  # écarte d'abord presque tout, en un accès
        self._maybe[self.hashes >> self._shift] = True

    def __bool__(self) -> bool:
        return self.hashes.size > 0

    def among(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Vrai pour une empreinte de l'ensemble ; jamais pour 0."""
        found: NDArray[np.bool_] = self._maybe[hashes >> self._shift]
        places = np.flatnonzero(found)
        some = hashes[places]
        near = np.minimum(np.searchsorted(self.hashes, some), self.hashes.size - 1)
        found[places] = (self.hashes[near] == some) & (some != 0)
        return found


class Batch:
    """Les mots et les lignes d'un lot.

    Args:
        texts: les documents ; `MAX_CHARACTERS` caractères au plus, à eux tous.

    Attributes:
        text: les documents, en minuscules, un caractère nul après chacun.
        codes: (N,) ses points de code.
        kinds: (N,) classes de chaque caractère.
        ends: (D,) place du caractère nul qui suit chaque document.
        words: (W,) empreinte de chaque mot : une suite de lettres, de chiffres et de « _ ».
        word_starts: (W,) place de chaque mot.
        word_ends: (W,) place qui le suit.
        first_words: (D + 1,) rang du premier mot de chaque document, puis W.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.text = "\0".join([*texts, ""]).lower()
        self.codes = np.frombuffer(self.text.encode("utf-32-le"), np.uint32)
        self.kinds = _classes().take(self.codes)
        self.ends: Places = np.flatnonzero(self.codes == 0)
        self._prefix = _Prefix(self.codes)
        self.word_starts, self.word_ends = _spans(self.kinds & WORD != 0)
        self.words = self._prefix.hashes(self.word_starts, self.word_ends)
        self._runs = {1: self.words}
        self.first_words: Places = np.concatenate(
            [[0], np.searchsorted(self.word_starts, self.ends)]
        )

    @property
    def size(self) -> int:
        """Documents du lot."""
        return self.ends.size

    @property
    def word_counts(self) -> Places:
        """(D,) Mots de chaque document."""
        return np.diff(self.first_words)

    @cached_property
    def word_owners(self) -> Places:
        """(W,) Rang du document de chaque mot."""
        return np.repeat(np.arange(self.size), self.word_counts)

    @cached_property
    def document_hashes(self) -> Hashes:
        """(D,) Empreinte de chaque document, casse ignorée."""
        starts = np.concatenate([[0], self.ends[:-1] + 1])
        return self._prefix.hashes(starts, self.ends)

    @cached_property
    def lines(self) -> Lines:
        """Les lignes du lot."""
        return Lines(self.codes, self.kinds, self.ends, self._prefix)

    def word_sums(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """(D,) Somme sur chaque document de `values`, (W,)."""
        return _sums(values, self.first_words)

    def counts_at(self, places: Places) -> NDArray[np.int64]:
        """(D,) Combien de ces places de caractères, croissantes, sont à chaque document."""
        return np.diff(np.searchsorted(places, self.ends, side="right"), prepend=0)

    def holding(self, phrase: str) -> NDArray[np.bool_]:
        """(D,) Vrai pour un document qui contient ces mots, en minuscules."""
        found, place = np.zeros(self.size, np.bool_), self.text.find(phrase)
        while place >= 0:
            found[np.searchsorted(self.ends, place)] = True
            place = self.text.find(phrase, place + 1)
        return found

    def runs(self, size: int) -> Hashes:
        """(W − size + 1,) Le polynôme de chaque suite de `size` mots, à cheval ou non.

        Il est fait de ceux de ses deux moitiés, gardés d'une taille à l'autre.
        """
        if size not in self._runs:
            places = max(0, self.words.size - size + 1)
            half = size // 2
            first, second = self.runs(size - half), self.runs(half)
            found = first[:places] * np.uint64(pow(_BASE, half, _MODULUS))
            found += second[size - half :]
            if size > _KEPT_RUNS:
                return found
            self._runs[size] = found
        return self._runs[size]

    def crossing(self, size: int) -> Places:
        """Rang des mots d'où une suite de `size` mots déborderait de leur document ; croissants."""
        places = max(0, self.words.size - size + 1)
        found = np.unique(self.first_words[1:, None] - np.arange(1, size))
        return found[(found >= 0) & (found < places)]

    def ngrams(self, size: int) -> tuple[Hashes, Places]:
        """Les suites de `size` mots qui tiennent dans un document.

        Returns:
            (M,) leurs empreintes, et (M,) le rang du premier mot de chacune.
        """
        runs = self.runs(size)
        inside = np.ones(runs.size, np.bool_)
        inside[self.crossing(size)] = False
        return _mixed(runs[inside]), np.flatnonzero(inside)


class Lines:
    """Les lignes d'un lot, leurs blancs de bord ôtés. (L,) chacun, dans l'ordre.

    Attributes:
        hashes: empreinte.
        starts: place du premier caractère.
        ends: place qui suit le dernier ; celle de `starts` pour une ligne blanche.
        owners: rang du document.
        first: (D + 1,) rang de la première ligne de chaque document, puis L.
    """

    def __init__(
        self,
        codes: NDArray[np.uint32],
        kinds: NDArray[np.uint8],
        ends: Places,
        prefix: _Prefix,
    ) -> None:
        self._codes, self._kinds = codes, kinds
        stops = np.flatnonzero((codes == ord("\n")) | (codes == 0))
        opens = np.concatenate([[0], stops + 1])[: stops.size]
        firsts, lasts = _spans(kinds & BLANK == 0)  # aucun ne passe une fin de ligne
        low, high = np.searchsorted(firsts, opens), np.searchsorted(firsts, stops)
        some = high > low
        self.starts: Places = opens
        self.ends: Places = opens.copy()
        self.starts[some], self.ends[some] = firsts[low[some]], lasts[high[some] - 1]
        self.hashes = prefix.hashes(self.starts, self.ends)
        self.first: Places = np.concatenate([[0], np.searchsorted(stops, ends, side="right")])
        self.owners = np.repeat(np.arange(ends.size), np.diff(self.first))

    @property
    def lengths(self) -> Places:
        """Caractères, blancs de bord ôtés."""
        return self.ends - self.starts

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """(D,) Somme sur chaque document de `values`, (L,)."""
        return _sums(values, self.first)

    def starting(self, kind: np.uint8) -> NDArray[np.bool_]:
        """Vrai si le premier caractère est de cette classe."""
        found: NDArray[np.bool_] = (self._kinds[self.starts] & kind != 0) & (self.lengths > 0)
        return found

    def ending(self, kind: np.uint8) -> NDArray[np.bool_]:
        """Vrai si le dernier caractère est de cette classe."""
        last = np.maximum(self.ends - 1, 0)
        found: NDArray[np.bool_] = (self._kinds[last] & kind != 0) & (self.lengths > 0)
        return found

    def starting_with(self, text: str) -> NDArray[np.bool_]:
        """Vrai si la ligne commence par ces caractères."""
        found = self.lengths >= len(text)
        for offset, character in enumerate(text):
            places = np.minimum(self.starts + offset, self._codes.size - 1)
            found &= self._codes[places] == ord(character)
        return found

    def ending_with(self, text: str) -> NDArray[np.bool_]:
        """Vrai si la ligne finit par ces caractères."""
        found = self.lengths >= len(text)
        for offset, character in enumerate(reversed(text), start=1):
            places = np.maximum(self.ends - offset, 0)
            found &= self._codes[places] == ord(character)
        return found

    def paragraphs(self) -> tuple[Hashes, Places, Places]:
        """Les paragraphes, que séparent des lignes blanches ; sans blanche, chaque ligne en est un.

        Returns:
            (P,) empreintes ; (P,) rang de la première ligne ; (P,) rang qui suit la dernière.
        """
        filled = self.lengths > 0
        # Une ligne blanche entre deux autres : le document a des paragraphes de plusieurs lignes
        ranks: Places = np.cumsum(filled) - filled
        last = np.concatenate([ranks, [int(filled.sum())]])[self.first]
        inner = ~filled & (ranks > last[self.owners]) & (ranks < last[self.owners + 1])
        spaced = self.sums(inner) > 0
        before = np.concatenate([[False], filled[:-1] & (self.owners[1:] == self.owners[:-1])])
        opening = filled & ~(before & spaced[self.owners])
        firsts = np.flatnonzero(opening)
        groups = np.cumsum(opening) - 1
        counts = np.bincount(groups[filled], minlength=firsts.size)
        ends = firsts + counts  # les lignes d'un paragraphe se suivent
        return _Prefix(self.hashes).hashes(firsts, ends), firsts, ends


def _spans(inside: NDArray[np.bool_]) -> tuple[Places, Places]:
    """Le début de chaque suite de vrais, et la place qui la suit ; le dernier caractère est nul."""
    turns = inside.copy()
    np.not_equal(inside[1:], inside[:-1], out=turns[1:])
    places = np.flatnonzero(turns)
    return places[::2], places[1::2]


def _sums(values: NDArray[np.generic], firsts: Places) -> NDArray[np.int64]:
    """Sommes de `values` entre des bornes croissantes ; un intervalle vide donne 0."""
    totals = np.zeros(values.size + 1, np.int64)
    np.cumsum(values, out=totals[1:])
    return np.diff(totals[firsts])
