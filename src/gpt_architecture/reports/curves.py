"""Les courbes de perte : relues du journal de l'entraînement ou du modèle, et tracées."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt_architecture.errors import DataError
from gpt_architecture.formats.journal import JOURNAL, finite_number, read_records
from gpt_architecture.french import short, thousands
from gpt_architecture.reports.charts import Chart, Line, line_chart, one_decimal
from gpt_architecture.storage import open_regular
from gpt_architecture.training.baselines import Baselines

MAX_JOURNAL_BYTES = 256 << 20
"""Taille d'un journal, au plus."""

_MAX_POINTS = 300

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Pertes en nats par token ; les abscisses sont des tokens vus.

    Attributes:
        steps: perte de chaque lot, pendant l'entraînement.
        train: perte mesurée sur la part d'entraînement.
        validation: perte mesurée sur la part de validation.
        levels: nom et perte de chaque repère.
    """

    steps: Points = ()
    train: Points = ()
    validation: Points = ()
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Vrai s'il n'y a rien à tracer."""
        return not (self.steps or self.train or self.validation)

    @property
    def best(self) -> tuple[float, float] | None:
        """(tokens vus, perte) à la plus basse perte de validation ; None : aucune mesure."""
        return min(self.validation, key=lambda point: point[1], default=None)


def curves_of(path: Path | str, metadata: Mapping[str, Any]) -> LossCurves:
    """Les pertes du journal voisin du modèle, sinon celles que son fichier garde."""
    journal = Path(path).resolve().parent / JOURNAL
    curves = curves_from_metadata(metadata)
    if not journal.is_file():
        return curves
    found = curves_from_journal(journal)
    # Un journal d'un autre entraînement, resté là, ne raconte pas ce modèle.
    is_own = curves.is_empty or found.validation[-1:] == curves.validation[-1:]
    return replace(found, levels=curves.levels) if is_own and not found.is_empty else curves


def curves_from_journal(path: Path | str) -> LossCurves:
    """Relit un `journal.jsonl` ; une ligne abîmée ou d'un autre genre est ignorée.

    Raises:
        DataError: fichier illisible ou démesuré.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JOURNAL_BYTES:
            raise DataError(
                f"{path} fait {path.stat().st_size >> 20} Mio",
                expected=f"au plus {MAX_JOURNAL_BYTES >> 20} Mio",
                remedy="donnez le journal d'un entraînement",
            )
        with open_regular(path) as lines:
            records = list(read_records(lines))
    except OSError as error:
        remedy = "vérifiez son nom et ses droits"
        raise DataError.unreadable(
            path, error, expected="le journal d'un entraînement", remedy=remedy
        ) from None
    steps, train, validation, seen = [], [], [], 0.0
    for record in records:
        kind = record["kind"]
        if kind == "step":
            seen += finite_number(record.get("tokens")) or 0.0
            steps.append((seen, finite_number(record.get("loss"))))
        elif kind == "evaluation":
            seen = finite_number(record.get("tokens_seen")) or seen
            train.append((seen, finite_number(record.get("train_loss"))))
            validation.append((seen, finite_number(record.get("val_loss"))))
    return LossCurves(steps=_finite(steps), train=_finite(train), validation=_finite(validation))


def curves_from_metadata(metadata: Mapping[str, Any]) -> LossCurves:
    """Les pertes qu'un fichier de modèle garde de ses évaluations."""
    seen = _numbers(metadata.get("tokens_seen"))
    baselines = Baselines.from_dict(metadata.get("baselines"))
    return LossCurves(
        levels={} if baselines is None else baselines.levels,
        train=_finite(zip(seen, _numbers(metadata.get("train_losses")), strict=False)),
        validation=_finite(zip(seen, _numbers(metadata.get("val_losses")), strict=False)),
    )


def thinned(points: Points, most: int) -> Points:
    """Au plus `most` points : chacun est la moyenne d'une tranche égale."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple(
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    )


def _numbers(values: object) -> list[float | None]:
    return [finite_number(value) for value in values] if isinstance(values, (list, tuple)) else []


def _finite(points: Iterable[tuple[float | None, float | None]]) -> Points:
    """Une perte devenue NaN ou infinie n'est pas tracée."""
    return tuple((float(x), float(y)) for x, y in points if x is not None and y is not None)


def loss_chart(curves: LossCurves, width: float, height: float) -> Chart:
    """Les pertes contre les tokens vus.

    Args:
        curves: au moins un point en tout.
        width: largeur de la figure.
        height: hauteur de la figure.
    """
    lines = [
        Line(label="lot", series=7, points=thinned(curves.steps, _MAX_POINTS), style="faint"),
        Line(label="entraînement", series=0, points=thinned(curves.train, _MAX_POINTS)),
        Line(label="validation", series=1, points=thinned(curves.validation, _MAX_POINTS)),
    ]
    last = max(x for line in lines for x, _ in line.points)
    lines += [
        Line(label=name, series=2 + number, points=((0.0, level), (last, level)), style="level")
        for number, (name, level) in enumerate(curves.levels.items())
    ]
    return line_chart(
        [line for line in lines if line.points],
        width=width,
        height=height,
        x_label=_tokens_tick,
        y_label=short,
    )


def _tokens_tick(value: float) -> str:
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{one_decimal(value / power)}\u00a0{unit}"
    return thousands(round(value))
