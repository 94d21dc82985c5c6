"""Les débits mesurés, dessinés d'après les lignes qu'écrivent les bancs (`--json`).

Une ligne a les champs de `benchmarks/_measure.py` : `question`, `candidate`, `ours`, `ours_range`,
`against`, `peer`, `peer_range`, `ratio`, `unit`, `machine`. Les étendues vont du plus lent au plus
rapide passage ; sans étendue, aucun trait n'est dessiné.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawing import Drawing

from gpt_architecture.french import decimal, thousands

Row = dict[str, Any]

PANELS = ("Décodage, un texte", "Lot de 32", "Lecture d'une invite", "32 flux servis")
"""Début des questions montrées, une par cadre ; chacune a une ligne par précision."""
PEERS = 3
"""Pairs montrés, les plus rapides de chaque précision."""
AXES = {"layers": "couches", "width": "largeur", "context": "contexte (tokens)"}
BASE = {"layers": 6, "width": 384, "context": 256}
"""La forme que `benchmarks/model_size.py` fait varier, un axe à la fois."""


def read_rows(path: Path) -> list[Row]:
    """Les lignes d'un fichier de mesures."""
    found: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return found


def speed(value: float) -> str:
    """Trois chiffres qui comptent : « 1 225 », « 94,5 », « 4,70 »."""
    return thousands(round(value)) if value >= 1000 else decimal(value, 1 if value >= 10 else 2)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Un candidat : sa médiane, son étendue, et combien de fois nous faisons mieux."""

    name: str
    value: float
    spread: tuple[float, float] | None
    ratio: float | None
    is_ours: bool


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """Notre barre, puis celles des pairs les plus rapides."""
    peers = [
        Bar(
            name=row["against"],
            value=row["peer"],
            spread=_spread(row["peer_range"]),
            ratio=row["ratio"],
            is_ours=False,
        )
        for row in rows
        if row["against"] is not None and not row["against"].startswith("ce projet")
    ]
    first = rows[0]
    ours = Bar(
        name="ce projet",
        value=first["ours"],
        spread=_spread(first["ours_range"]),
        ratio=None,
        is_ours=True,
    )
    return [ours, *sorted(peers, key=lambda bar: -bar.value)[:PEERS]] if peers else []


def throughput(rows: Sequence[Row]) -> str:
    """Un cadre par question, une barre par candidat, un trait d'un passage extrême à l'autre."""
    panels = [(start, _precisions(rows, start)) for start in PANELS]
    panels = [(start, found) for start, found in panels if found]
    columns = [panels[::2], panels[1::2]]
    width, top = 530.0, 74.0
    bottom = max(sum(_panel_height(found) for _, found in column) for column in columns)
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    drawing = Drawing(
        2 * width + 20,
        top + bottom + 34,
        title="Débits de ce projet et des autres moteurs, en tokens par seconde",
        description=" ; ".join(
            f"{question} : " + ", ".join(f"{bar.name} {speed(bar.value)}" for bar in bars)
            for _, found in panels
            for question, bars in found
        ),
    )
    drawing.text(24, 32, "Débit, en tokens par seconde", size=17, bold=True)
    drawing.text(
        24,
        52,
        "Médianes ; le trait fin va du plus lent au plus rapide passage. À droite : combien de "
        "fois ce projet va plus vite.",
        size=12.5,
        color="soft",
    )
    for place, column in enumerate(columns):
        y = top
        for _, found in column:
            _panel(drawing, 24 + place * width, y, found)
            y += _panel_height(found)
    drawing.text(24, top + bottom + 20, f"Machine : {machines}", size=11.5, color="soft")
    return drawing.svg()


_BAR, _LABEL, _FULL = 21.0, 140.0, 215.0


def _precisions(rows: Sequence[Row], start: str) -> list[tuple[str, list[Bar]]]:
    """Les questions qui commencent ainsi, chacune avec ses barres."""
    mine = [row for row in rows if str(row["question"]).startswith(start)]
    mine = [row for row in mine if row["unit"] == "tok/s"]
    names = dict.fromkeys(str(row["question"]) for row in mine)
    found = [(name, bars_of([row for row in mine if row["question"] == name])) for name in names]
    return [(name, bars) for name, bars in found if bars]


def _panel_height(found: Sequence[tuple[str, list[Bar]]]) -> float:
    return 34 + sum(8 + _BAR * len(bars) for _, bars in found)


def _panel(drawing: Drawing, x: float, y: float, found: Sequence[tuple[str, list[Bar]]]) -> None:
    """Un cadre : les précisions d'une question, à la même échelle."""
    drawing.text(x, y + 16, found[0][0].rpartition(", ")[0], size=13.5, bold=True)
    ends = [
        max((bar.spread or (0.0, bar.value))[1], bar.value) for _, bars in found for bar in bars
    ]
    scale = _FULL / max(ends)
    y += 26
    for name, bars in found:
        precision = name.rpartition(", ")[2]
        for bar in bars:
            middle = y + _BAR / 2
            label = f"{bar.name}, {precision}" if bar.is_ours else bar.name
            drawing.text(x, middle + 4, label, size=12, bold=bar.is_ours)
            color = "blue" if bar.is_ours else "line"
            start = x + _LABEL
            drawing.box(
                start, y + 3, bar.value * scale, _BAR - 7, fill=color, stroke=color, radius=2
            )
            reach = bar.value
            if bar.spread is not None:
                low, high = bar.spread
                reach = max(high, reach)
                for width, ink in ((4.0, "paper"), (1.5, "ink")):
                    drawing.path(
                        [(start + low * scale, middle - 0.5), (start + high * scale, middle - 0.5)],
                        color=ink,
                        width=width,
                    )
            text = speed(bar.value)
            drawing.text(start + reach * scale + 8, middle + 4, text, size=12, bold=bar.is_ours)
            if bar.ratio is not None:
                ratio = f"{decimal(bar.ratio)} ×"
                drawing.text(
                    x + 480, middle + 4, ratio, size=12, color="blue", anchor="end", bold=True
                )
            y += _BAR
        y += 8


