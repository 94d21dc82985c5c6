"""Des modèles trouvés : une ligne chacun, comme les fichiers d'un dossier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.french import decimal, french_number, french_size, plural
from gpt_architecture.reports.inspection import cleaned

if TYPE_CHECKING:
    from gpt_architecture.formats.listing import ListedModel
    from gpt_architecture.reports.terminal import TableData

_HEADINGS = ("paramètres", "taille", "perte", "écrit le", "modèle")
_ABSENT = "—"


def listing_lines(found: Sequence[ListedModel]) -> list[str]:
    """Un en-tête, puis une ligne par modèle : des nombres alignés, son nom, ce qu'il est."""
    rows = [_HEADINGS, *(_row(each) for each in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS) - 1)]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def listing_table(found: Sequence[ListedModel]) -> TableData:
    """Les mêmes, le nom d'abord."""
    rows = [[row[-1], *row[:-1]] for row in map(_row, found)]
    return "Modèles", [_HEADINGS[-1], *_HEADINGS[:-1]], rows


def _row(model: ListedModel) -> tuple[str, ...]:
    facts = [model.problem or model.form]
    if model.base is not None:
        facts.append(f"affiné de {_near(model.base)}")
    if model.certificate:
        facts.append("certificat")
    if model.is_best:
        facts.append("le meilleur")
    if model.checkpoints:
        count = len(model.checkpoints)
        facts.append(f"+ {french_number(count)} {plural(count, 'point')} de reprise")
    size = _ABSENT if model.parameters is None else french_number(model.parameters)
    return (
        size,
        french_size(model.bytes),
        _ABSENT if model.loss is None else decimal(model.loss, 3),
        f"{model.modified.astimezone():%Y-%m-%d %H:%M}",
        f"{cleaned(model.name)} : {cleaned(', '.join(facts))}",
    )


def _near(name: str) -> str:
    """Un chemin, depuis ici s'il y est."""
    path, here = Path(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name
