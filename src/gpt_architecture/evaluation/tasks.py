"""Deux épreuves : le dernier mot (LAMBADA) et le choix multiple (HellaSwag).

Mêmes règles et mêmes chiffres que lm-eval (Gao et al., 2021) : la suite est notée après une
espace, le contexte trop long perd son début.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
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
