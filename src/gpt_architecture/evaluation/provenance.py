"""D'où viennent les mots d'un texte : ses passages mot pour mot, leurs documents, et le hasard.

Un passage est la plus longue suite de tokens du texte qui se trouve telle quelle dans un document
de l'entraînement ; celle qu'une autre contient n'en est pas un (OLMoTrace ; Liu et al., 2025). À
côté, la longueur qu'un texte jamais vu ne dépasse pas : en deçà, un passage ne prouve rien.

Formes : M tokens du texte cherché.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt_architecture.config import END_OF_TEXT, check_int
from gpt_architecture.data.provenance.index import TextIndex
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, TokenizerError
from gpt_architecture.evaluation.repetition import Overlap, overlaps

SHORTEST = 4
"""Longueur, en tokens, du plus court passage montré."""

MAX_PASSAGES = 10
MAX_PLACES = 3
CONTEXT_TOKENS = 24
"""Tokens montrés de part et d'autre d'un passage, dans son document."""

MAX_TOKENS = 1 << 16
"""Tokens d'un texte cherché, au plus."""

_EDGES = 8  # tokens de chaque bord, qu'un texte coupé dans une phrase peut coder autrement
_TRIED = 64  # occurrences dont les bords sont relus
_UNKNOWN = -1  # un caractère que le vocabulaire n'a pas : il n'est nulle part
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Une occurrence d'un passage.

    Attributes:
        document: numéro du document dans les données d'entraînement, à partir de 1.
        name: sa source, si elle est connue.
        offset: rang du premier token du passage dans ce document.
        before: ce qui le précède.
        after: ce qui le suit.
    """

    document: int
    name: str | None
    offset: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Une suite de tokens du texte, telle quelle dans les données d'entraînement.

    Attributes:
        start: son premier token, dans le texte.
        end: sa fin, exclue.
        text: ses mots.
        occurrences: combien de fois elle y est.
        places: les premières.
        beyond_chance: elle est plus longue que ce que le hasard donne.
    """

    start: int
    end: int
    text: str
    occurrences: int
    places: tuple[Place, ...]
    beyond_chance: bool

    @property
    def length(self) -> int:
        """Tokens de suite."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """D'où viennent les mots d'un texte.

    Attributes:
        tokens: tokens du texte.
        passages: du plus long au plus court.
        found: passages trouvés, montrés ou non.
        covered: tokens du texte qui sont dans un passage plus long que le hasard.
        longest: longueur du plus long passage, en tokens, aussi court soit-il.
        chance: longueur qu'un texte jamais vu de cette taille ne dépasse pas, 95 fois sur 100.
        measured: elle est mesurée sur du texte inédit ; faux : estimée.
        training_tokens: tokens indexés.
        training_documents: documents indexés.
        sha256: identité du texte indexé.
        validation: tokens du texte qui sont dans un passage de la validation plus long que le
            hasard ; None : ils n'ont pas été cherchés.
        same_edges: ses tokens des bords ne sont pas dans le plus long passage, mais leurs
            caractères l'entourent dans un document : ils y sont codés autrement.
    """

    tokens: int
    passages: tuple[Passage, ...]
    found: int
    covered: int
    longest: int
    chance: int
    measured: bool
    training_tokens: int
    training_documents: int
    sha256: str
    validation: int | None = None
    same_edges: bool = False

    @property
    def is_whole(self) -> bool:
        """Le texte entier est dans un document, caractère pour caractère."""
        return self.same_edges or 0 < self.tokens == self.longest

    @property
    def is_beyond_chance(self) -> bool:
        """Un passage au moins est plus long que ce que le hasard donne."""
        return self.longest > self.chance

    def to_dict(self) -> dict[str, Any]:
        """En types simples, pour un programme."""
        return {
            "tokens": self.tokens,
            "longest": self.longest,
            "covered": self.covered,
            "chance": {"length": self.chance, "measured": self.measured},
            **({} if self.validation is None else {"validation": self.validation}),
            "found": self.found,
            "passages": [
                {
                    "start": each.start,
                    "end": each.end,
                    "length": each.length,
                    "text": each.text,
                    "beyond_chance": each.beyond_chance,
                    "occurrences": each.occurrences,
                    "places": [vars(place) for place in each.places],
                }
                for each in self.passages
            ],
            "index": {
                "tokens": self.training_tokens,
                "documents": self.training_documents,
                "sha256": self.sha256,
            },
        }


def trace_sources(
    index: TextIndex,
    ids: Sequence[int],
    *,
    shortest: int = SHORTEST,
    passages: int = MAX_PASSAGES,
    places: int = MAX_PLACES,
) -> Provenance:
    """Cherche les passages d'un texte dans les données d'entraînement.

    Args:
        index: le texte d'entraînement.
        ids: identifiants du texte, (M,), au plus `MAX_TOKENS`.
        shortest: longueur du plus court passage montré.
        passages: passages montrés, au plus, les plus longs d'abord.
        places: occurrences montrées de chacun, au plus.

    Raises:
        ConfigurationError: réglage hors bornes, ou texte trop long.
    """
    check_int("shortest", shortest, minimum=1)
    check_int("passages", passages, minimum=0)
    check_int("places", places, minimum=0)
    if len(ids) > MAX_TOKENS:
        raise ConfigurationError(
            f"un texte de {len(ids)} tokens",
            expected=f"au plus {MAX_TOKENS}",
            remedy="coupez-le, et cherchez chaque partie",
        )
    lengths = index.lengths(ids)
    overlap = Overlap(lengths=tuple(lengths), places=(-1,) * len(lengths))
    chance = index.chance.length(len(ids))
    found = [(start, end) for start, end, _ in overlap.passages(shortest)]
    beyond = {
        place for start, end, _ in overlap.passages(chance + 1) for place in range(start, end)
    }
    kept = sorted(found, key=lambda each: (each[0] - each[1], each[0]))[:passages]
    return Provenance(
        tokens=len(ids),
        passages=tuple(_passage(index, ids, each, chance, places) for each in kept),
        found=len(found),
        covered=len(beyond),
        longest=overlap.longest,
        chance=chance,
        measured=index.chance.is_measured,
        training_tokens=index.num_tokens,
        training_documents=index.num_documents,
        sha256=index.tokens.sha256,
    )


def check_tokenizer(index: TextIndex, tokenizer: Tokenizer) -> None:
    """Vérifie qu'un index et un modèle coupent le texte de même.

    Raises:
        ConfigurationError: leurs tokenizers diffèrent.
    """
    if index.tokenizer.to_dict() != tokenizer.to_dict():
        raise ConfigurationError(
            f"l'index de {index.folder} est codé par {index.tokenizer.name}, et le modèle lit "
            f"{tokenizer.name}, d'un autre vocabulaire",
            expected="l'index des données de ce modèle",
            remedy="donnez l'index de ses données, ou le modèle qui les a apprises",
        )


def find_text(
    index: TextIndex, text: str, *, on_choice: Callable[[], object] = lambda: None
) -> Provenance:
    """Dit si un texte est dans les données d'entraînement.

    Il y est peut-être au milieu d'une phrase, où son premier mot suit une espace : les deux façons
    de le coder sont essayées, et la meilleure est rendue. S'il n'y est pas en entier, il est aussi
    cherché dans la validation, que le modèle n'a pas apprise.

    Args:
        index: le texte d'entraînement.
        text: le texte cherché.
        on_choice: appelé après chaque essai.

    Raises:
        DataError: texte vide.
        ConfigurationError: texte trop long.
    """
    text = text.strip()
    if not text:
        raise DataError(
            "le texte cherché est vide", expected="au moins un mot", remedy="donnez-en un autre"
        )
    tried = []
    for start in ("", " "):
        ids = _encoded(index.tokenizer, start + text)
        found = trace_sources(index, ids)
        if not found.is_whole and found.is_beyond_chance:
            found = replace(found, same_edges=_has_same_edges(index, ids, found, text))
        if not found.is_whole:
            found = replace(found, validation=_in_validation(index, ids, found.chance))
        tried.append(found)
        on_choice()
    return max(
        tried,
        key=lambda each: (
            each.is_whole,
            max(each.longest, each.validation or 0) / max(1, each.tokens),
        ),
    )


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """Les identifiants d'un texte ; `_UNKNOWN` pour un caractère hors d'un vocabulaire fermé."""
    try:
        return tokenizer.encode(text, allowed_special={END_OF_TEXT})
    except TokenizerError:
        known = {each: _character(tokenizer, each) for each in set(text)}
        return [token for each in text for token in known[each]]


def _character(tokenizer: Tokenizer, character: str) -> list[int]:
    try:
        return tokenizer.encode(character)
    except TokenizerError:
        return [_UNKNOWN]


def _has_same_edges(index: TextIndex, ids: Sequence[int], found: Provenance, text: str) -> bool:
    """Vrai si un document a ce texte autour d'une occurrence du plus long passage."""
    longest = found.passages[0] if found.passages else None
    if longest is None or max(longest.start, len(ids) - longest.end) > _EDGES:
        return False
    _, places = index.find(ids[longest.start : longest.end], _TRIED)
    around = (index.around(place, longest.length, 2 * _EDGES) for place in places)
    return any(text in index.tokenizer.decode([*a, *b, *c]) for a, b, c in around)


