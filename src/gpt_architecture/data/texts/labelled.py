"""Des textes étiquetés : CSV, TSV, JSON, JSONL ou Parquet, une rangée par exemple.

Une rangée fautive arrête la lecture et est désignée : un exemple perdu en silence fausserait ce
qu'on apprend, et ce qu'on mesure.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gpt_architecture.config import HeadConfig
from gpt_architecture.config.labels import MAX_LABEL, MAX_LABELS
from gpt_architecture.data.texts.readers.base import pick_field
from gpt_architecture.data.texts.readers.tables import separator_of
from gpt_architecture.errors import (
    DataError,
    MissingDependencyError,
    nearest,
    on_one_line,
    reason,
    shown,
)
from gpt_architecture.french import counted, french_number
from gpt_architecture.storage import decode_text, foreign_format, open_regular, read_at_most

MAX_BYTES = 1 << 30
MAX_ROWS = 10_000_000
LABEL_FIELDS = (
    *("label", "labels", "étiquette", "etiquette", "classe", "class", "category", "catégorie"),
    *("categorie", "cible", "target", "note", "score"),
)
"""Noms de colonnes qui portent à l'évidence l'étiquette."""

KNOWN = ("messages-fr", "messages-fr-test")
"""Les jeux que le projet porte : des messages de clients imaginaires, écrits pour lui (CC0)."""

_ROWS = 64  # rangées de Parquet dépliées ensemble
_EXPECTED = "une rangée par exemple, son texte et son étiquette"
_SHOWN = 12
_LARGEST = 1e30  # d'une valeur : leurs carrés et leurs sommes restent des nombres
Row = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """Un texte et son étiquette.

    Attributes:
        place: sa rangée ou sa ligne dans le fichier, à partir de 1, en-tête compris.
        text: le texte, non vide.
        label: sa classe, telle qu'écrite ; ou sa valeur.
    """

    place: int
    text: str
    label: str | float


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Les exemples d'un fichier.

    Attributes:
        name: son nom court.
        sha256: son empreinte.
        rows: les exemples, dans l'ordre, un au moins.
        text_field: colonne du texte.
        label_field: colonne de l'étiquette.
    """

    name: str
    sha256: str
    rows: Sequence[Example]
    text_field: str
    label_field: str


def read_examples(
    path: Path | str,
    *,
    label: str | None = None,
    text: str | None = None,
    regress: bool = False,
) -> Examples:
    """Lit un fichier de textes étiquetés.

    Args:
        path: le fichier, ou un des jeux `KNOWN` ; son extension dit sa forme, et l'en-tête d'un CSV
            son séparateur.
        label: colonne de l'étiquette ; None : celle dont le nom est évident.
        text: colonne du texte ; None : celle dont le nom est évident, ou la seule autre.
        regress: l'étiquette est un nombre.

    Raises:
        DataError: fichier illisible, colonne absente (celles trouvées sont dites), rangée mal
            formée, texte ou étiquette vide, étiquette qui n'est pas un nombre ; la rangée est dite.
        MissingDependencyError: pyarrow manque, pour du Parquet.
    """
    path = Path(path)
    try:
        with open_regular(_place(path)) as file:
            data = read_at_most(file, MAX_BYTES)
    except OSError as error:
        raise DataError.unreadable(path, error, expected=_EXPECTED) from None
    if len(data) > MAX_BYTES:
        raise _bad(path, f"dépasse {french_number(MAX_BYTES)} octets", remedy="coupez-le")
    found = list[Example]()
    text_field = label_field = ""
    for number, row in _reader(path, data)(path, data):
        if not found:
            label_field = _label_field(path, label, list(row))
            text_field = _text_field(path, text, label_field, list(row))
        found.append(_example(path, number, row, text_field, label_field, regress=regress))
        if len(found) > MAX_ROWS:
            raise _bad(path, f"dépasse {french_number(MAX_ROWS)} exemples", remedy="coupez-le")
    if not found:
        raise _bad(path, "n'a aucun exemple", remedy="donnez un fichier qui en a")
    return Examples(
        name=path.stem,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=found,
        text_field=text_field,
        label_field=label_field,
    )


def _place(path: Path) -> Path:
    """Le fichier d'un jeu du projet, nommé sans extension ; tout autre chemin, tel quel."""
    if str(path) not in KNOWN or path.exists():
        return path
    return Path(str(resources.files("gpt_architecture.data").joinpath(f"assets/{path}.csv")))


