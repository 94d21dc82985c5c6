"""Paires minimales du français : la phrase juste est-elle plus probable que la fausse ?

Deux phrases ne diffèrent que par une faute (Warstadt et al., 2020). La note d'une phrase est la
somme des log p de ses tokens : c'est la probabilité que le modèle donne à la phrase entière, et la
seule qui compare deux textes. Une moyenne par token favoriserait celle qui se coupe en plus de
morceaux, donc souvent la forme inconnue.

Les deux phrases commencent par le même mot : un vocabulaire sans fin de texte, où le premier token
n'est pas noté, les compare encore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import groupby, islice

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_ROWS,
    Crew,
    Interval,
    Span,
    cumulated,
    wilson_interval,
)
from gpt_architecture.evaluation.shared_prefixes import score_tree

_INDEX = "paires_fr.json"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Deux phrases.

    Attributes:
        phenomenon: nom du phénomène qu'elles éprouvent.
        good: la phrase juste.
        bad: la même, fautive.
    """

    phenomenon: str
    good: str
    bad: str


@dataclass(frozen=True, kw_only=True)
class Phenomenon:
    """Ce qu'éprouvent cent paires.

    Attributes:
        name: son identifiant.
        family: sa famille : « nom », « verbe », « temps », « préposition » ou « pronom ».
        title: la règle, en une phrase.
    """

    name: str
    family: str
    title: str


@dataclass(frozen=True, kw_only=True)
class PairsScore:
    """Des paires notées.

    Attributes:
        margins: log p de la juste moins log p de la fausse, en nats, paire par paire.
    """

    margins: tuple[float, ...]

    @property
    def tied(self) -> int:
        """Paires que le modèle ne départage pas : un vocabulaire à <unk> peut les coder pareil."""
        return sum(each == 0 for each in self.margins)

    @property
    def correct(self) -> float:
        """Paires dont la phrase juste est la plus probable ; une égalité compte pour moitié."""
        return sum(each > 0 for each in self.margins) + self.tied / 2

    @property
    def accuracy(self) -> float:
        """Leur part ; un choix au hasard en obtient la moitié."""
        return self.correct / len(self.margins)

    @property
    def interval(self) -> Interval:
        """Son intervalle de confiance à 95 %."""
        return wilson_interval(self.correct, len(self.margins))


@dataclass(frozen=True, kw_only=True)
class PairsResult:
    """Toutes les paires, par phénomène.

    Attributes:
        scores: les notes de chaque phénomène mesuré.
    """

    scores: dict[Phenomenon, PairsScore]

    @cached_property
    def total(self) -> PairsScore:
        """Toutes les paires ensemble."""
        return _together(self.scores.values())

    @cached_property
    def families(self) -> dict[str, PairsScore]:
        """Les paires de chaque famille."""
        found = dict[str, list[PairsScore]]()
        for phenomenon, score in self.scores.items():
            found.setdefault(phenomenon.family, []).append(score)
        return {family: _together(scores) for family, scores in found.items()}


def _together(scores: Iterable[PairsScore]) -> PairsScore:
    return PairsScore(margins=tuple(margin for each in scores for margin in each.margins))


def read_pairs(*, limit: int | None = None) -> tuple[list[Phenomenon], list[Pair]]:
    """Les phénomènes et les paires du paquet.

    Args:
        limit: paires de chaque phénomène, les premières ; None : toutes.

    Raises:
        DataError: le fichier n'est pas celui que décrit son index.
    """
    folder = resources.files("gpt_architecture.evaluation").joinpath("lm_eval_tasks")
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    data = (folder / index["file"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise DataError(
            f"{index['file']} a changé",
            expected=f"l'empreinte {index['sha256'][:12]}…, que dit {_INDEX}",
            remedy="réinstallez gpt-architecture",
        )
    rows = [json.loads(line) for line in data.splitlines()]
    pairs = [
        Pair(phenomenon=name, good=row["juste"], bad=row["fausse"])
        for name, group in groupby(rows, key=lambda row: str(row["phenomene"]))
        for row in islice(group, limit)
    ]
    return [Phenomenon(**each) for each in index["phenomena"]], pairs


def measure_pairs(
    model: CausalLM,
    tokenizer: Tokenizer,
    phenomena: Sequence[Phenomenon],
    pairs: Sequence[Pair],
    *,
    window: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    crew: Crew = ALONE,
) -> PairsResult:
    """Note des paires, par phénomène.

    Args:
        phenomena: ceux des paires, dans l'ordre du résultat.
        window: tokens que le modèle lit à la fois.
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé avec (tokens notés, tokens à noter).
        crew: voir `score_spans`.

    Raises:
        DataError: une phrase ne tient pas dans le contexte du modèle.
        NonFiniteError: logits NaN ou infinis.
    """
    spans = pair_spans(tokenizer, pairs, window=window)
    advance = cumulated(sum(span.scored for span in spans), on_progress)
    scores = iter(score_tree(model, spans, max_rows=max_rows, on_progress=advance, crew=crew))
    tokens = (span.tokens for span in spans)
    margins = dict[str, list[float]]()
    for pair in pairs:
        good, bad = next(scores), next(scores)
        same = next(tokens) == next(tokens)  # exactement, et non à un arrondi près
        margin = 0.0 if same else good.log_prob - bad.log_prob
        margins.setdefault(pair.phenomenon, []).append(margin)
    return PairsResult(
        scores={
            each: PairsScore(margins=tuple(margins[each.name]))
            for each in phenomena
            if each.name in margins
        }
    )


def pair_spans(tokenizer: Tokenizer, pairs: Sequence[Pair], *, window: int) -> list[Span]:
    """Les séquences à noter : pour chaque paire, la phrase juste, puis la fausse.

    Raises:
        DataError: une phrase ne tient pas dans le contexte du modèle.
    """
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    return [_span(tokenizer, text, window) for text in texts]


def _span(tokenizer: Tokenizer, text: str, window: int) -> Span:
    """Une phrase, notée tout entière, ou depuis son deuxième token faute de fin de texte."""
    prefix = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    tokens = prefix + tokenizer.encode(text)
    if not 1 < len(tokens) <= window + 1:
        raise DataError(
            f"« {text} » donne {len(tokens)} tokens",
            expected=f"de 2 à {window + 1} tokens, ce que le modèle lit à la fois",
            remedy="prenez un modèle de plus long contexte",
        )
    return Span(tokens=tokens, scored=len(tokens) - 1)
