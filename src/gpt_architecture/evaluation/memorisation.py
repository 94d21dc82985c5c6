"""Ce qu'un modèle récite : ses textes cherchés mot pour mot dans son texte d'entraînement.

Un texte qu'il n'a jamais vu partage déjà des passages avec ce texte, par hasard et par habitude de
la langue. La même mesure, faite sur du texte inédit découpé à la longueur des textes générés, dit
donc à partir de quelle longueur une suite commune est un souvenir (Carlini et al., 2023 ; McCoy et
al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.comparison import VariantResult
from gpt_architecture.evaluation.repetition import Overlap, overlaps

ORDERS = (2, 4, 8, 16, 32)
"""Longueurs des n-grammes comptés."""

WITHOUT_REFERENCE = 16
"""Longueur tenue pour un souvenir quand aucun texte inédit ne la fixe."""

_WINDOWS = 200
_AROUND = 24  # tokens montrés de part et d'autre d'un passage retrouvé
_CHANCE = 0.95  # part des extraits inédits qui ne dépassent pas la longueur due au hasard
_SEARCHED = 96  # tokens où chercher le début d'une phrase
_SENTENCE_ENDS = (".", "!", "?", "…", "\n", "»", '"', "”")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Recollection:
    """Un texte généré et ce qu'il partage avec le texte d'entraînement.

    Attributes:
        result: la génération.
        overlap: ses suites communes, place par place.
        known_prompt: l'invite est elle-même, mot pour mot, dans le texte d'entraînement.
    """

    result: VariantResult
    overlap: Overlap
    known_prompt: bool

    def marked_text(self, threshold: int, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
        """Le texte généré en morceaux (texte, récité) : passages d'au moins `threshold` tokens."""
        recited = {
            place
            for start, end, _ in self.overlap.passages(threshold)
            for place in range(start, end)
        }
        return self.result.marked_text(recited, tokenizer)


@dataclass(frozen=True, kw_only=True)
class VariantMemory:
    """Les textes d'une stratégie.

    Attributes:
        label: nom de la stratégie.
        texts: ses textes.
    """

    label: str
    texts: tuple[Recollection, ...]

    def share(self, n: int) -> float | None:
        """Part des n-grammes générés qui sont dans le texte d'entraînement ; None : aucun."""
        return share_of([each.overlap for each in self.texts], n)

    @property
    def longest(self) -> int:
        """La plus longue suite récitée, en tokens."""
        return max(each.overlap.longest for each in self.texts)

    def recited(self, threshold: int, *, known_prompt: bool | None = None) -> tuple[int, int]:
        """(textes qui récitent au moins `threshold` tokens, textes).

        Args:
            threshold: voir `MemorisationReport.threshold`.
            known_prompt: ne compte que ceux dont l'invite est connue, ou inédite ; None : tous.
        """
        kept = [each for each in self.texts if known_prompt in (None, each.known_prompt)]
        return sum(each.overlap.longest >= threshold for each in kept), len(kept)


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Un passage récité, remis à sa place dans le texte d'entraînement ; des identifiants.

    Attributes:
        label: stratégie qui l'a écrit.
        before: ce qui le précède.
        passage: le passage.
        after: ce qui le suit.
    """

    label: str
    before: tuple[int, ...]
    passage: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MemorisationReport:
    """Ce que le modèle récite, par stratégie, et ce que le hasard donnerait.

    Attributes:
        orders: longueurs des n-grammes comptés.
        variants: une par stratégie.
        reference: extraits de texte inédit, de la longueur des textes ; vide : aucun.
        training_tokens: longueur du texte d'entraînement.
        excerpt: le plus long passage commun, dans ce texte ; None : rien de commun.
    """

    orders: tuple[int, ...]
    variants: tuple[VariantMemory, ...]
    reference: tuple[Overlap, ...]
    training_tokens: int
    excerpt: Excerpt | None

    @property
    def chance_length(self) -> int | None:
        """Longueur commune que 95 % des extraits inédits ne dépassent pas ; None : inconnue."""
        found = sorted(each.longest for each in self.reference)
        return found[math.ceil(_CHANCE * len(found)) - 1] if found else None

    @property
    def threshold(self) -> int:
        """Longueur à partir de laquelle une suite commune est tenue pour un souvenir."""
        chance = self.chance_length
        return WITHOUT_REFERENCE if chance is None else chance + 1

    @property
    def recited(self) -> tuple[int, int]:
        """(textes qui récitent, textes), toutes stratégies réunies."""
        pairs = [each.recited(self.threshold) for each in self.variants]
        return sum(some for some, _ in pairs), sum(total for _, total in pairs)

    def reference_share(self, n: int) -> float | None:
        """Part des n-grammes du texte inédit qui sont dans le texte d'entraînement."""
        return share_of(self.reference, n)

    @property
    def reference_longest(self) -> int | None:
        """La plus longue séquence du texte inédit présente dans le texte d'entraînement."""
        return max((each.longest for each in self.reference), default=None)

    def to_dict(self) -> dict[str, Any]:
        """En types simples, pour un programme."""
        return {
            "training_tokens": self.training_tokens,
            "threshold": self.threshold,
            "chance_length": self.chance_length,
            "reference": {
                "texts": len(self.reference),
                "longest": self.reference_longest,
                "shares": {str(n): self.reference_share(n) for n in self.orders},
            },
            "variants": [
                {
                    "label": each.label,
                    "texts": len(each.texts),
                    "longest": each.longest,
                    "recited": each.recited(self.threshold)[0],
                    "shares": {str(n): each.share(n) for n in self.orders},
                }
                for each in self.variants
            ],
        }


