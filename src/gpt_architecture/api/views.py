"""Ce qu'un modèle montre d'un texte : tokens, probabilités, attention, filtres.

Chaque objet se lit de trois façons : ses attributs, une ligne au terminal (`repr`), et dans un
carnet une figure en HTML (`_repr_html_`). Les calculs sont ceux d'`evaluation` et de `decoding`.

Formes : L couches, H têtes, T tokens.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.generator import Generation
from gpt_architecture.decoding.sequence import FinishReason, TextStream, TokenScore
from gpt_architecture.decoding.trace import Trace as FilterTrace
from gpt_architecture.evaluation.attention_maps import AttentionMaps, attention_profile
from gpt_architecture.evaluation.distribution import (
    DistributionStudy,
    distribution_figure,
    plot_distribution,
)
from gpt_architecture.evaluation.fertility import Segment
from gpt_architecture.french import decimal, french_number, percent, plural, thousands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 60  # caractères d'un texte dans une ligne


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Un token possible à une place.

    Attributes:
        text: son texte, seul.
        id: son identifiant.
        probability: sa probabilité sous le modèle, avant tout filtre.
    """

    text: str
    id: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class WrittenPiece:
    """Un token d'un texte généré.

    Attributes:
        text: ce qu'il ajoute au texte ; vide s'il n'achève pas un caractère, ou le finit.
        name: son texte, seul.
        id: son identifiant.
        probability: sa probabilité sous le modèle, avant tout filtre.
        candidates: les plus probables à sa place, du plus au moins probable.
    """

    text: str
    name: str
    id: int
    probability: float
    candidates: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Completion:
    """Un texte généré, et la probabilité de chacun de ses tokens.

    Attributes:
        prompt: l'invite.
        text: le texte généré seul, sans le texte d'arrêt.
        pieces: ses tokens (N).
        finish: `stop`, fin du texte ou arrêt demandé ; `length`, nombre de tokens atteint.
        seed: graine de l'échantillonnage.
    """

    prompt: str
    text: str
    pieces: tuple[WrittenPiece, ...]
    finish: FinishReason
    seed: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Les identifiants produits, fin de texte comprise."""
        return tuple(piece.id for piece in self.pieces)

    def __str__(self) -> str:
        return self.prompt + self.text

    def __repr__(self) -> str:
        count = len(self.pieces)
        return f"Completion({_cut(str(self))!r}, {count} {plural(count, 'token')}, {self.finish})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import completion_cell
        from gpt_architecture.reports.trace import FINISHES

        facts = [
            ("tokens", thousands(len(self.pieces))),
            ("arrêt", FINISHES[self.finish]),
            ("graine", str(self.seed)),
        ]
        return completion_cell(self.prompt, self.pieces, facts)


@dataclass(frozen=True, kw_only=True, repr=False)
class Tokenization:
    """Un texte découpé en tokens.

    Attributes:
        text: le texte.
        ids: identifiants de ses tokens (T).
        pieces: texte de chacun, seul (T) ; un bout de caractère y est « \ufffd ».
        segments: les mêmes, les tokens qui se partagent un caractère réunis.
        tokenizer: nom du tokenizer.
    """

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    segments: tuple[Segment, ...]
    tokenizer: str

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """(texte, identifiant) de chaque token."""
        return iter(zip(self.pieces, self.ids, strict=True))

    def __repr__(self) -> str:
        from gpt_architecture.reports.terminal import visible_token

        shown = "|".join(visible_token(piece) for piece in self.pieces)
        return f"Tokenization({_cut(shown)}, {len(self)} {plural(len(self), 'token')})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tokens_cell

        facts = [
            ("tokenizer", self.tokenizer),
            ("caractères", thousands(len(self.text))),
            ("tokens", thousands(len(self))),
        ]
        return tokens_cell(self.segments, self.ids, facts)


@dataclass(frozen=True, kw_only=True, repr=False)
class Distribution(DistributionStudy):
    """Le token qui suit une invite, sous chaque température et chaque filtre.

    Attributes:
        prompt: l'invite.
        labels: texte des tokens suivis, ses blancs visibles, les plus probables d'abord.
    """

    prompt: str
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        """Ce que c'est, en une ligne."""
        return f"Token suivant après « {self.prompt} »"

    def plot(self) -> Figure:
        """La figure de la commande `visualize` : les températures, puis les filtres.

        Raises:
            MissingDependencyError: matplotlib n'est pas installé.
        """
        return displayed(distribution_figure(self, self.labels, self.title))

    def save(self, path: Path | str) -> Path:
        """Écrit la figure ; l'extension du fichier fixe son format.

        Raises:
            MissingDependencyError: matplotlib n'est pas installé.
            ConfigurationError: l'extension n'est pas celle d'une figure.
            OutputError: le fichier ne peut pas être écrit.
        """
        return plot_distribution(self, self.labels, self.title, path)

    def __repr__(self) -> str:
        raw = self.filters[0]
        found = zip(self.labels, raw.probabilities, strict=True)
        best = ", ".join(f"{label} {percent(p)}" for label, p in list(found)[:3])
        entropy = decimal(raw.entropy)
        return f"Distribution(après {_cut(self.prompt)!r} : {best}… ; entropie {entropy} bits)"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import distribution_cell

        return distribution_cell(self, self.labels, self.prompt)


