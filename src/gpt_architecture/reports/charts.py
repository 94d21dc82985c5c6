"""La géométrie de toutes les figures : axes, courbes, nuages, barres, cartes d'attention.

Rien ici ne dessine : les gabarits placent ce que ces fonctions calculent, en unités de la figure,
l'origine en haut à gauche.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from gpt_architecture.evaluation.reliability import Calibration
from gpt_architecture.french import decimal, percent, thousands

COLORS = 8
"""Couleurs et formes de marques disponibles ; au-delà elles reviennent."""

ATTENTION_LEVELS = (0.04, 0.12, 0.25, 0.45, 0.7)
"""Poids à partir desquels une case d'attention fonce d'un cran."""

_SQUARE = 380.0  # côté d'un diagramme de fiabilité
_LETTER = 6.6  # largeur moyenne d'une lettre à 12 unités
_LINE = 15.0
_MARK = 9.0  # demi-côté d'une marque, marge comprise
_MARGINS = (14.0, 14.0, 46.0, 58.0)  # haut, droite, bas, gauche
_PADDING = 14.0  # entre le cadre et les graduations extrêmes : une marque n'y est pas coupée


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Une graduation : sa place et son texte."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Une variante placée : sa moyenne, son étiquette, ses points.

    Attributes:
        label: étiquette.
        series: rang de la variante, pour sa couleur et sa forme.
        x: abscisse de la moyenne.
        y: ordonnée de la moyenne.
        label_x: abscisse de l'étiquette, selon `anchor`.
        label_y: ligne de base de l'étiquette.
        anchor: `start`, `middle` ou `end`, comme en SVG.
        points: générations une à une ; vide s'il n'y en a qu'une.
    """

    label: str
    series: int
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Ce qu'une variante met sur un nuage : ses points et leur moyenne."""

    label: str
    points: tuple[tuple[float, float], ...]
    mean: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Une courbe à tracer.

    Attributes:
        label: nom.
        series: rang de sa couleur.
        points: abscisses croissantes.
        style: `plain`, `faint` (derrière les autres), `dashed` ou `level` (un repère).
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
class Chart:
    """Une figure prête à dessiner : son cadre, ses graduations, et ce qui s'y place."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    columns: tuple[Column, ...] = ()


class _Axes:
    """Un cadre et ses deux échelles, de leur première à leur dernière graduation.

    Args:
        size: largeur et hauteur de la figure.
        x_values: graduations horizontales.
        y_values: graduations verticales.
        padding: espace entre le cadre et les graduations extrêmes.
    """

    def __init__(
        self,
        size: tuple[float, float],
        x_values: Sequence[float],
        y_values: Sequence[float],
        padding: float = 0.0,
    ) -> None:
        self.size = size
        self.top, margin_right, margin_bottom, self.left = _MARGINS
        self.right, self.bottom = size[0] - margin_right, size[1] - margin_bottom
        self._x_values, self._y_values, self._padding = x_values, y_values, padding

    def across(self, x: float) -> float:
        """L'abscisse d'une valeur."""
        return _between(x, self._x_values, self.left + self._padding, self.right - self._padding)

    def up(self, y: float) -> float:
        """L'ordonnée d'une valeur : plus haute, elle est plus haut."""
        return _between(y, self._y_values, self.bottom - self._padding, self.top + self._padding)

    def chart(
        self,
        x_label: Callable[[float], str],
        y_label: Callable[[float], str],
        *,
        marks: Sequence[Mark] = (),
        strokes: Sequence[Stroke] = (),
        columns: Sequence[Column] = (),
    ) -> Chart:
        """La figure, graduations écrites."""
        return Chart(
            width=self.size[0],
            height=self.size[1],
            left=self.left,
            right=self.right,
            top=self.top,
            bottom=self.bottom,
            x_ticks=tuple(Tick(place=self.across(x), label=x_label(x)) for x in self._x_values),
            y_ticks=tuple(Tick(place=self.up(y), label=y_label(y)) for y in self._y_values),
            marks=tuple(marks),
            strokes=tuple(strokes),
            columns=tuple(columns),
        )


def scatter(
    clouds: Sequence[Cloud],
    *,
    width: float,
    height: float,
    x_label: Callable[[float], str] = decimal,
    y_label: Callable[[float], str] = decimal,
) -> Chart:
    """Place des variantes dans un plan, étiquettes sans chevauchement autant qu'il se peut.

    Args:
        clouds: une par variante.
        width: largeur de la figure.
        height: hauteur de la figure.
        x_label: écrit une graduation horizontale.
        y_label: écrit une graduation verticale.
    """
    everything = [point for cloud in clouds for point in (*cloud.points, cloud.mean)]
    axes = _Axes(
        (width, height),
        ticks([x for x, _ in everything], max(3, int(width / 110))),
        ticks([y for _, y in everything], 5),
        _PADDING,
    )
    centers = [(axes.across(cloud.mean[0]), axes.up(cloud.mean[1])) for cloud in clouds]
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in centers]
    plot = (axes.left, axes.top, axes.right, axes.bottom)
    marks = list[Mark]()
    for series, (cloud, (x, y)) in enumerate(zip(clouds, centers, strict=True)):
        label_x, label_y, anchor, box = _label_place(cloud.label, x, y, taken, plot)
        taken.append(box)
        points = cloud.points if len(cloud.points) > 1 else ()
        marks.append(
            Mark(
                label=cloud.label,
                series=series % COLORS,
                x=x,
                y=y,
                label_x=label_x,
                label_y=label_y,
                anchor=anchor,
                points=tuple((axes.across(px), axes.up(py)) for px, py in points),
            )
        )
    return axes.chart(x_label, y_label, marks=marks)


def line_chart(
    lines: Sequence[Line],
    *,
    width: float,
    height: float,
    x_label: Callable[[float], str],
    y_label: Callable[[float], str] = decimal,
    x_values: Sequence[float] | None = None,
    y_values: Sequence[float] | None = None,
) -> Chart:
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
    points = [point for line in lines for point in line.points]
    axes = _Axes(
        (width, height),
        x_values or ticks([0.0, *(x for x, _ in points)], max(3, int(width / 130))),
        y_values or ticks([y for _, y in points], 5),
    )
    strokes = []
    for line in lines:
        placed = tuple((axes.across(x), axes.up(y)) for x, y in line.points)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""
        strokes.append(
            Stroke(label=line.label, series=line.series, style=line.style, path=path, points=placed)
        )
    return axes.chart(x_label, y_label, strokes=strokes)


def reliability_chart(calibration: Calibration, *, unit: str = "tokens") -> Chart:
    """Place les tranches d'une calibration dans un carré, dont la diagonale est la perfection.

    Args:
        calibration: les tranches.
        unit: ce qui y est compté, au pluriel.
    """
    steps = [step / 5 for step in range(6)]
    axes = _Axes((_SQUARE, _SQUARE), steps, steps)
    columns = [
        Column(
            x=axes.across(each.low) + 1,
            y=axes.up(each.accuracy),
            width=axes.across(each.high) - axes.across(each.low) - 2,
            height=axes.bottom - axes.up(each.accuracy),
            mark_x=axes.across(each.confidence),
            mark_y=axes.up(each.accuracy),
            text=f"confiance {percent(each.confidence, 0)}, exactitude "
            f"{percent(each.accuracy, 0)}, {thousands(each.count)} {unit}",
        )
        for each in calibration.bins
        if each.count
    ]
    return axes.chart(whole_percent, whole_percent, columns=columns)


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


def ticks(values: Sequence[float], count: int) -> list[float]:
    """Environ `count` graduations rondes (1, 2 ou 5 · 10ⁿ) qui encadrent les valeurs."""
    low, high = min(values), max(values)
    size = max(1.0, abs(low), abs(high))
    span = high - low if high - low > 1e-9 * size else size
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= span / count)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return [number * step for number in range(first, last + 1)]


def whole_percent(share: float) -> str:
    """« 12 % »."""
    return percent(share, 0)


def one_decimal(value: float) -> str:
    """« 1,5 », « 2 »."""
    return decimal(value, 1).removesuffix(",0")


def _between(value: float, scale: Sequence[float], start: float, end: float) -> float:
    return start + (value - scale[0]) / ((scale[-1] - scale[0]) or 1) * (end - start)


Box = tuple[float, float, float, float]


def _label_place(
    label: str, x: float, y: float, taken: Sequence[Box], plot: Box
) -> tuple[float, float, str, Box]:
    """Le premier endroit libre autour d'une marque ; à défaut, la moins encombrée."""
    width, gap = _LETTER * len(label), _MARK + 3
    options = list[tuple[float, float, str, Box]]()
    for shift in (0.0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE):
        for anchor, start in (("start", x + gap), ("end", x - gap - width)):
            box = (start, y + shift - _LINE / 2, start + width, y + shift + _LINE / 2)
            text_x = start if anchor == "start" else start + width
            options.append((text_x, y + shift + 4, anchor, box))
    for rise in (-gap - _LINE / 2, gap + _LINE / 2):
        box = (x - width / 2, y + rise - _LINE / 2, x + width / 2, y + rise + _LINE / 2)
        options.append((x, y + rise + 4, "middle", box))
    return min(options, key=lambda option: _crowding(option[3], taken, plot))


def _crowding(box: Box, taken: Sequence[Box], plot: Box) -> float:
    """Surface d'une étiquette hors de la figure, ou sur d'autres."""
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    inside = _overlap(box, plot)
    return 2 * (area - inside) + sum(_overlap(box, other) for other in taken)


def _overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