def check_labels(examples: Examples, head: HeadConfig, path: Path | str) -> None:
    """Refuse une étiquette que le modèle ne connaît pas.

    Raises:
        DataError: elle est nommée, avec sa rangée.
    """
    known = set(head.labels)
    for each in () if head.is_regression else examples.rows:
        if each.label not in known:
            raise _bad(
                path,
                f"a, rangée {each.place}, l'étiquette {shown(each.label)}, inconnue du modèle",
                expected=f"l'une de ses {len(head.labels)} classes ({_several(head.labels)})",
                remedy=nearest(str(each.label), head.labels) or "corrigez-la, ou ôtez cette rangée",
            )


def ordered_labels(examples: Examples, path: Path | str) -> tuple[str, ...]:
    """Les classes d'un fichier : par ordre de nombre si toutes en sont, sinon d'alphabet.

    Raises:
        DataError: une seule classe, ou trop.
    """
    names = sorted({str(each.label) for each in examples.rows})
    if len(names) < 2:
        raise _bad(
            path,
            f"n'a qu'une classe, {shown(names[0])}, dans la colonne {examples.label_field}",
            expected="deux classes au moins",
            remedy="choisissez une autre colonne (`label`), ou ajoutez des exemples d'une autre",
        )
    if len(names) > MAX_LABELS:
        raise _bad(
            path,
            f"a {french_number(len(names))} classes dans la colonne {examples.label_field}",
            expected=f"{french_number(MAX_LABELS)} classes au plus",
            remedy="choisissez une autre colonne (`label`), ou apprenez une valeur (`regress`)",
        )
    if all(each.removeprefix("-").isdecimal() for each in names):
        names.sort(key=int)
    return tuple(names)


def _example(
    path: Path,
    number: int,
    row: Mapping[str, Any],
    text_field: str,
    label_field: str,
    *,
    regress: bool,
) -> Example:
    for name in (text_field, label_field):
        value = row.get(name)
        if value is None or not str(value).strip():
            what = "texte vide" if name == text_field else "étiquette vide"
            raise _bad(
                path, f"a un {what}, rangée {number}, colonne {name}".replace("un é", "une é")
            )
    text, label = row[text_field], row[label_field]
    if not isinstance(text, str) or _is_broken(text):
        raise _bad(path, f"a, rangée {number}, {shown(text)} pour texte (colonne {text_field})")
    if isinstance(label, bool) and not regress:
        label = "true" if label else "false"
    if not isinstance(label, (str, int, float)) or (isinstance(label, str) and _is_broken(label)):
        raise _bad(
            path, f"a, rangée {number}, {shown(label)} pour étiquette (colonne {label_field})"
        )
    if not regress:
        name = str(label).strip()
        if on_one_line(name) != name:
            raise _bad(
                path,
                f"a, rangée {number}, l'étiquette {shown(name)} (colonne {label_field})",
                expected="un nom sur une ligne, sans caractère de commande",
            )
        if len(name) > MAX_LABEL:
            raise _bad(
                path,
                f"a, rangée {number}, une étiquette de {french_number(len(name))} caractères "
                f"(colonne {label_field})",
                expected=f"{MAX_LABEL} caractères au plus",
                remedy="choisissez une autre colonne (`label`), ou abrégez-la",
            )
        return Example(place=number, text=text, label=name)
    try:
        value = float(str(label).strip().replace(",", "."))
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise _bad(
            path,
            f"a, rangée {number}, l'étiquette {shown(label)} (colonne {label_field})",
            expected=f"un nombre, de {_LARGEST:g} au plus, pour apprendre une valeur",
            remedy="corrigez-la, ou retirez `regress` pour apprendre une classe",
        )
    return Example(place=number, text=text, label=value)


def _is_broken(text: str) -> bool:
    """Vrai s'il porte une moitié de caractère, que rien ne sait écrire."""
    return text != text.encode("utf-8", "replace").decode()


def _label_field(path: Path, asked: str | None, names: list[str]) -> str:
    if asked is not None:
        return _known(path, asked, names, "`label`")
    known = [each for each in names if each.strip().lower() in LABEL_FIELDS]
    if len(known) == 1:
        return known[0]
    raise _bad(
        path,
        f"ne dit pas quelle colonne est l'étiquette, parmi {_several(names)}",
        expected="une colonne nommée (`label`)",
        remedy="ajoutez `label`",
    )


