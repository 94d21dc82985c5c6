"""La géométrie des figures d'une page de modèle : courbes, calibration, cartes d'attention.

Comme dans `charts`, rien ici ne dessine : les gabarits placent ce que ces fonctions calculent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from gpt_architecture.evaluation.calibration import Calibration
from gpt_architecture.french import decimal, percent, thousands
from gpt_architecture.reports.charts import Tick, ticks

ATTENTION_LEVELS = (0.04, 0.12, 0.25, 0.45, 0.7)
"""Poids à partir desquels une case d'attention fonce d'un cran."""

_MARGINS = (14.0, 14.0, 46.0, 58.0)  # haut, droite, bas, gauche


@dataclass(frozen=True, kw_only=True)
class Line:
    """Une courbe à tracer.

    Attributes:
        label: nom.
        series: rang de sa couleur.
        points: abscisses croissantes.
        style: `plain`, `faint` (derrière les autres) ou `dashed`.
    """

    label: str
    series: int
    points: Sequence[tuple[float, float]]
    style: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """Une courbe placée : son tracé SVG et ses points."""

    label: str
    series: int
    style: str
    path: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Des courbes prêtes à dessiner."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    strokes: tuple[Stroke, ...]


@dataclass(frozen=True, kw_only=True)
class Column:
    """Une tranche de confiance : sa barre d'exactitude et ce qu'elle dit."""

    x: float
    y: float
    width: float
    height: float
    mark_x: float
    mark_y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class ReliabilityChart:
    """Un diagramme de fiabilité : la diagonale est la calibration parfaite."""

    size: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: tuple[tuple[Tick, Tick], ...]
    columns: tuple[Column, ...]


def line_chart(
    lines: Sequence[Line],
    *,
    width: float,
    height: float,
    x_label: Callable[[float], str],
    y_label: Callable[[float], str] = decimal,
    x_values: Sequence[float] | None = None,
    y_values: Sequence[float] | None = None,
) -> LineChart:
    """Place des courbes dans un même cadre.

    Args:
        lines: au moins un point en tout.
        width: largeur de la figure.
        height: hauteur de la figure.
        x_label: écrit une graduation horizontale.
        y_label: écrit une graduation verticale.
        x_values: graduations horizontales ; None : rondes, et qui encadrent les points.
        y_values: graduations verticales, de même.
    """
    top, margin_right, margin_bottom, left = _MARGINS
    right, bottom = width - margin_right, height - margin_bottom
    points = [point for line in lines for point in line.points]
    across = x_values or ticks([0.0, *(x for x, _ in points)], max(3, int(width / 130)))
    up = y_values or ticks([y for _, y in points], 5)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - across[0]) / ((across[-1] - across[0]) or 1) * (right - left),
            bottom + (y - up[0]) / ((up[-1] - up[0]) or 1) * (top - bottom),
        )

    strokes = []
    for line in lines:
        placed = tuple(place(x, y) for x, y in line.points)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""
        strokes.append(
            Stroke(label=line.label, series=line.series, style=line.style, path=path, points=placed)
        )
    return LineChart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(place=place(x, up[0])[0], label=x_label(x)) for x in across),
        y_ticks=tuple(Tick(place=place(across[0], y)[1], label=y_label(y)) for y in up),
        strokes=tuple(strokes),
    )


def reliability_chart(calibration: Calibration, *, size: float = 380.0) -> ReliabilityChart:
    """Place les tranches d'une calibration dans un carré."""
    top, margin_right, margin_bottom, left = _MARGINS
    right, bottom = size - margin_right, size - margin_bottom

    def across(value: float) -> float:
        return left + value * (right - left)

    def up(value: float) -> float:
        return bottom + value * (top - bottom)

    columns = [
        Column(
            x=across(each.low) + 1,
            y=up(each.accuracy),
            width=across(each.high) - across(each.low) - 2,
            height=bottom - up(each.accuracy),
            mark_x=across(each.confidence),
            mark_y=up(each.accuracy),
            text=f"confiance {percent(each.confidence, 0)}, exactitude "
            f"{percent(each.accuracy, 0)}, {thousands(each.count)} tokens",
        )
        for each in calibration.bins
        if each.count
    ]
    steps = [step / 5 for step in range(6)]
    return ReliabilityChart(
        size=size,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        ticks=tuple(
            (
                Tick(place=across(each), label=percent(each, 0)),
                Tick(place=up(each), label=percent(each, 0)),
            )
            for each in steps
        ),
        columns=tuple(columns),
    )


def attention_paths(weights: Tensor) -> tuple[str, ...]:
    """Un tracé SVG par cran de poids, une case par unité, depuis les poids (T, T) d'une tête.

    La case (i, j), colonne j et ligne i, dit combien le token i regarde le token j ; les cases
    voisines d'un même cran sont réunies.
    """
    levels = sum((weights >= bound).int() for bound in ATTENTION_LEVELS)
    paths = ["" for _ in ATTENTION_LEVELS]
    for row, values in enumerate(levels.tolist()):  # type: ignore[union-attr]
        start = 0
        for column in range(1, len(values) + 1):
            if column < len(values) and values[column] == values[start]:
                continue
            if values[start]:
                width = column - start
                paths[values[start] - 1] += f"M{start} {row}h{width}v1h-{width}z"
            start = column
    return tuple(paths)


def attention_profile(weights: Tensor) -> tuple[float, float, float]:
    """Part moyenne des poids (…, T, T) donnée au premier token, au précédent, à soi-même.

    Comptée à partir du troisième token : avant, les trois se confondent. Zéro pour un texte de
    moins de trois tokens.
    """
    rows = weights[..., 2:, :]
    if not rows.numel():
        return 0.0, 0.0, 0.0
    diagonals = (
        rows[..., 0],
        rows.diagonal(offset=1, dim1=-2, dim2=-1),
        rows.diagonal(offset=2, dim1=-2, dim2=-1),
    )
    first, previous, itself = (float(each.mean()) for each in diagonals)
    return first, previous, itself
