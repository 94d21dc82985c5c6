"""Les passages que des données nomment : documents, lignes, conversations, rangs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.removal import Span, merged
from gpt_architecture.data.shards.reader import TokenShards, TokenSource
from gpt_architecture.data.texts.conversations import ConversationTokens
from gpt_architecture.data.texts.corpus import Document
from gpt_architecture.data.tokenizers.protocol import ByteTokenizer, Tokenizer
from gpt_architecture.data.tokenizers.simple import word_places
from gpt_architecture.errors import ConfigurationError, DataError

BLOCK_TOKENS = 1 << 20
_RECORD = re.compile(r".+:([0-9]+)(?:#[0-9]+)?")
_NUMBER = re.compile(r"(?:ligne |conversation |document )?([1-9][0-9]{0,8})")
MAX_SHOWN = 5

Ints = NDArray[np.int64]
Found = tuple[tuple[Span, ...], tuple[Span, ...]]
"""Des places de la suite d'entraînement, et de la validation."""


class Places(Protocol):
    """Les passages d'une source de l'entraînement, par leur nom."""

    def document(self, name: str) -> Found | None:
        """Le document de ce nom ; None : il n'y est pas."""
        ...

    def lines(self, first: int, last: int, name: str | None) -> Found | None:
        """Les lignes d'un fichier ; None : il n'y est pas."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Quelques noms qui conviennent, pour un refus."""
        ...


class TextPlaces:
    """Des textes, mis bout à bout puis coupés en deux parts."""

    def __init__(
        self,
        *,
        documents: Sequence[Document],
        train: TokenSource,
        val: TokenSource,
        tokenizer: Tokenizer,
        ratio: float,
    ) -> None:
        self.documents = documents
        texts = [each.text for each in documents]
        lengths = [len(text) + len(END_OF_TEXT) for text in texts]
        self._firsts = [0, *accumulate(lengths)]
        self._whole = END_OF_TEXT.join(texts)
        parts = split_text(self._whole, ratio)
        self._sides = [
            _Side(text=part, source=source, tokenizer=tokenizer)
            for part, source in zip(parts, (train, val), strict=True)
        ]
        self._cut = len(parts[0])

    @property
    def names(self) -> Sequence[str]:
        """Les noms des documents."""
        return [each.name for each in self.documents]

    def document(self, name: str) -> Found | None:
        """Le document de ce nom, ou tous ceux du fichier de ce nom."""
        chosen = self._chosen(name)
        return None if not chosen else self._found([self._range(each) for each in chosen])

    def lines(self, first: int, last: int, name: str | None) -> Found | None:
        """Les lignes du texte d'un fichier ; d'un tableau ou d'un JSONL, ses enregistrements."""
        chosen = range(len(self.documents)) if name is None else self._chosen(name)
        if not chosen:
            return None
        self._check_alone(chosen, name)
        records = [_RECORD.fullmatch(self.documents[each].name) for each in chosen]
        if all(records):
            numbers = [int(each[1]) for each in records if each]
            kept = [c for c, n in zip(chosen, numbers, strict=True) if first <= n <= last]
            ranges = [self._range(each) for each in kept]
        else:
            start, stop = self._range(chosen[0])[0], self._range(chosen[-1])[1]
            breaks = [m.start() + start for m in re.finditer("\n", self._whole[start:stop])]
            begins, ends = [start, *(each + 1 for each in breaks)], [*breaks, stop]
            if last > len(ends):
                raise ConfigurationError.wrong(
                    "`lines`", f"{first}-{last}", expected=f"des lignes de 1 à {len(ends)}"
                )
            low, high = begins[first - 1], ends[last - 1]
            own = [self._range(each) for each in chosen]  # un séparateur n'est pas retiré
            ranges = [(max(a, low), min(b, high)) for a, b in own]
        found = self._found([each for each in ranges if each[0] < each[1]])
        if not any(found):
            raise DataError(
                f"les lignes {first} à {last} n'ont pas de texte",
                expected="des lignes que l'entraînement a lues",
                remedy="corrigez `lines`",
            )
        return found

    def across(self, text: str) -> Found:
        """Les places d'un texte à cheval sur la coupe, que chaque part n'a qu'à moitié."""
        low = max(0, self._cut - len(text) + 1)
        near, ranges = self._whole[low : self._cut + len(text) - 1], []
        at = near.find(text)
        while at >= 0:
            ranges.append((low + at, low + at + len(text)))
            at = near.find(text, at + 1)
        return self._found(ranges) if ranges else ((), ())

    def _chosen(self, name: str) -> Sequence[int]:
        pairs = list(enumerate(self.documents))
        chosen = [index for index, each in pairs if name == each.name]
        if not chosen:
            chosen = [i for i, each in pairs if name in (each.origin, _file_of(each.name))]
        self._check_alone(chosen, name)
        return chosen

    def _check_alone(self, chosen: Sequence[int], name: str | None) -> None:
        origins = list(dict.fromkeys(self.documents[each].origin for each in chosen))
        if len(origins) > 1:
            shown = ", ".join(origins[:MAX_SHOWN])
            raise DataError(
                f"{'ces lignes' if name is None else name} : {len(origins)} fichiers ({shown})",
                expected="un seul",
                remedy="nommez-le tel quel par `document`",
            )

    def _range(self, index: int) -> tuple[int, int]:
        first = self._firsts[index]
        return first, first + len(self.documents[index].text)

    def _found(self, ranges: Sequence[tuple[int, int]]) -> Found:
        bounds = ((0, self._cut), (self._cut, len(self._whole)))
        train, val = (
            merged(
                side.tokens(max(start, low) - low, min(stop, high) - low)
                for start, stop in ranges
                if max(start, low) < min(stop, high)
            )
            for side, (low, high) in zip(self._sides, bounds, strict=True)
        )
        return train, val