def measure_memorisation(
    results: Sequence[VariantResult],
    training: TokenSource,
    *,
    unseen: TokenSource | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> MemorisationReport:
    """Cherche chaque génération, mot pour mot, dans le texte d'entraînement.

    Args:
        results: les générations, de toutes les stratégies.
        training: le texte d'entraînement.
        unseen: texte du même genre que le modèle n'a pas appris ; None : pas de référence.
        on_progress: appelé avec (tokens d'entraînement lus, en tout).

    Raises:
        DataError: aucune génération, ou toutes vides.
    """
    size = max((len(each.tokens) for each in results), default=0)
    if not size:
        raise DataError(
            "aucun texte généré", expected="au moins un texte", remedy="générez au moins un token"
        )
    windows = [] if unseen is None else spread_windows(unseen, size)
    prompts = list(dict.fromkeys(each.prompt_ids for each in results))
    texts = [*(each.tokens for each in results), *prompts, *windows]
    found = overlaps(training, texts, on_progress=on_progress)
    generated, rest = found[: len(results)], found[len(results) :]
    known = {
        prompt: overlap.longest == len(prompt)
        for prompt, overlap in zip(prompts, rest, strict=False)
    }
    recollections = [
        Recollection(result=result, overlap=overlap, known_prompt=known[result.prompt_ids])
        for result, overlap in zip(results, generated, strict=True)
    ]
    return MemorisationReport(
        orders=ORDERS,
        variants=tuple(
            VariantMemory(
                label=label,
                texts=tuple(each for each in recollections if each.result.label == label),
            )
            for label in dict.fromkeys(each.label for each in results)
        ),
        reference=tuple(rest[len(prompts) :]),
        training_tokens=training.num_tokens,
        excerpt=_excerpt(max(recollections, key=lambda each: each.overlap.longest), training),
    )


def share_of(texts: Sequence[Overlap], n: int) -> float | None:
    """Part des n-grammes de tous ces textes qui sont dans le corpus ; None : il n'y en a aucun."""
    pairs = [each.count(n) for each in texts]
    total = sum(count for _, count in pairs)
    return sum(found for found, _ in pairs) / total if total else None


def openings(
    source: TokenSource, tokenizer: Tokenizer, *, count: int, length: int
) -> list[tuple[int, ...]]:
    """Des débuts de phrase pris dans un texte, à intervalles égaux : leurs identifiants.

    Les identifiants sont ceux du texte : recodés, ils pourraient se couper autrement, et le
    modèle ne les reconnaîtrait pas.

    Args:
        source: le texte.
        tokenizer: celui qui l'a codé.
        count: débuts voulus ; un texte court en donne moins.
        length: tokens de chacun, au plus.
    """
    count = min(count, source.num_tokens // max(1, length))
    found = list[tuple[int, ...]]()
    for number in range(count):
        place = number * source.num_tokens // count
        ids = source.read(place, min(_SEARCHED + length, source.num_tokens - place)).tolist()
        pieces = [tokenizer.decode([token]) for token in ids]
        starts = (
            start
            for start in range(1, len(ids) - length + 1)
            if "".join(pieces[max(0, start - 4) : start]).rstrip(" ").endswith(_SENTENCE_ENDS)
            and pieces[start].strip()[:1].isupper()
        )
        start = next(starts, 0)
        opening = ids[start : start + length]
        while len(opening) > 1 and tokenizer.decode(opening).endswith(_REPLACEMENT):
            opening.pop()  # un caractère coupé
        found.append(tuple(opening))
    return list(dict.fromkeys(found))


def _excerpt(text: Recollection, training: TokenSource) -> Excerpt | None:
    """Le plus long passage de ce texte, relu dans l'entraînement avec ce qui l'entoure."""
    length = text.overlap.longest
    if not length:
        return None
    place = text.overlap.places[text.overlap.lengths.index(length)]
    first = max(0, place - _AROUND)
    last = min(training.num_tokens, place + length + _AROUND)
    ids = training.read(first, last - first).tolist()
    return Excerpt(
        label=text.result.label,
        before=tuple(ids[: place - first]),
        passage=tuple(ids[place - first : place - first + length]),
        after=tuple(ids[place - first + length :]),
    )


def spread_windows(source: TokenSource, size: int, most: int = _WINDOWS) -> list[list[int]]:
    """Des extraits de `size` tokens, disjoints, répartis dans tout le texte ; `most` au plus."""
    size = min(size, source.num_tokens)
    return [
        source.read(start, size).tolist() for start in spread_places(source.num_tokens, size, most)
    ]


def spread_places(tokens: int, size: int, most: int) -> list[int]:
    """Où commencent au plus `most` extraits disjoints de `size` tokens, répartis."""
    count = min(most, tokens // size)
    return [number * tokens // count for number in range(count)]
