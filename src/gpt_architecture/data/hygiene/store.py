"""Les fichiers de travail de l'hygiène : un par tâche et par passe, chacun écrit en entier ou pas.

Le dossier tient dans celui de la préparation en cours et disparaît avec lui. La présence du dernier
fichier d'une tâche dit qu'elle est faite : une relance ne refait que ce qui manque.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt_architecture.errors import DataError
from gpt_architecture.storage import json_bytes, read_json, system_error, write_atomically

_MAX_JSON_BYTES = 256 << 20

Arrays = dict[str, NDArray[np.generic]]


class Store:
    """Le dossier de travail.

    Args:
        folder: le dossier, créé à la première écriture.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def _file(self, prefix: str, task: int, suffix: str) -> Path:
        return self.folder / f"{prefix}_{task:06d}.{suffix}"

    def texts(self, task: int) -> Path:
        """Documents gardés par la première passe."""
        return self._file("textes", task, "safetensors")

    def prints(self, task: int) -> Path:
        """Leurs empreintes ; écrit en dernier par la première passe."""
        return self._file("lu", task, "safetensors")

    def first_report(self, task: int) -> Path:
        """Ce que la première passe a retiré."""
        return self._file("lu", task, "json")

    def pruned(self, task: int, split: str) -> Path:
        """Documents d'une part, nettoyés."""
        return self._file(split, task, "jsonl")

    def second_report(self, task: int) -> Path:
        """Ce que la seconde passe a retiré ; écrit en dernier."""
        return self._file("net", task, "json")

    @property
    def census(self) -> Path:
        """Le nombre de tâches ; sa présence dit que la première passe est finie."""
        return self.folder / "taches.json"

    def count(self) -> int:
        """Le nombre de tâches, lu dans `census`.

        Raises:
            DataError: il est absent ou abîmé.
        """
        tasks = read_object(self.census).get("tasks")
        if type(tasks) is not int or tasks < 0:
            raise damaged(self.census)
        return tasks

    @property
    def decisions(self) -> Path:
        """Les décisions d'ensemble."""
        return self.folder / "decisions.safetensors"

    @property
    def references(self) -> Path:
        """Les suites de mots des textes d'évaluation."""
        return self.folder / "evaluation.safetensors"


class JoinedStore(Store):
    """Plusieurs dossiers vus comme un : leurs tâches à la suite, les décisions à part.

    Args:
        folder: le dossier des décisions.
        parts: (dossier, nombre de tâches) de chacun, dans l'ordre.
    """

    def __init__(self, folder: Path | str, parts: Sequence[tuple[Path | str, int]]) -> None:
        super().__init__(folder)
        self._parts = [Store(path) for path, _ in parts]
        self.first = list(accumulate((count for _, count in parts), initial=0))
        """Numéro de la première tâche de chaque dossier, puis leur nombre."""

    def _file(self, prefix: str, task: int, suffix: str) -> Path:
        part = bisect_right(self.first, task) - 1
        return self._parts[part]._file(prefix, task - self.first[part], suffix)


def write_lines(path: Path | str, rows: Iterable[Any]) -> None:
    """Un objet JSON par ligne, en UTF-8.

    Raises:
        OutputError: le système refuse.
    """
    data = b"".join(json_bytes(row) + b"\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_texts(path: Path | str, texts: Iterable[str]) -> None:
    """Des textes, que `read_texts` relit tous et `read_text` un à un.

    Raises:
        OutputError: le système refuse.
    """
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
    write_arrays(path, {"text": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends})


def read_texts(path: Path | str) -> list[str]:
    """Les textes que `write_texts` a écrits.

    Raises:
        DataError: fichier absent ou abîmé.
    """
    text, ends = read_arrays(path, "text", "ends")
    data, bounds = text.tobytes(), [0, *ends.tolist()]
    try:
        return [data[low:high].decode("utf-8") for low, high in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None


def read_text(path: Path | str, number: int) -> str:
    """L'un d'eux, sans lire les autres.

    Raises:
        DataError: fichier absent ou abîmé.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            ends = file.get_tensor("ends")
            low, high = int(ends[number - 1]) if number else 0, int(ends[number])
            return bytes(file.get_slice("text")[low:high]).decode("utf-8")
    except (OSError, SafetensorError, IndexError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def write_object(path: Path | str, value: Mapping[str, Any]) -> None:
    """Un objet JSON."""
    data = json_bytes(value)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def read_object(path: Path | str) -> dict[str, Any]:
    """L'objet que `write_object` a écrit.

    Raises:
        DataError: fichier absent ou abîmé.
    """
    try:
        return dict(read_json(Path(path), _MAX_JSON_BYTES))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from None


def write_arrays(path: Path | str, arrays: Arrays) -> None:
    """Des tableaux, en safetensors.

    Raises:
        OutputError: le système refuse.
    """
    whole = {name: np.ascontiguousarray(each) for name, each in arrays.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(whole, temporary)
        except SafetensorError as error:
            raise system_error(error, temporary) from error

    write_atomically(path, write)


def read_arrays(path: Path | str, *names: str) -> list[Any]:
    """Les tableaux de ces noms, dans cet ordre.

    Raises:
        DataError: fichier absent ou abîmé.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None


def read_row(path: Path | str, name: str, row: int) -> Any:
    """Une ligne d'un tableau, sans lire les autres.

    Raises:
        DataError: fichier absent ou abîmé.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_slice(name)[row]
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None


def damaged(path: Path | str, error: BaseException | None = None) -> DataError:
    """Le refus d'un fichier de travail : `force` reprend ce qui est fait, il faut donc l'effacer.

    Args:
        path: le fichier.
        error: ce qui l'a empêché de se lire ; None : il n'a pas la forme attendue.
    """
    known = isinstance(error, OSError) and error.errno
    ours = isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError)
    said: BaseException | str = "tronqué ou abîmé"  # safetensors et Python le diraient en anglais
    if isinstance(error, FileNotFoundError):
        said = "fichier absent"
    elif error is not None and (known or ours):
        said = error
    return DataError.unreadable(
        path,
        said,
        expected="un fichier de travail de cette préparation",
        remedy=f"effacez le dossier {Path(path).parent}, puis relancez ce qui l'a écrit",
    )
