"""Le journal d'un entraînement : un objet JSON par ligne, ajouté entier ou pas du tout, relu."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"


def read_records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Les lignes d'un journal, celles qui sont entières (voir `record_of`)."""
    return (record for line in lines if (record := record_of(line)) is not None)


def record_of(line: bytes) -> dict[str, Any] | None:
    """Une ligne, qui a un texte pour `kind` ; None si elle est abîmée.

    Un entraînement écrit peut-être en ce moment : la dernière ligne peut être incomplète.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None


def finite_number(value: object) -> float | None:
    """Un nombre fini, ou None : le journal écrit NaN et l'infini en toutes lettres."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # un entier de centaines de chiffres
        return None


def append_record(path: Path | str, kind: str, **values: Any) -> None:
    """Ajoute une ligne au journal d'un entraînement, fini ou en cours.

    Args:
        path: le fichier ; il doit exister.
        kind: nature de la ligne.
        values: types simples ; `step` la garde à la reprise d'un point qui n'est pas antérieur.

    Raises:
        OSError: le journal manque, ou le disque refuse.
    """
    path = Path(path)
    if not path.is_file():  # « ab » le créerait
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("ab", buffering=0) as file:
        append_whole(file, line_of(kind, values))


def line_of(kind: str, values: Mapping[str, Any]) -> bytes:
    """Une ligne du journal ; JSON n'a ni NaN ni infini, qui deviennent des textes."""
    line = json.dumps({"kind": kind, **_finite(values)}, ensure_ascii=False, allow_nan=False)
    return f"{line}\n".encode()


def append_whole(file: FileIO, content: bytes) -> None:
    """Ajoute tout `content`, ou rien : le fichier n'a que des lignes entières.

    Raises:
        OSError: le disque refuse.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _written(value) for name, value in values.items()}


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _finite(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
