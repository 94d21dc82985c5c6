"""Le disque : n'ouvrir que ce qui est un fichier, n'en croire que ce qui tient dans des bornes.

Un tube, une prise ou un périphérique donné à la place d'un fichier ferait attendre sans fin, ou
lire sans fin : il est refusé avant d'être ouvert.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

_KINDS = (
    (stat.S_ISDIR, "c'est un dossier"),
    (stat.S_ISFIFO, "c'est un tube"),
    (stat.S_ISSOCK, "c'est une prise"),
    (stat.S_ISCHR, "c'est un périphérique"),
    (stat.S_ISBLK, "c'est un périphérique"),
)

MAX_DEPTH = 64
"""Imbrications au plus d'une description lue : au-delà, la réécrire déborderait la pile."""

_MAX_VALUES = 1 << 23  # un vocabulaire de 256 000 tokens et ses fusions en ont un million

_PLAIN = frozenset({str, int, float, bool, type(None)})
_TOO_DEEP = f"plus de {MAX_DEPTH} imbrications"

_BINARY = getattr(os, "O_BINARY", 0)  # Windows changerait les fins de ligne


class NotAFileError(OSError):
    """Ce chemin existe, mais ne mène pas à un fichier ordinaire ; `errors.reason` dit à quoi."""


def check_regular(path: Path | str) -> None:
    """Vérifie qu'un chemin mène à un fichier ordinaire, pour une bibliothèque qui l'ouvrira.

    Raises:
        NotAFileError: c'est autre chose.
        OSError: il n'y a rien, ou rien d'accessible.
    """
    _refuse_special(Path(path).stat().st_mode)


def open_regular(path: Path | str) -> BufferedReader:
    """Ouvre un fichier ordinaire en lecture, par octets.

    Raises:
        NotAFileError: c'est autre chose ; rien n'a été attendu ni lu.
        OSError: il n'y a rien, ou rien d'accessible.
    """
    check_regular(path)
    # O_NONBLOCK : si un tube a pris la place du fichier entre-temps, l'ouvrir n'attend pas.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    try:
        _refuse_special(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError(
            next((name for test, name in _KINDS if test(mode)), "ce n'est pas un fichier")
        )


def read_json(path: Path | str, limit: int, *, finite: bool = False) -> Any:
    """Le contenu d'un fichier JSON d'au plus `limit` octets ; voir `parse_json`.

    Raises:
        OSError: il n'y a rien, rien d'accessible, ou ce n'est pas un fichier.
        ValueError: trop gros, ou ce n'est pas du JSON.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"plus de {limit >> 20} Mio")
    return parse_json(data, finite=finite)


def parse_json(data: str | bytes, *, finite: bool = False) -> Any:
    """Lit du JSON ; toute faute est dite par une `ValueError` en une phrase.

    Args:
        data: le texte.
        finite: refuse NaN et les infinis, que Python accepte.

    Raises:
        ValueError: ce n'est pas du JSON, ou il est démesuré.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant if finite else None)
    except json.JSONDecodeError as error:
        raise ValueError(f"JSON mal formé, ligne {error.lineno}, colonne {error.colno}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"le texte n'est pas en UTF-8, octet {error.start}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:  # un nombre de milliers de chiffres
        known = isinstance(error, _NotFiniteError)
        raise ValueError(str(error) if known else "un nombre y est démesuré") from None
    check_plain(content)
    return content


def check_plain(value: Any) -> None:
    """Vérifie qu'une description lue se parcourt : ni sans fin, ni sans fond.

    Un pickle sait se contenir lui-même, et se répéter au point que l'écrire ne finirait pas.

    Raises:
        ValueError: trop d'imbrications ou de valeurs, ou l'une n'est pas d'un type de JSON.
    """
    level: list[Any] = [[value]]
    count = 0
    for _ in range(MAX_DEPTH + 2):
        if not level:
            return
        count += sum(map(len, level))
        if count > _MAX_VALUES:
            raise ValueError(f"plus de {_MAX_VALUES} valeurs")
        inside = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in inside for each in values if type(each) not in _PLAIN]
        odd = next((each for each in level if not isinstance(each, (dict, list, tuple))), None)
        if odd is not None:
            raise ValueError(f"une valeur y est de type {type(odd).__name__}")
    raise ValueError(_TOO_DEEP)


class _NotFiniteError(ValueError):
    """NaN ou un infini, que JSON n'a pas."""


def _refuse_constant(token: str) -> NoReturn:
    raise _NotFiniteError(f"{token} n'est pas du JSON")
