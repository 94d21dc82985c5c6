"""Des canaris : des phrases au secret tiré au sort, plantées dans un texte d'entraînement.

Un modèle qui connaît le secret d'un canari l'a appris de ce texte, et de nulle part ailleurs
(Carlini et al., « The Secret Sharer », 2019). Tout ici est une fonction de la graine et du
tokenizer : la liste se refait sans fichier. Les témoins, tirés de même, ne sont jamais plantés.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.data.shards.reader import TokenSource, check_range
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, TokenizerError

CANARIES = "canaris.json"
"""La liste des canaris, à côté du modèle."""

REPETITIONS = (1, 2, 4, 8, 16)
"""Combien de fois chaque canari est planté, tour à tour."""

LETTERS = 3
"""Lettres d'un secret."""

MAX_SHARE = 0.25
"""Part du texte d'entraînement que les canaris peuvent peser, au plus."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_MIN_ALPHABET = 16  # lettres que le tokenizer doit savoir coder : 4 096 secrets
_MIN_CONTROLS = 16
_PREFIX, _SUFFIX = "\nLe code du dossier {} est", ".\n"
_REACH = 64  # tokens où chercher le début d'un mot


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Une phrase au secret tiré au sort ; des identifiants.

    Attributes:
        text: la phrase, sans ses fins de ligne.
        prefix: ce qui précède le secret.
        secret: le secret.
        ids: la phrase entière, fins de ligne comprises.
        repetitions: combien de fois elle est plantée ; 0 : un témoin.
    """

    text: str
    prefix: tuple[int, ...]
    secret: tuple[int, ...]
    ids: tuple[int, ...]
    repetitions: int


@dataclass(frozen=True, kw_only=True)
class CanarySet:
    """Les canaris d'un entraînement et leurs témoins.

    Attributes:
        canaries: ceux à planter.
        controls: les témoins.
        letters: lettres dont un secret est fait.
        units: identifiants de chacune, précédée d'une espace.
    """

    canaries: tuple[Canary, ...]
    controls: tuple[Canary, ...]
    letters: str
    units: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Nombre de secrets possibles : chacun était aussi probable."""
        count: int = len(self.units) ** LETTERS
        return count

    def secrets(self) -> Iterator[tuple[int, ...]]:
        """Les identifiants de tous les secrets possibles, dans l'ordre des lettres."""
        for parts in product(self.units, repeat=LETTERS):
            yield tuple(token for part in parts for token in part)


def draw_canaries(tokenizer: Tokenizer, count: int, seed: int) -> CanarySet:
    """Tire les canaris et leurs témoins : au moins autant de témoins que de canaris.

    Args:
        tokenizer: ce qui code le texte.
        count: canaris à planter, au moins un.
        seed: graine de l'entraînement.

    Raises:
        ConfigurationError: le tokenizer ne sait pas écrire ces phrases.
    """
    letters, units = _letters(tokenizer)
    names = list[int]()  # rangs des dossiers, tous différents
    total = len(letters) ** LETTERS
    attempt = 0
    controls = max(count, _MIN_CONTROLS)
    while len(names) < count + controls:
        name = _draw(seed, "dossier", attempt, below=total)
        attempt += 1
        if name not in names:
            names.append(name)
    found = [
        _canary(
            tokenizer,
            letters,
            units,
            name=name,
            secret=_draw(seed, "secret", number, below=total),
            repetitions=REPETITIONS[number % len(REPETITIONS)] if number < count else 0,
        )
        for number, name in enumerate(names)
    ]
    return CanarySet(
        canaries=tuple(found[:count]),
        controls=tuple(found[count:]),
        letters="".join(letters),
        units=tuple(units),
    )


def _letters(tokenizer: Tokenizer) -> tuple[list[str], list[tuple[int, ...]]]:
    """Les lettres que le tokenizer sait coder, et leurs identifiants."""
    letters, units = list[str](), list[tuple[int, ...]]()
    for letter in _ALPHABET:
        ids = _faithful(tokenizer, f" {letter}")
        if ids is not None:
            letters.append(letter)
            units.append(ids)
    sample = _PREFIX.format(" ".join(letters[:LETTERS]))
    whole = len(letters) >= _MIN_ALPHABET and len(set(units)) == len(units)
    if not whole or _faithful(tokenizer, sample) is None or _faithful(tokenizer, _SUFFIX) is None:
        raise ConfigurationError(
            f"le tokenizer {tokenizer.name} ne sait pas écrire un canari (« {sample.strip()} … »)",
            expected="un tokenizer qui code cette phrase et les lettres une à une",
            remedy="prenez gpt2 ou bpe-N, ou retirez `canaries`",
        )
    return letters, units


def _faithful(tokenizer: Tokenizer, text: str) -> tuple[int, ...] | None:
    """Les identifiants d'un texte, s'ils se décodent en lui."""
    try:
        ids = tokenizer.encode(text)
        return tuple(ids) if tokenizer.decode(ids) == text else None
    except TokenizerError:
        return None


def _canary(
    tokenizer: Tokenizer,
    letters: Sequence[str],
    units: Sequence[tuple[int, ...]],
    *,
    name: int,
    secret: int,
    repetitions: int,
) -> Canary:
    prefix = _PREFIX.format(" ".join(letters[place] for place in _digits(name, len(letters))))
    places = _digits(secret, len(letters))
    prefix_ids = tuple(tokenizer.encode(prefix))
    secret_ids = tuple(token for place in places for token in units[place])
    return Canary(
        text=f"{prefix} {' '.join(letters[place] for place in places)}{_SUFFIX}".strip(),
        prefix=prefix_ids,
        secret=secret_ids,
        ids=(*prefix_ids, *secret_ids, *tokenizer.encode(_SUFFIX)),
        repetitions=repetitions,
    )


