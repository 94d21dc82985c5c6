"""Deux épreuves, lues en JSONL : le dernier mot (LAMBADA) et le choix multiple (HellaSwag).

Mêmes règles et mêmes chiffres que lm-eval (Gao et al., 2021) : la suite est notée après une
espace, le contexte trop long perd son début. Une ligne qui ne convient pas arrête la lecture : son
numéro est dit.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, reason
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_ROWS,
    Crew,
    Interval,
    SpanScore,
    bootstrap_interval,
    continuation_span,
    cumulated,
    perplexity_of,
    score_spans,
    wilson_interval,
)
from gpt_architecture.storage import open_regular

MAX_LINE_BYTES = 1 << 20
MAX_CHOICES = 64

_LAST_WORD = '{"text": "un texte dont on devine le dernier mot"}'
_CHOICES = '{"ctx": "un début", "endings": ["une suite", "une autre"], "label": 0}'
_BRACKETS = re.compile(r"\[.*?\]")

Example = TypeVar("Example")


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """Un texte dont le dernier mot est à deviner (Paperno et al., 2016).

    Attributes:
        line: ligne du fichier.
        context: le texte sans son dernier mot ni l'espace qui le précède.
        word: ce mot.
    """

    line: int
    context: str
    word: str


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """Un contexte et plusieurs suites possibles, dont une seule est la bonne (Zellers et al.,
    2019).

    Attributes:
        line: ligne du fichier.
        context: le contexte.
        choices: les suites, au moins deux.
        label: rang de la bonne.
    """

    line: int
    context: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True, kw_only=True)
class LastWordResult:
    """Le dernier mot, sur tous les exemples.

    Attributes:
        lines: ligne de chaque exemple.
        log_probs: log p de chaque dernier mot, en nats.
        correct: chaque mot est-il celui que le choix glouton aurait écrit ?
    """

    lines: tuple[int, ...]
    log_probs: tuple[float, ...]
    correct: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Part des mots devinés."""
        return sum(self.correct) / len(self.correct)

    @property
    def accuracy_interval(self) -> Interval:
        """Son intervalle de confiance à 95 %."""
        return wilson_interval(sum(self.correct), len(self.correct))

    @property
    def perplexity(self) -> float:
        """exp(−log p moyen des mots) ; un mot de plusieurs tokens compte pour un."""
        return perplexity_of(-math.fsum(self.log_probs) / len(self.log_probs))

    @property
    def perplexity_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        losses = [-each for each in self.log_probs]
        interval = bootstrap_interval(losses, [1.0] * len(losses))
        return interval and (perplexity_of(interval[0]), perplexity_of(interval[1]))


@dataclass(frozen=True, kw_only=True)
class ChoiceOutcome:
    """Un exemple de choix multiple, noté.

    Attributes:
        line: ligne du fichier.
        label: rang de la bonne suite.
        log_probs: log p de chaque suite, en nats.
        lengths: caractères de chaque suite.
    """

    line: int
    label: int
    log_probs: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def chosen(self) -> int:
        """Rang de la suite la plus probable."""
        return _best(self.log_probs)

    @property
    def chosen_norm(self) -> int:
        """Rang de la suite la plus probable par caractère."""
        pairs = zip(self.log_probs, self.lengths, strict=True)
        return _best([log_prob / length for log_prob, length in pairs])


@dataclass(frozen=True, kw_only=True)
class ChoiceResult:
    """Le choix multiple, sur tous les exemples."""

    outcomes: tuple[ChoiceOutcome, ...]

    @property
    def acc(self) -> float:
        """Part des exemples dont la bonne suite est la plus probable."""
        return self._successes / len(self.outcomes)

    @property
    def acc_interval(self) -> Interval:
        """Son intervalle de confiance à 95 %."""
        return wilson_interval(self._successes, len(self.outcomes))

    @property
    def acc_norm(self) -> float:
        """De même, par caractère : une longue suite n'est plus désavantagée."""
        return self._successes_norm / len(self.outcomes)

    @property
    def acc_norm_interval(self) -> Interval:
        """Son intervalle de confiance à 95 %."""
        return wilson_interval(self._successes_norm, len(self.outcomes))

    @property
    def chance(self) -> float:
        """Exactitude d'un choix au hasard."""
        return sum(1 / len(each.lengths) for each in self.outcomes) / len(self.outcomes)

    @property
    def _successes(self) -> int:
        return sum(each.chosen == each.label for each in self.outcomes)

    @property
    def _successes_norm(self) -> int:
        return sum(each.chosen_norm == each.label for each in self.outcomes)


def measure_last_words(
    model: CausalLM,
    tokenizer: Tokenizer,
    examples: Sequence[LastWord],
    *,
    window: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    crew: Crew = ALONE,
) -> LastWordResult:
    """Note le dernier mot de chaque exemple.

    Args:
        window: tokens que le modèle lit à la fois.
        on_progress: appelé avec (tokens notés, tokens à noter).
        crew: voir `score_spans`.

    Raises:
        DataError: un mot est plus long que le contexte du modèle.
    """
    pairs = [(each.context, f" {each.word}") for each in examples]
    scores = _scores(model, tokenizer, pairs, window, max_rows, on_progress, crew)
    return LastWordResult(
        lines=tuple(each.line for each in examples),
        log_probs=tuple(each.log_prob for each in scores),
        correct=tuple(each.is_greedy for each in scores),
    )


