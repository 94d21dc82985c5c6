"""Les courbes de perte d'un entraînement, relues de son journal ou de son modèle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_architecture.errors import DataError
from gpt_architecture.formats.journal import finite_number, read_records
from gpt_architecture.storage import open_regular

MAX_BYTES = 256 << 20
"""Taille d'un journal, au plus."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Pertes en nats par token ; les abscisses sont des tokens vus.

    Attributes:
        steps: perte de chaque lot, pendant l'entraînement.
        train: perte mesurée sur la part d'entraînement.
        validation: perte mesurée sur la part de validation.
    """

    steps: Points = field(default=())
    train: Points = field(default=())
    validation: Points = field(default=())

    @property
    def is_empty(self) -> bool:
        """Vrai s'il n'y a rien à tracer."""
        return not (self.steps or self.train or self.validation)

    @property
    def best(self) -> tuple[float, float] | None:
        """(tokens vus, perte) à la plus basse perte de validation ; None : aucune mesure."""
        return min(self.validation, key=lambda point: point[1], default=None)


def curves_from_journal(path: Path | str) -> LossCurves:
    """Relit un `journal.jsonl` ; une ligne abîmée ou d'un autre genre est ignorée.

    Raises:
        DataError: fichier illisible ou démesuré.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path} fait {path.stat().st_size >> 20} Mio",
                expected=f"au plus {MAX_BYTES >> 20} Mio",
                remedy="donnez le journal d'un entraînement",
            )
        with open_regular(path) as lines:
            records = list(read_records(lines))
    except OSError as error:
        raise DataError.unreadable(
            path,
            error,
            expected="le journal d'un entraînement",
            remedy="vérifiez son nom et ses droits",
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
    return LossCurves(
        train=_finite(list(zip(seen, _numbers(metadata.get("train_losses")), strict=False))),
        validation=_finite(list(zip(seen, _numbers(metadata.get("val_losses")), strict=False))),
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


def _finite(points: Sequence[tuple[float | None, float | None]]) -> Points:
    """Une perte devenue NaN ou infinie n'est pas tracée."""
    return tuple((float(x), float(y)) for x, y in points if x is not None and y is not None)
