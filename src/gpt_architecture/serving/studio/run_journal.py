"""Le journal d'un dossier d'entraînement, lu pour être montré : borné, et tolérant.

Un entraînement y écrit peut-être en ce moment : une ligne incomplète ou abîmée est passée.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_architecture.formats.journal import JOURNAL, finite_number, read_records
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.storage import open_regular

MAX_BYTES = 16 << 20
MAX_POINTS = 2_000
_SAMPLES = 30
_SAMPLE_LENGTH = 2_000


def read_run(folder: Path | str, version: str = "") -> dict[str, Any]:
    """Où en est un entraînement : courbes, évaluations, exemples.

    Args:
        folder: son dossier.
        version: celle que le client a déjà ; si rien n'a changé, elle est rendue, avec la fin et
            les secondes écoulées depuis la dernière ligne (`silent`).

    Raises:
        ApiError: 404, pas de journal lisible.
    """
    folder = Path(folder)
    try:
        with open_regular(folder / JOURNAL) as file:
            status = os.fstat(file.fileno())
            found = f"{status.st_mtime_ns}-{status.st_size}"
            silent = max(0.0, time.time() - status.st_mtime)
            known, _, was_finished = version.rpartition("-")
            if found == known:
                return {"version": version, "finished": was_finished == "1", "silent": silent}
            skipped = max(0, status.st_size - MAX_BYTES)
            file.seek(skipped)
            lines = file.read(MAX_BYTES).split(b"\n")[bool(skipped) :]
    except OSError:
        raise ApiError(
            404,
            f"le dossier d'entraînement n'a pas encore de {JOURNAL} lisible",
            code="not_found",
        ) from None
    summary = _summary(list(read_records(lines)))
    return {"version": f"{found}-{summary['finished']:d}", **summary, "silent": silent}


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    named = {name: [each for each in records if each["kind"] == name] for name in _KINDS}
    told = [each["kind"] for each in records if each["kind"] in _TOLD]
    starts = [finite_number(each.get("total_steps")) for each in named["start"]]
    return {
        "total_steps": int(starts[-1] or 0) if starts else 0,
        "finished": told[-1:] == ["end"],  # d'autres commandes ajoutent leurs lignes après
        "steps": _thinned(_rows(named["step"], "step", "loss", "lr", "tokens_per_second")),
        "evaluations": _rows(named["evaluation"], "step", "train_loss", "val_loss")[-MAX_POINTS:],
        "samples": [
            [step, str(each.get("text", ""))[:_SAMPLE_LENGTH]]
            for each in named["sample"][-_SAMPLES:]
            if (step := finite_number(each.get("step"))) is not None
        ],
    }


_KINDS = ("start", "step", "evaluation", "sample")
_TOLD = (*_KINDS, "checkpoint", "event", "end")
"""Ce que l'entraînement lui-même écrit : sa dernière ligne dit s'il a fini."""


def _rows(records: Iterable[dict[str, Any]], *names: str) -> list[list[float | None]]:
    """Les nombres de chaque ligne ; celles qui n'ont pas d'étape sont passées."""
    rows = [[finite_number(each.get(name)) for name in names] for each in records]
    return [row for row in rows if row[0] is not None]


def _thinned(rows: list[list[float | None]]) -> list[list[float | None]]:
    """Au plus MAX_POINTS lignes : chacune porte la perte moyenne de celles qu'elle remplace."""
    stride = math.ceil(len(rows) / MAX_POINTS)
    if stride <= 1:
        return rows
    thin = []
    for start in range(0, len(rows), stride):
        group = rows[start : start + stride]
        losses = [row[1] for row in group if row[1] is not None]
        step, _, *others = group[-1]
        thin.append([step, sum(losses) / len(losses) if losses else None, *others])
    return thin
