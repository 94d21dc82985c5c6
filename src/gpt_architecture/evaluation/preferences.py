"""Des paires de réponses : la préférée est-elle la plus probable ?

La note d'une réponse est la somme des log p de ses tokens sachant la question. Une somme favorise
la plus courte, une moyenne par token la plus prévisible : les deux sont mesurées.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.preferences import encode_pairs
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, check_template
from gpt_architecture.data.texts.conversations import EncodedConversation
from gpt_architecture.data.texts.preferences import PreferencePair, read_preferences
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_ROWS,
    Crew,
    Interval,
    Span,
    bootstrap_interval,
    cumulated,
    score_spans,
)
from gpt_architecture.evaluation.minimal_pairs import PairsScore


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """Une paire notée.

    Attributes:
        line: sa ligne dans le fichier, ou son rang dans la liste.
        chosen, rejected: log p de la réponse préférée et de l'autre, en nats.
        chosen_tokens, rejected_tokens: leurs tokens.
    """

    line: int
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int


@dataclass(frozen=True, kw_only=True)
class PreferenceResult:
    """Toutes les paires.

    Attributes:
        pairs: les paires notées, dans l'ordre du fichier.
    """

    pairs: tuple[AnswerPair, ...]

    @property
    def total(self) -> PairsScore:
        """Chaque réponse notée entière."""
        return PairsScore(margins=tuple(each.chosen - each.rejected for each in self.pairs))

    @property
    def per_token(self) -> PairsScore:
        """Chaque réponse notée en moyenne par token."""
        return PairsScore(
            margins=tuple(
                each.chosen / each.chosen_tokens - each.rejected / each.rejected_tokens
                for each in self.pairs
            )
        )

    @property
    def margin(self) -> float:
        """Écart moyen des deux log p, en nats."""
        return sum(self.total.margins) / len(self.pairs)

    @property
    def margin_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        return bootstrap_interval(self.total.margins, [1.0] * len(self.pairs))


def read_pairs(path: Path | str, *, limit: int | None = None) -> list[PreferencePair]:
    """Les premières paires d'un fichier.

    Raises:
        DataError: fichier illisible ou vide, ou paire mal formée ; elle est désignée.
    """
    return read_preferences(path)[0][:limit]


def measure_preferences(
    model: CausalLM,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    path: Path | str,
    *,
    template: str | None,
    window: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    crew: Crew = ALONE,
) -> PreferenceResult:
    """Note des paires ; une trop longue pour le contexte est laissée, ce qui est dit.

    Args:
        pairs: les paires.
        path: d'où elles viennent, pour les messages.
        template: gabarit de conversation du modèle ; None : celui du projet.
        window: tokens que le modèle lit à la fois.
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé avec (tokens notés, tokens à noter).
        crew: voir `score_spans`.

    Raises:
        DataError: le gabarit refuse une paire, ou aucune ne tient.
        NonFiniteError: logits NaN ou infinis.
    """
    template = DEFAULT_CHAT_TEMPLATE if template is None else check_template(template)
    coded = encode_pairs(pairs, path, template, tokenizer, window=window)
    spans = [[list(answer_spans(row)) for row in rows] for _, rows in coded]
    flat = [span for rows in spans for row in rows for span in row]
    advance = cumulated(sum(span.scored for span in flat), on_progress)
    notes = iter(score_spans(model, flat, max_rows=max_rows, on_progress=advance, crew=crew))
    found = []
    for (pair, _), rows in zip(coded, spans, strict=True):
        chosen, rejected = (sum(next(notes).log_prob for _ in row) for row in rows)
        counts = [sum(span.scored for span in row) for row in rows]
        found.append(
            AnswerPair(
                line=pair.line,
                chosen=chosen,
                rejected=rejected,
                chosen_tokens=counts[0],
                rejected_tokens=counts[1],
            )
        )
    return PreferenceResult(pairs=tuple(found))


def answer_spans(row: EncodedConversation) -> Iterator[Span]:
    """Les séquences qui notent les réponses d'une conversation : une par réponse."""
    place = 0
    for is_answer, run in groupby(row.learned):
        length = len(list(run))
        place += length
        scored = min(length, place - 1)  # rien ne prédit le premier token
        if is_answer and scored:
            yield Span(tokens=row.ids[:place], scored=scored)
