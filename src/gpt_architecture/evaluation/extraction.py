"""L'extraction par préfixes : de ce qu'un modèle a appris, la part qu'il rend mot pour mot.

D'un extrait du texte d'entraînement, le modèle reçoit le début et continue, au plus probable ;
l'extrait est rendu si toute sa suite l'est, token pour token (Carlini et al., 2023). Continuer au
plus probable redonne la suite si et seulement si chacun de ses tokens est le plus probable sachant
les vrais qui le précèdent : une lecture suffit, rien n'est généré.

Les extraits commencent où commencent les fenêtres de l'entraînement. Un modèle aux positions
apprises sait un texte aux positions où il l'a lu, et ne le rend presque jamais ailleurs : des
extraits pris au hasard tairaient l'essentiel de ce qu'il retient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.evaluation.likelihood import (
    MAX_ROWS,
    Interval,
    Span,
    cumulated,
    score_spans,
    wilson_interval,
)
from gpt_architecture.evaluation.memorisation import spread_places
from gpt_architecture.evaluation.repetition import overlaps

SUFFIX = 32
"""Tokens qu'il faut rendre, au plus."""

EXTRACTS = 500
"""Extraits de chaque texte, au plus."""

_SHORTEST = 4  # tokens d'un préfixe

Keep = Callable[[TokenSource, int, int], bool]


@dataclass(frozen=True, kw_only=True)
class ExtractionRow:
    """Ce qui est rendu après des préfixes d'une longueur.

    Attributes:
        prefix: leur longueur, en tokens.
        extracted: extraits du texte d'entraînement rendus.
        total: extraits du texte d'entraînement.
        controls_extracted: témoins rendus.
        controls: témoins.
    """

    prefix: int
    extracted: int
    total: int
    controls_extracted: int
    controls: int

    @property
    def share(self) -> float:
        """Part rendue du texte d'entraînement."""
        return self.extracted / self.total

    @property
    def interval(self) -> Interval:
        """Son intervalle à 95 %."""
        return wilson_interval(self.extracted, self.total)

    @property
    def controls_share(self) -> float | None:
        """Part rendue des témoins ; None : il n'y en a pas."""
        return self.controls_extracted / self.controls if self.controls else None


@dataclass(frozen=True, kw_only=True)
class ExtractionReport:
    """La part rendue selon la longueur du préfixe.

    Attributes:
        rows: préfixes croissants.
        suffix: tokens à rendre.
        dropped: extraits inédits écartés des témoins : leur suite est aussi dans l'entraînement.
    """

    rows: tuple[ExtractionRow, ...]
    suffix: int
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        rows = [
            {**vars(each), "share": each.share, "interval": each.interval} for each in self.rows
        ]
        return {"suffix": self.suffix, "dropped": self.dropped, "by_prefix": rows}


def prefix_lengths(window: int) -> tuple[tuple[int, ...], int]:
    """Les préfixes essayés, et la longueur de la suite, pour un modèle qui lit `window` tokens.

    Les préfixes doublent ; le plus long et la suite tiennent ensemble dans la fenêtre.
    """
    suffix = max(1, min(SUFFIX, window // 2))
    lengths, length = list[int](), _SHORTEST
    while length + suffix <= window:
        lengths.append(length)
        length *= 2
    return tuple(lengths) or (max(1, window - suffix),), suffix


def measure_extraction(
    model: CausalLM,
    training: TokenSource,
    unseen: TokenSource | None,
    *,
    window: int,
    stride: int = 1,
    extracts: int = EXTRACTS,
    max_rows: int = MAX_ROWS,
    keep: Keep = lambda source, start, length: True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExtractionReport | None:
    """Ce que le modèle rend du texte d'entraînement, et d'un texte inédit.

    Args:
        model: rend des logits (B, T, V).
        training: le texte d'entraînement.
        unseen: texte du même genre que le modèle n'a pas appris ; None : pas de témoins. Un
            extrait dont la suite est aussi, mot pour mot, dans l'entraînement n'en est pas un.
        window: tokens que le modèle lit à la fois.
        stride: tokens entre deux débuts de fenêtre, à l'entraînement.
        extracts: extraits de chaque texte, au plus.
        max_rows: séquences d'un lot, au plus.
        keep: dit d'un texte, d'une place et d'une longueur si cet extrait compte.
        on_progress: appelé avec (tokens notés, en tout).

    Returns:
        None : aucun extrait du texte d'entraînement ne compte.
    """
    prefixes, suffix = prefix_lengths(window)
    size = prefixes[-1] + suffix
    learned = _kept(training, size, stride, extracts, keep)
    if not learned:
        return None
    asked = [] if unseen is None else _kept(unseen, size, stride, extracts, keep)
    tails = [each[prefix : prefix + suffix] for each in asked for prefix in prefixes]
    known = [
        overlap.longest >= min(suffix, len(tail))
        for overlap, tail in zip(overlaps(training, tails), tails, strict=True)
    ]
    per = len(prefixes)
    controls = [
        each for rank, each in enumerate(asked) if not any(known[rank * per : (rank + 1) * per])
    ]
    spans = [
        Span(tokens=each[: prefix + suffix], scored=min(suffix, len(each) - 1))
        for prefix in prefixes
        for each in (*learned, *controls)
    ]
    advance = cumulated(sum(each.scored for each in spans), on_progress)
    scores = score_spans(model, spans, max_rows=max_rows, on_progress=advance)
    per = len(learned) + len(controls)
    rows = []
    for number, prefix in enumerate(prefixes):
        own = [each.is_greedy for each in scores[number * per : (number + 1) * per]]
        rows.append(
            ExtractionRow(
                prefix=prefix,
                extracted=sum(own[: len(learned)]),
                total=len(learned),
                controls_extracted=sum(own[len(learned) :]),
                controls=len(controls),
            )
        )
    return ExtractionReport(rows=tuple(rows), suffix=suffix, dropped=len(asked) - len(controls))


def _kept(source: TokenSource, size: int, stride: int, most: int, keep: Keep) -> list[list[int]]:
    """Des extraits qui comptent, disjoints, répartis dans tout le texte ; `most` au plus."""
    size = min(size, source.num_tokens)
    unit = -(-size // stride) * stride
    return [
        source.read(unit * place, size).tolist()
        for place in spread_places((source.num_tokens - size) // unit + 1, 1, most)
        if keep(source, unit * place, size)
    ]


def shortest_prefix(rows: Sequence[ExtractionRow]) -> int | None:
    """Le plus court préfixe après lequel quelque chose est rendu ; None : jamais rien."""
    return next((each.prefix for each in rows if each.extracted), None)