def _file_of(name: str) -> str:
    """Le fichier d'un document : « livre.txt#3 » et « notes.jsonl:12 » → le leur."""
    return re.sub(r"(:[0-9]+)?(#[0-9]+)?$", "", name)


@dataclass(frozen=True, kw_only=True)
class _Side:
    """Une part du texte, et les octets de chacun de ses tokens."""

    text: str
    source: TokenSource
    tokenizer: Tokenizer

    @cached_property
    def bounds(self) -> tuple[Ints, Ints]:
        """Premier octet de chaque token, et celui d'après son dernier."""
        ids = self.source.read(0, self.source.num_tokens).numpy()
        if isinstance(self.tokenizer, ByteTokenizer):
            lengths = np.array([len(each) for each in self.tokenizer.token_bytes()], np.int64)[ids]
            stops = np.cumsum(lengths)
            starts, whole = stops - lengths, int(stops[-1]) == len(self.text.encode("utf-8"))
        else:
            starts, stops = np.array(word_places(self.text), np.int64).reshape(-1, 2).T
            whole = len(starts) == len(ids)
        if not whole:
            raise DataError(
                "le texte relu n'est pas celui de ces tokens",
                expected="les données de l'entraînement",
                remedy="rendez-les, ou donnez-les par `data`",
            )
        return starts, stops

    def tokens(self, start: int, stop: int) -> Span:
        """Les tokens qui portent un des caractères [start, stop[."""
        first = len(self.text[:start].encode("utf-8"))
        last = first + len(self.text[start:stop].encode("utf-8"))
        starts, stops = self.bounds
        return (
            int(np.searchsorted(stops, first, side="right")),
            int(np.searchsorted(starts, last, side="left")),
        )


class ConversationPlaces:
    """Des conversations, par leur ligne."""

    def __init__(self, train: ConversationTokens, val: ConversationTokens) -> None:
        self._sides = (train.places, val.places)

    @property
    def names(self) -> Sequence[str]:
        """Les lignes des conversations lues."""
        return [str(line) for side in self._sides for line, _, _ in side]

    def document(self, name: str) -> Found | None:
        """La conversation de ce numéro : sa ligne, ou son rang dans une liste."""
        number = _NUMBER.fullmatch(name)
        return None if number is None else self._between(int(number[1]), int(number[1]))

    def lines(self, first: int, last: int, name: str | None) -> Found | None:
        """Les conversations de ces lignes ; une trop longue n'a pas été lue."""
        del name
        return self._between(first, last)

    def _between(self, first: int, last: int) -> Found | None:
        train, val = (
            merged((start, stop) for line, start, stop in side if first <= line <= last)
            for side in self._sides
        )
        return (train, val) if train or val else None


class ShardPlaces:
    """Les documents de fragments : ils n'ont plus de nom, mais un rang dans l'entraînement."""

    names: Sequence[str] = ()

    def __init__(self, train: TokenShards, tokenizer: Tokenizer) -> None:
        self._train, self._separator = train, tokenizer.eos_id

    def document(self, name: str) -> Found | None:
        """Le document de ce rang, à partir de 1, dans la part d'entraînement."""
        number = _NUMBER.fullmatch(name)
        rank, start = 0, 0
        for place in () if number is None else chain(self._separators(), [self._train.num_tokens]):
            rank += place > start
            if place > start and number is not None and rank == int(number[1]):
                return ((start, place),), ()
            start = place + 1
        return None

    def lines(self, first: int, last: int, name: str | None) -> Found | None:
        """Refusées : des fragments n'ont plus de lignes."""
        del first, last, name
        raise DataError(
            "des fragments de tokens n'ont plus de lignes",
            expected="le texte à oublier, ou le rang d'un document",
            remedy="donnez `text`, ou `document`",
        )

    def _separators(self) -> Iterator[int]:
        for start in range(0, self._train.num_tokens, BLOCK_TOKENS):
            count = min(BLOCK_TOKENS, self._train.num_tokens - start)
            found = np.flatnonzero(self._train.read(start, count).numpy() == self._separator)
            yield from (found + start).tolist()
