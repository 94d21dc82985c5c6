"""Ce qui se passe dans un modèle, montré : grilles de couches, tableaux, carte de tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt_architecture.reports.charts import Cloud, scatter
from gpt_architecture.reports.notebook import CHART_SIZE
from gpt_architecture.reports.pages import render_cell
from gpt_architecture.reports.terminal import visible_token

if TYPE_CHECKING:
    from gpt_architecture.evaluation.inside.ablation import Part
    from gpt_architecture.evaluation.inside.embeddings import Plane

PATTERNS = {
    "induction": "recopie (induction)",
    "duplicate": "même token",
    "previous": "token d'avant",
    "first": "premier token",
}
"""Ce que cherche une tête, et son nom."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Une case : son texte, sa teinte de 0 à 1, et ce que le survol dit."""

    text: str
    share: float
    hint: str = ""


Grid = tuple[str, Sequence[str], Sequence[tuple[str, Sequence[Cell]]]]
"""Titre, noms des colonnes (celle des lignes d'abord), et lignes : nom, cases."""


def grids_cell(title: str, grids: Sequence[Grid], *, notes: Sequence[str] = ()) -> str:
    """Des grilles teintées, l'une sous l'autre."""
    return render_cell("grids", title=title, grids=grids, notes=notes)


def plane_cell(plane: Plane, labels: Sequence[str]) -> str:
    """Des embeddings sur leurs deux axes principaux, chacun à sa place."""
    clouds = [
        Cloud(label=visible_token(label), points=(), mean=(float(x), float(y)))
        for label, (x, y) in zip(labels, plane.points.tolist(), strict=True)
    ]
    chart = scatter(clouds, width=CHART_SIZE[0], height=CHART_SIZE[0] * 0.7)
    return render_cell("plane", chart=chart, shares=plane.shares, count=len(labels))


def part_name(part: Part) -> str:
    """« couche 2, tête 1 », les deux comptées depuis 1."""
    what = {
        "head": f"tête {1 + (part.head or 0)}",
        "attention": "attention entière",
        "feed_forward": "perceptron",
        "block": "bloc entier",
    }
    return f"couche {part.layer + 1}, {what[part.kind]}"


def layer_name(layer: int) -> str:
    """Le nom d'une ligne de la lentille : 0 est l'embedding."""
    return f"couche {layer}" if layer else "embedding"