class AttentionMap(AttentionMaps):
    """Où regarde chaque tête d'attention ; voir `evaluation.attention_maps.AttentionMaps`."""

    def head(self, layer: int, head: int) -> Tensor:
        """Les poids (T, T) d'une tête ; couches et têtes sont numérotées depuis 1.

        Raises:
            ConfigurationError: numéro hors bornes.
        """
        layers, heads = self.weights.shape[:2]
        check_int("layer", layer, minimum=1, maximum=layers)
        check_int("head", head, minimum=1, maximum=heads)
        return self.weights[layer - 1, head - 1]

    def __repr__(self) -> str:
        layers, heads, size = self.weights.shape[:3]
        first, previous, itself = attention_profile(self.weights)
        return (
            f"AttentionMap({layers} {plural(layers, 'couche')}, {heads} {plural(heads, 'tête')}, "
            f"{size} {plural(size, 'token')} ; premier {percent(first, 0)}, "
            f"précédent {percent(previous, 0)}, soi {percent(itself, 0)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import attention_cell

        return attention_cell(self)


class Trace(FilterTrace):
    """Ce que chaque filtre a gardé, token par token ; voir `decoding.trace.Trace`."""

    def page(self) -> str:
        """La page HTML que `infer --trace-format html` écrit."""
        from gpt_architecture.reports.trace import render_html

        return render_html(self)

    def __repr__(self) -> str:
        count = len(self.steps) + self.omitted
        text = _cut(self.prompt + self.text)
        return f"Trace({text!r}, {count} {plural(count, 'token')}, {self.config.strategy})"

    def __str__(self) -> str:
        from gpt_architecture.reports.trace import render_text

        return render_text(self)

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import trace_cell

        return trace_cell(self)


@dataclass(frozen=True, repr=False)
class Table:
    """Des colonnes de même longueur, nommées.

    Attributes:
        columns: nom → valeurs.
        title: ce que c'est.
    """

    columns: dict[str, list[Any]]
    title: str = ""

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Les lignes : nom → valeur."""
        names = list(self.columns)
        return [
            dict(zip(names, row, strict=True)) for row in zip(*self.columns.values(), strict=True)
        ]

    def to_pandas(self) -> Any:
        """Un `DataFrame` de pandas.

        Raises:
            MissingDependencyError: pandas n'est pas installé.
        """
        from importlib import import_module

        from gpt_architecture.errors import MissingDependencyError

        try:
            return import_module("pandas").DataFrame(self.columns)
        except ImportError:
            raise MissingDependencyError("pandas", purpose="en faire un DataFrame") from None

    def __repr__(self) -> str:
        return f"Table({french_number(len(self))} lignes : {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import MOST_ROWS, tables_cell

        every = -(-len(self) // MOST_ROWS) or 1
        rows = [[_cell(value) for value in row.values()] for row in self.rows[::every]]
        notes = [] if every == 1 else [f"Une ligne sur {every} est montrée."]
        return tables_cell([(self.title, list(self.columns), rows)], notes=notes)


def written_pieces(
    tokenizer: Tokenizer, ids: Sequence[int], found: Generation, scores: Sequence[TokenScore]
) -> Iterator[WrittenPiece]:
    """Les tokens d'une suite, leur texte et leurs candidats.

    Args:
        tokenizer: celui du modèle.
        ids: identifiants de l'invite.
        found: la suite.
        scores: probabilités de ses tokens.
    """
    stream, last = TextStream(tokenizer.decode, ids), len(found.tokens) - 1
    left = len(found.text)  # un texte d'arrêt en ôte la fin
    for place, score in enumerate(scores):
        ends = place == last and found.finish == "stop" and score.token == tokenizer.eos_id
        text = "" if ends else stream.push(score.token)
        text = (text + stream.finish() if place == last else text)[:left]
        left -= len(text)
        yield WrittenPiece(
            text=text,
            name=token_text(tokenizer, score.token),
            id=score.token,
            probability=exp(score.logprob),
            candidates=tuple(
                Choice(text=token_text(tokenizer, token), id=token, probability=exp(logprob))
                for token, logprob in score.top
            ),
        )


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Texte d'un token, seul ; un logit du modèle peut n'en avoir aucun."""
    return tokenizer.decode([token]) if token < tokenizer.vocab_size else ""


def displayed(figure: Figure) -> Figure:
    """Une figure qu'un carnet montre, même si rien n'y a importé pyplot."""
    figure._repr_svg_ = partial(_svg, figure)  # type: ignore[attr-defined]
    return figure


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}".replace(".", ",")
    return thousands(value) if isinstance(value, int) else str(value)


def _cut(text: str) -> str:
    """Un texte d'une ligne, abrégé."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