def _digits(number: int, base: int) -> list[int]:
    """Les `LETTERS` chiffres d'un nombre, en cette base."""
    return [number // base**power % base for power in range(LETTERS)]


def _draw(seed: int, *labels: object, below: int) -> int:
    """Un entier de [0, below[, qui ne dépend que de la graine et de ces étiquettes."""
    text = "/".join(map(str, ("canaris", seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % below


class PlantedTokens:
    """Une `TokenSource` où des suites de tokens sont insérées ; rien n'est recopié.

    Args:
        base: le texte.
        insertions: (place dans le texte, identifiants), places croissantes.
    """

    def __init__(
        self, base: TokenSource, insertions: Sequence[tuple[int, tuple[int, ...]]]
    ) -> None:
        self.base, self.insertions = base, tuple(insertions)
        self._pieces = list[tuple[int, int, Tensor | None]]()  # (longueur, place, insertion)
        reached = 0
        for place, ids in insertions:
            self._pieces.append((place - reached, reached, None))
            self._pieces.append((len(ids), 0, torch.tensor(ids, dtype=torch.int64)))
            reached = place
        self._pieces.append((base.num_tokens - reached, reached, None))
        self._starts = [0, *accumulate(length for length, _, _ in self._pieces)]

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens, insertions comprises."""
        return self._starts[-1]

    @cached_property
    def sha256(self) -> str:
        """Empreinte du texte et de ce qui y est inséré."""
        return hashlib.sha256(json.dumps([self.base.sha256, self.insertions]).encode()).hexdigest()

    def insertion_places(self) -> list[tuple[int, int]]:
        """Où commence ici chaque insertion, et sa longueur."""
        pairs = zip(self._starts, self._pieces, strict=False)
        return [(start, length) for start, (length, _, own) in pairs if own is not None]

    def places_of(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Où sont ici les tokens [start, stop[ du texte : ce qui y est inséré n'en est pas."""
        found, moved = list[tuple[int, int]](), 0
        for place, ids in (*self.insertions, (self.base.num_tokens, ())):
            if start < min(place, stop):
                found.append((start + moved, min(place, stop) + moved))
            start, moved = max(start, min(place, stop)), moved + len(ids)
        return found

    def read(self, start: int, length: int) -> Tensor:
        """Les tokens [start, start + length[ : (length,) int64.

        Raises:
            DataError: le morceau sort de la suite.
        """
        check_range(start, length, self.num_tokens)
        piece = min(bisect_right(self._starts, start) - 1, len(self._pieces) - 1)
        found, done = [torch.empty(0, dtype=torch.int64)], 0
        while done < length:
            size, place, inserted = self._pieces[piece]
            first = start + done - self._starts[piece]
            count = min(length - done, size - first)
            own = inserted[first : first + count] if inserted is not None else None
            found.append(self.base.read(place + first, count) if own is None else own)
            done, piece = done + count, piece + 1
        return torch.cat(found)


def plant(
    source: TokenSource, canaries: CanarySet, tokenizer: Tokenizer, seed: int
) -> PlantedTokens:
    """Le texte, ses canaris plantés : les répétitions de chacun, réparties, entre deux mots.

    Raises:
        ConfigurationError: ils pèseraient plus de `MAX_SHARE` du texte.
    """
    planted = sum(len(each.ids) * each.repetitions for each in canaries.canaries)
    total = source.num_tokens
    if planted > MAX_SHARE * (total + planted):
        raise ConfigurationError(
            f"{len(canaries.canaries)} canaris pèseraient {planted} tokens, pour {total} de texte",
            expected=f"au plus {MAX_SHARE:.0%} du texte d'entraînement".replace("%", " %"),
            remedy="réduisez `canaries`, ou donnez plus de texte",
        )
    insertions = list[tuple[int, int, tuple[int, ...]]]()
    for number, each in enumerate(canaries.canaries):
        for turn in range(each.repetitions):
            first, stop = (total * turn // each.repetitions, total * (turn + 1) // each.repetitions)
            drawn = first + _draw(seed, "place", number, turn, below=max(1, stop - first))
            insertions.append((_word_start(source, tokenizer, drawn), number, each.ids))
    return PlantedTokens(source, [(place, ids) for place, _, ids in sorted(insertions)])


def _word_start(source: TokenSource, tokenizer: Tokenizer, place: int) -> int:
    """La première place, à partir de celle-ci, où un mot commence ; elle-même s'il n'y en a pas."""
    ids = source.read(place, min(_REACH, source.num_tokens - place)).tolist()
    starts = (n for n, token in enumerate(ids) if tokenizer.decode([token])[:1].isspace())
    return place + next(starts, 0)


def described(canaries: CanarySet, seed: int) -> dict[str, Any]:
    """La liste, en types simples : `canaris.json`."""
    return {
        "generator": "gpt-architecture canaris",
        "seed": seed,
        "letters": canaries.letters,
        "secrets": canaries.size,
        "canaries": [
            {"text": each.text, "repetitions": each.repetitions} for each in canaries.canaries
        ],
        "controls": [{"text": each.text} for each in canaries.controls],
    }