def size_throughput(rows: Sequence[Row]) -> str:
    """Trois cadres : le débit d'entraînement selon la profondeur, la largeur, le contexte."""
    drawing = Drawing(
        1080,
        376,
        title="Débit d'entraînement selon la taille du modèle",
        description=" ; ".join(f"{row['name']} : {speed(row['ours'])} tokens/s" for row in rows),
    )
    drawing.text(24, 32, "Débit d'entraînement selon la taille (tokens/s)", size=17, bold=True)
    spreads = any(_spread(row["ours_range"]) for row in rows)
    told = "Médianes ; le trait va du plus lent au plus rapide passage." if spreads else "Médianes."
    base = f"{BASE['layers']} couches, largeur {BASE['width']}, contexte {BASE['context']}"
    drawing.text(
        24,
        52,
        f"Un réglage varie, les autres restent à {base}. {told}",
        size=12.5,
        color="soft",
    )
    for place, (axis, label) in enumerate(AXES.items()):
        line = sorted(
            (
                row
                for row in rows
                if all(row[key] == value for key, value in BASE.items() if key != axis)
            ),
            key=lambda row: float(row[axis]),
        )
        series = [(float(row[axis]), row["ours"], _spread(row["ours_range"])) for row in line]
        _plot(drawing, 70 + 345 * place, 84, 270, 210, [("", "blue", False, series)], label)
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    drawing.text(24, 362, f"Machine : {machines}", size=11.5, color="soft")
    return drawing.svg()


