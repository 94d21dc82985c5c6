"""Deux épreuves tirées d'un texte : le dernier mot d'un passage, et le mot qui manque à une phrase.

Le texte est celui qu'on donne, et il doit être inconnu du modèle : une épreuve toute faite, tirée
d'un livre du domaine public, serait dans les données de bien des entraînements. Les exemples ne
dépendent que du texte : deux lectures en tirent les mêmes.

- Dernier mot (à la façon de LAMBADA, Paperno et al., 2016) : des phrases qui se suivent, dont le
  dernier mot se trouve déjà plus haut. Il se devine en se rappelant le passage entier.
- Mot manquant : une phrase où un mot est remplacé par trois autres du même texte, de même
  terminaison et de fréquence voisine ; chaque phrase est notée tout entière.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.tasks import (
    ChoiceResult,
    LastWord,
    LastWordResult,
    MultipleChoice,
)

Item = TypeVar("Item")

MAX_EXAMPLES = 1000
"""Exemples de chaque épreuve, au plus."""

_LEAST_LETTERS = 5
_LEAST_WORDS_APART = 5  # entre un mot à deviner et celui qu'il répète
_PASSAGE_WORDS = (30, 90)
_SENTENCE_WORDS = (8, 40)
_DISTRACTORS = 3
_NEIGHBOURS = 24  # mots de fréquence voisine parmi lesquels choisir
_SENTENCE_END = re.compile(r"(?<=[.!?…»])\s+(?=[«—\"(]?\s*[A-ZÀ-ÖØ-Þ])")
_WORD = re.compile(r"[^\W\d_]+")
_WHOLE_WORD = re.compile(r"([^\W\d_]+)[\W\d_]*")  # « lanterne. », mais pas « aujourd'hui »

_Shape = tuple[str, bool, bool]


@dataclass(frozen=True, kw_only=True)
class ClozeExamples:
    """Les exemples tirés de textes ; `line` est leur numéro."""

    last_words: tuple[LastWord, ...]
    choices: tuple[MultipleChoice, ...]


@dataclass(frozen=True, kw_only=True)
class ClozeResult:
    """Les deux épreuves passées ; None : le texte n'a pas donné d'exemple."""

    last_word: LastWordResult | None
    choices: ChoiceResult | None


def build_cloze(texts: Iterable[str], *, limit: int | None = None) -> ClozeExamples:
    """Tire les deux épreuves de textes suivis.

    Args:
        texts: les documents.
        limit: exemples de chaque épreuve, au plus, répartis sur tout le texte ; None :
            `MAX_EXAMPLES`.

    Raises:
        DataError: aucun exemple n'en sort.
    """
    documents = [_sentences(text) for text in texts]
    counts = Counter(
        word for sentences in documents for each in sentences for word in _WORD.findall(each)
    )
    rivals = _Rivals(counts)
    # Un texte se répète parfois ; ses exemples, non.
    last_words = [*dict.fromkeys(each for found in documents for each in _last_words(found))]
    choices = [*dict.fromkeys(each for found in documents for each in _choices(found, rivals))]
    if not last_words and not choices:
        raise DataError(
            "ce texte ne donne aucun exemple à deviner",
            expected="des phrases suivies, au moins quelques pages",
            remedy="donnez un texte plus long",
        )
    most = MAX_EXAMPLES if limit is None else limit
    return ClozeExamples(
        last_words=tuple(
            LastWord(line=number, context=context, word=word)
            for number, (context, word) in enumerate(_spread(last_words, most), start=1)
        ),
        choices=tuple(
            MultipleChoice(line=number, context=context, choices=choices, label=label)
            for number, (context, choices, label) in enumerate(_spread(choices, most), start=1)
        ),
    )


def _sentences(text: str) -> list[str]:
    """Les phrases d'un texte, leurs blancs réduits à une espace."""
    return [
        " ".join(each.split())
        for paragraph in re.split(r"\n\s*\n", text)
        for each in _SENTENCE_END.split(paragraph)
        if each.strip()
    ]


def _last_words(sentences: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(Contexte, mot) de passages qui ne se recouvrent pas."""
    start = 0
    for stop, sentence in enumerate(sentences):
        words = sum(len(each.split()) for each in sentences[start : stop + 1])
        if words > _PASSAGE_WORDS[1]:
            start, words = stop, len(sentence.split())
        before, _, last = sentence.rpartition(" ")
        whole = _WHOLE_WORD.fullmatch(last)
        word = whole[1] if whole else ""
        context = " ".join([*sentences[start:stop], before])
        known = _WORD.findall(context)
        if (
            words >= _PASSAGE_WORDS[0]
            and stop > start
            and before
            and len(word) >= _LEAST_LETTERS
            and word in known[:-_LEAST_WORDS_APART]
        ):
            yield context, word
            start = stop + 1


class _Rivals:
    """Les mots qui peuvent en remplacer un : même terminaison, même casse, fréquence voisine."""

    def __init__(self, counts: Counter[str]) -> None:
        self._ranked = dict[_Shape, list[str]]()
        order = sorted(counts, key=lambda word: (-counts[word], word))
        for word in order:
            if len(word) >= _LEAST_LETTERS:
                self._ranked.setdefault(_shape(word), []).append(word)
        self._places = {
            word: place for words in self._ranked.values() for place, word in enumerate(words)
        }

    def of(self, word: str, sentence: str) -> list[str]:
        """Trois autres mots, absents de la phrase ; moins s'il n'y en a pas tant."""
        place = self._places.get(word)
        if place is None:
            return []
        words, used = self._ranked[_shape(word)], {*_WORD.findall(sentence)}
        near = words[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1]
        others = [each for each in near if each not in used]
        return sorted(others, key=lambda each: _digest(sentence + each))[:_DISTRACTORS]


def _choices(
    sentences: Sequence[str], rivals: _Rivals
) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(Début, suites, rang de la bonne) ; le mot est dans la seconde moitié de sa phrase."""
    for sentence in sentences:
        words = sentence.split()
        if not _SENTENCE_WORDS[0] <= len(words) <= _SENTENCE_WORDS[1]:
            continue
        places = range(len(words) // 2, len(words))
        for place in sorted(places, key=lambda each: _digest(f"{sentence}{each}")):
            found = _WHOLE_WORD.fullmatch(words[place])
            others = rivals.of(found[1], sentence) if found else []
            if found and len(others) == _DISTRACTORS:
                tail = " ".join([words[place][found.end(1) :], *words[place + 1 :]])
                label = _digest(sentence)[0] % (_DISTRACTORS + 1)
                ordered = [*others[:label], found[1], *others[label:]]
                yield " ".join(words[:place]), tuple(f"{each}{tail}" for each in ordered), label
                break


def _shape(word: str) -> _Shape:
    """Ce qui fait qu'un mot peut en remplacer un autre.

    Ses deux dernières lettres, sa casse, et s'il commence par une voyelle : devant elle, le mot qui
    précède s'élide.
    """
    return word[-2:], word[0].isupper(), word[0].lower() in "aeiouyhéèêâîô"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """Au plus `most` éléments, à intervalles réguliers."""
    count = min(most, len(items))
    return [items[rank * len(items) // count] for rank in range(count)]
