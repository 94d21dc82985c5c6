"""La géométrie des figures d'un rapport : axes, points, étiquettes, barres.

Rien ici ne dessine : les gabarits placent ce que ces fonctions calculent, en unités de la figure,
l'origine en haut à gauche.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt_architecture.french import decimal

COLORS = 8
"""Couleurs et formes de marques disponibles ; au-delà elles reviennent."""

_LETTER = 6.6  # largeur moyenne d'une lettre à 12 unités
_LINE = 15.0
_MARK = 9.0  # demi-côté d'une marque, marge comprise
_MARGINS = (14.0, 14.0, 46.0, 58.0)  # haut, droite, bas, gauche
_PADDING = 14.0  # entre le cadre et les graduations extrêmes : une marque n'y est pas coupée


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Ce qu'une variante met sur un nuage : ses points et leur moyenne."""

    label: str
    points: tuple[tuple[float, float], ...]
    mean: tuple[float, float]


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
class Scatter:
    """Un nuage prêt à dessiner."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


def scatter(
    clouds: Sequence[Cloud],
    *,
    width: float,
    height: float,
    x_label: Callable[[float], str] = decimal,
    y_label: Callable[[float], str] = decimal,
) -> Scatter:
    """Place des variantes dans un plan, étiquettes sans chevauchement autant qu'il se peut.

    Args:
        clouds: une par variante.
        width: largeur de la figure.
        height: hauteur de la figure.
        x_label: écrit une graduation horizontale.
        y_label: écrit une graduation verticale.
    """
    margin_top, margin_right, margin_bottom, left = _MARGINS
    right, bottom = width - margin_right, height - margin_bottom
    everything = [point for cloud in clouds for point in (*cloud.points, cloud.mean)]
    x_values = ticks([x for x, _ in everything], max(3, int(width / 110)))
    y_values = ticks([y for _, y in everything], 5)

    def across(value: float) -> float:
        return _between(value, x_values, left + _PADDING, right - _PADDING)

    def up(value: float) -> float:
        return _between(value, y_values, bottom - _PADDING, margin_top + _PADDING)

    centers = [(across(cloud.mean[0]), up(cloud.mean[1])) for cloud in clouds]
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in centers]
    marks = list[Mark]()
    for series, (cloud, (x, y)) in enumerate(zip(clouds, centers, strict=True)):
        label_x, label_y, anchor, box = _label_place(
            cloud.label, x, y, taken, (left, margin_top, right, bottom)
        )
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
                points=tuple((across(px), up(py)) for px, py in points),
            )
        )
    return Scatter(
        width=width,
        height=height,
        left=left,
        right=right,
        top=margin_top,
        bottom=bottom,
        x_ticks=tuple(Tick(place=across(value), label=x_label(value)) for value in x_values),
        y_ticks=tuple(Tick(place=up(value), label=y_label(value)) for value in y_values),
        marks=tuple(marks),
    )


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


def _between(value: float, scale: Sequence[float], start: float, end: float) -> float:
    return start + (value - scale[0]) / (scale[-1] - scale[0]) * (end - start)


Box = tuple[float, float, float, float]


def _label_place(
    label: str, x: float, y: float, taken: Sequence[Box], plot: Box
) -> tuple[float, float, str, Box]:
    """La première place libre autour d'une marque ; à défaut, la moins encombrée."""
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