def _text_field(path: Path, asked: str | None, label: str, names: list[str]) -> str:
    if asked is not None:
        return _known(path, asked, names, "`field`")
    others = [each for each in names if each != label]
    found = pick_field(others) or (others[0] if len(others) == 1 else None)
    if found is not None:
        return found
    raise _bad(
        path,
        f"ne dit pas quelle colonne est le texte, parmi {_several(others) or 'aucune'}",
        expected="une colonne nommée (`field`)",
        remedy="ajoutez `field`",
    )


def _known(path: Path, asked: str, names: list[str], setting: str) -> str:
    if asked in names:
        return asked
    raise _bad(
        path,
        f"n'a pas de colonne {shown(asked)}",
        expected=f"l'une de ses colonnes : {_several(names)}",
        remedy=nearest(asked, names) or f"corrigez {setting}",
    )


def _reader(path: Path, data: bytes) -> Callable[[Path, bytes], Iterator[Row]]:
    if data.startswith(b"PAR1") or path.suffix.lower() == ".parquet":
        return _parquet
    if (found := foreign_format(data)) is not None:
        raise DataError(
            f"{path} est {found[0]}", expected="du CSV, du JSONL ou du Parquet", remedy=found[1]
        )
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return _json
    return _table


def _table(path: Path, data: bytes) -> Iterator[Row]:
    text = decode_text(data, origin=str(path))
    header = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else separator_of(header)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [each.strip() for each in next(rows, [])]
        _check_names(path, names)
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) != len(names):
                raise _bad(
                    path,
                    f"a, rangée {number}, {counted(len(row), 'case')} pour "
                    f"{counted(len(names), 'colonne')}",
                    remedy="mettez entre guillemets toute case qui contient le séparateur",
                )
            yield number, dict(zip(names, row, strict=True))
    except csv.Error as error:
        said = "un guillemet n'est jamais fermé" if "unexpected end" in str(error) else "guillemets"
        raise _bad(path, f"est mal formé vers la ligne {rows.line_num} ({said})") from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    seen = set[str]()
    for each in names:
        if each in seen:
            raise _bad(path, f"a deux colonnes {shown(each)}", remedy="renommez l'une d'elles")
        seen.add(each)


def _json(path: Path, data: bytes) -> Iterator[Row]:
    text = decode_text(data, origin=str(path))
    if text.lstrip().startswith("["):
        values: Any = _parsed(path, text, "")
        yield from ((number, _object(path, number, each)) for number, each in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(path, number, _parsed(path, line, f", ligne {number}"))


def _parsed(path: Path, text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f", ligne {error.lineno}"
        raise _bad(path, f"n'est pas du JSON{place}, colonne {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"n'est pas du JSON lisible{where} ({reason(error)})") from None


def _object(path: Path, number: int, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(path, f"a, rangée {number}, {shown(value)} au lieu d'un objet")
    return value


def _parquet(path: Path, data: bytes) -> Iterator[Row]:
    try:
        import pyarrow as pa  # noqa: PLC0415 — facultatif
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError("pyarrow", purpose="lire .parquet", extra="parquet") from None
    try:
        with pq.ParquetFile(io.BytesIO(data)) as table:
            names = [str(each) for each in table.schema_arrow.names]
            _check_names(path, names)
            number = size = 0
            for batch in table.iter_batches(batch_size=_ROWS):
                size += batch.nbytes  # dépliées, les répétitions qu'un petit fichier code
                if size > MAX_BYTES:
                    told = f"dépasse {french_number(MAX_BYTES)} octets, une fois déplié"
                    raise _bad(path, told, remedy="coupez-le")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except DataError:
        raise
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _bad(
            path, f"est illisible : {reason(error)}", expected="un fichier Parquet"
        ) from None


def _several(names: Sequence[str]) -> str:
    said = ", ".join(str(each)[:40] for each in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{said} et {more} autres" if more > 0 else said


def _bad(
    path: Path | str, found: str, *, expected: str = _EXPECTED, remedy: str = "corrigez ce fichier"
) -> DataError:
    return DataError(f"{path} {found}", expected=expected, remedy=remedy)