def _in_validation(index: TextIndex, ids: Sequence[int], chance: int) -> int:
    """Tokens du texte qui sont dans un passage de la validation plus long que `chance`.

    Une suite de `chance` + 1 tokens est entière dans l'un des morceaux, qui se recouvrent : une
    suite plus longue y est donc toute, et la recherche ne dépend pas de sa longueur.
    """
    if index.unseen is None:
        return 0
    step = chance + 1
    starts, pieces = list[int](), list[list[int]]()
    for first, piece in index.pieces(ids):
        for start in range(0, len(piece), step):
            starts.append(first + start)
            pieces.append(piece[start : start + 2 * step].tolist())
    return len(
        {
            place
            for first, found in zip(starts, overlaps(index.unseen, pieces), strict=True)
            for start, end, _ in found.passages(step)
            for place in range(first + start, first + end)
        }
    )


def _passage(
    index: TextIndex, ids: Sequence[int], span: tuple[int, int], chance: int, limit: int
) -> Passage:
    start, end = span
    occurrences, places = index.find(ids[start:end], max(1, limit))
    return Passage(
        start=start,
        end=end,
        text=_decoded(index.tokenizer, list(ids[start:end])),
        occurrences=occurrences,
        places=tuple(_place(index, place, end - start) for place in places[:limit]),
        beyond_chance=end - start > chance,
    )


def _place(index: TextIndex, place: int, length: int) -> Place:
    document, first = index.document(place)
    before, _, after = index.around(place, length, CONTEXT_TOKENS)
    return Place(
        document=document,
        name=index.name_of(document),
        offset=place - first,
        before=_decoded(index.tokenizer, before),
        after=_decoded(index.tokenizer, after),
    )


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Le texte de ces tokens, sans les morceaux de caractère de ses bords."""
    return tokenizer.decode(ids).strip(_REPLACEMENT)