def measure_choices(
    model: CausalLM,
    tokenizer: Tokenizer,
    examples: Sequence[MultipleChoice],
    *,
    window: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    crew: Crew = ALONE,
) -> ChoiceResult:
    """Note chaque suite de chaque exemple ; voir `measure_last_words`."""
    pairs = [(each.context, f" {choice}") for each in examples for choice in each.choices]
    scores = iter(_scores(model, tokenizer, pairs, window, max_rows, on_progress, crew))
    return ChoiceResult(
        outcomes=tuple(
            ChoiceOutcome(
                line=each.line,
                label=each.label,
                log_probs=tuple(next(scores).log_prob for _ in each.choices),
                lengths=tuple(map(len, each.choices)),
            )
            for each in examples
        )
    )


def _scores(
    model: CausalLM,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    window: int,
    max_rows: int,
    on_progress: Callable[[int, int], None] | None,
    crew: Crew,
) -> list[SpanScore]:
    """La note de chaque suite après son contexte."""
    spans = [
        continuation_span(
            tokenizer.encode, context, continuation, prefix=tokenizer.eos_id, window=window
        )
        for context, continuation in pairs
    ]
    advance = cumulated(sum(span.scored for span in spans), on_progress)
    return score_spans(model, spans, max_rows=max_rows, on_progress=advance, crew=crew)


def _best(values: Sequence[float]) -> int:
    """Le rang du plus grand ; le premier en cas d'égalité."""
    return max(range(len(values)), key=values.__getitem__)


def read_last_words(path: Path | str, *, limit: int | None = None) -> list[LastWord]:
    """Les exemples d'un fichier JSONL à la façon de LAMBADA : un champ `text` par ligne.

    Raises:
        DataError: fichier illisible ou vide, ou ligne qui ne convient pas : son numéro est dit.
    """
    return _read(path, _last_word, expected=_LAST_WORD, limit=limit)


def read_choices(path: Path | str, *, limit: int | None = None) -> list[MultipleChoice]:
    """Les exemples d'un fichier JSONL au format de HellaSwag.

    Chaque ligne a `endings`, `label` et un début : `ctx`, ou `ctx_a` et `ctx_b`. Une ligne qui a
    aussi `activity_label` vient de HellaSwag même : elle est préparée comme lm-eval le fait.

    Raises:
        DataError: fichier illisible ou vide, ou ligne qui ne convient pas : son numéro est dit.
    """
    return _read(path, _choice, expected=_CHOICES, limit=limit)


def _read(
    path: Path | str,
    parse: Callable[[int, Mapping[str, Any]], Example],
    *,
    expected: str,
    limit: int | None,
) -> list[Example]:
    examples = list(islice(_parsed(path, parse, expected), limit))
    if not examples:
        raise DataError(
            f"{path} n'a aucun exemple",
            expected=f"une ligne par exemple, comme {expected}",
            remedy="donnez un autre fichier",
        )
    return examples


def _parsed(
    path: Path | str, parse: Callable[[int, Mapping[str, Any]], Example], expected: str
) -> Iterator[Example]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"un objet était attendu, {type(row).__name__} trouvé")
            yield parse(number, row)
        except (ValueError, RecursionError) as error:
            where, kind = f"ligne {number}", reason(error)
            if isinstance(error, json.JSONDecodeError):
                where, kind = f"{where}, colonne {error.colno}", "JSON invalide"
            raise DataError(
                f"{path}, {where} : {kind}",
                expected=f"un objet JSON comme {expected}",
                remedy="corrigez cette ligne",
            ) from None


def _lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """(Numéro, octets) des lignes qui ne sont pas blanches."""
    try:
        with open_regular(path) as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}, ligne {number} : plus de {MAX_LINE_BYTES} octets",
                        expected="un exemple par ligne",
                        remedy="raccourcissez cette ligne",
                    )
                if line.strip():
                    yield number, line.removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError.unreadable(path, error, expected="un fichier JSONL") from None


def _last_word(line: int, row: Mapping[str, Any]) -> LastWord:
    context, _, word = _text(row, "text").strip().rpartition(" ")
    if not context:
        raise ValueError("le texte n'a qu'un mot")
    return LastWord(line=line, context=context, word=word)


def _choice(line: int, row: Mapping[str, Any]) -> MultipleChoice:
    endings = row.get("endings")
    if not isinstance(endings, list) or not 2 <= len(endings) <= MAX_CHOICES:
        raise ValueError(f"endings n'est pas une liste de 2 à {MAX_CHOICES} suites")
    if not all(_is_text(each) for each in endings):
        raise ValueError("une suite de endings est vide ou n'est pas un texte")
    if "ctx_a" in row:
        second = "" if row.get("ctx_b") in (None, "") else _text(row, "ctx_b")
        context = f"{_text(row, 'ctx_a')} {second.capitalize()}"
    else:
        context = _text(row, "ctx")
    if "activity_label" in row:  # une ligne de HellaSwag, ses crochets et ses titres compris
        context = _clean(f"{_text(row, 'activity_label')}: {context}")
    prepare = _clean if "activity_label" in row else str.strip
    return MultipleChoice(
        line=line,
        context=context,
        choices=tuple(map(prepare, endings)),
        label=_label(row.get("label"), len(endings)),
    )


def _label(value: object, count: int) -> int:
    """Le rang de la bonne suite ; HellaSwag l'écrit parfois entre guillemets."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise ValueError(f"label vaut {value!r}, un rang de 0 à {count - 1} était attendu")
    return value


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not _is_text(value):
        raise ValueError(f"le champ {field} manque, est vide ou n'est pas un texte")
    return str(value)


def _is_text(value: object) -> bool:
    """Vrai pour un texte non vide qui s'écrit en UTF-8 (un demi-codet seul ne s'écrit pas)."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _clean(text: str) -> str:
    """Le nettoyage de HellaSwag dans lm-eval : titres et crochets de WikiHow."""
    text = _BRACKETS.sub("", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