def context_cost(rows: Sequence[Row]) -> str:
    """Les millisecondes d'un token selon ce qui le précède, une courbe par moteur."""
    curves: dict[str, list[tuple[float, float, tuple[float, float] | None]]] = {}
    for row in rows:
        context = float(str(row["question"]).split()[3])
        sides = [(row["candidate"], row["ours"], row["ours_range"])]
        if row["against"] is not None:
            sides.append((row["against"], row["peer"], row["peer_range"]))
        for name, value, spread in sides:
            points = curves.setdefault(str(name), [])
            if context not in [x for x, *_ in points]:
                points.append((context, float(value), _spread(spread)))
    colors = ("blue", "green", "orange")
    drawing = Drawing(
        1080,
        436,
        title="Durée d'un token selon la longueur du contexte",
        description=" ; ".join(
            f"{name} : " + ", ".join(f"{decimal(y, 1)} ms à {x:.0f} tokens" for x, y, _ in points)
            for name, points in curves.items()
        ),
    )
    drawing.text(24, 32, "Durée d'un token selon le contexte (millisecondes)", size=17, bold=True)
    drawing.text(
        24,
        52,
        "Trait plein : ce projet ; tirets : l'autre moteur, à la même précision. Le plus bas est "
        "le meilleur.",
        size=12.5,
        color="soft",
    )
    ours = [name for name in curves if name.startswith("ce projet")]
    others = [name for name in curves if name not in ours]
    series = [
        (name, color, dashed, curves[name])
        for group, dashed in ((ours, False), (others, True))
        for name, color in zip(group, colors, strict=False)
    ]
    _plot(drawing, 70, 84, 760, 270, series, "tokens de contexte")
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    drawing.text(24, 422, f"Machine : {machines}", size=11.5, color="soft")
    return drawing.svg()


Series = tuple[str, str, bool, Sequence[tuple[float, float, tuple[float, float] | None]]]


def _plot(
    drawing: Drawing,
    left: float,
    top: float,
    width: float,
    height: float,
    series: Sequence[Series],
    label: str,
) -> None:
    """Des courbes aux abscisses également espacées, l'axe vertical partant de zéro."""
    values = sorted({x for *_, points in series for x, _, _ in points})
    most = max((spread or (y, y))[1] for *_, points in series for _, y, spread in points)
    step = _round_step(most)
    highest = step * -(-most // step)
    bottom = top + height

    def across(x: float) -> float:
        return left + 20 + (width - 40) * values.index(x) / max(1, len(values) - 1)

    def up(y: float) -> float:
        return bottom - height * y / highest

    for rank in range(round(highest / step) + 1):
        y = up(rank * step)
        drawing.path([(left, y), (left + width, y)], color="rule", width=1)
        name = thousands(round(rank * step))
        drawing.text(left - 8, y + 4, name, size=11.5, color="soft", anchor="end")
    for x in values:
        drawing.text(
            across(x), bottom + 18, thousands(round(x)), size=11.5, color="soft", anchor="middle"
        )
    drawing.text(left + width / 2, bottom + 38, label, size=12.5, anchor="middle")
    ends = sorted((up(points[-1][1]), name, color) for name, color, _, points in series)
    floor = top
    for _, color, dashed, points in series:
        drawing.path(
            [(across(x), up(y)) for x, y, _ in points], color=color, width=2, dashed=dashed
        )
        for x, y, spread in points:
            if spread is not None and spread[0] < spread[1]:
                drawing.path([(across(x), up(end)) for end in spread], color=color, width=1.5)
            drawing.circle(across(x), up(y), 3.5, fill=color, stroke=color)
    for y, name, color in ends:
        floor = max(y, floor)
        drawing.text(left + width + 10, floor + 4, name, size=12, color=color, bold=True)
        floor += 17


def _round_step(most: float) -> float:
    """Un pas rond (1, 2 ou 5 · 10ⁿ) qui donne de quatre à huit graduations."""
    power = 1.0
    while most / power > 8:
        power *= 10
    while most / power < 0.8:
        power /= 10
    found = [power * unit for unit in (0.1, 0.2, 0.5, 1, 2) if most / (power * unit) <= 8]
    return found[0]


def _spread(found: Sequence[float] | None) -> tuple[float, float] | None:
    return None if found is None else (found[0], found[1])
