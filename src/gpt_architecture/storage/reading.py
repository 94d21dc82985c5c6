"""Lire : n'ouvrir que des fichiers, n'en croire que ce qui tient.

Un tube, une prise ou un périphérique donné à la place d'un fichier ferait attendre sans fin, ou
lire sans fin : il est refusé avant d'être ouvert. Un texte qu'une personne a écrit est de l'UTF-8,
quels que soient son éditeur et son système : le BOM est retiré, les fins de ligne deviennent LF, et
tout autre encodage est refusé par son nom.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from gpt_architecture.errors import DataError, GPTArchitectureError, reason
from gpt_architecture.french import french_size

MAX_TEXT_BYTES = 1 << 30
"""Un fichier de texte plus gros n'est pas lu d'un bloc."""

SAVE_AS_UTF8 = (
    "enregistrez-le en UTF-8, depuis son éditeur ou par : "
    "iconv -f {encoding} -t UTF-8 FICHIER > NOUVEAU"
)
_EXPORT = "enregistrez-en le texte dans un fichier .txt"
_UNPACK = "décompressez-le d'abord"

_FORMATS = (
    ((b"\xff\xfe", b"\xfe\xff"), "du texte UTF-16", SAVE_AS_UTF8.format(encoding="UTF-16")),
    ((b"\x1f\x8b", b"BZh91AY&SY", b"\xfd7zXZ\0"), "un fichier compressé", _UNPACK),
    ((b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c"), "un fichier compressé", _UNPACK),
    ((b"PK\x03\x04",), "une archive ZIP (docx, odt, epub, xlsx, pt…)", _EXPORT),
    ((b"%PDF-",), "un PDF", _EXPORT),
    ((b"{\\rtf", b"\xd0\xcf\x11\xe0"), "un document de traitement de texte", _EXPORT),
    ((b"PAR1",), "un fichier Parquet", "donnez-lui l'extension .parquet"),
    ((b"GGUF\x03\0", b"GGUF\x02\0"), "un modèle GGUF", "donnez un texte"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF89a"), "une image", "donnez un texte"),
)
_WORDS = (b"%PDF-", b"PAR1")  # une phrase peut commencer ainsi
_BINARY_SHARE = 50  # un octet de commande sur tant : ce n'est pas du texte mal encodé
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\r\f\x1b"})
_WINDOWS_ONLY = bytes({*range(0x80, 0xA0)} - {0x81, 0x8D, 0x8F, 0x90, 0x9D})
"""Ce que WINDOWS-1252 imprime (« œ », « ’ », « … ») et qu'ISO-8859-1 n'a pas."""

_ACCENT = re.compile(rb"[\xc3\xc5][\x80-\xbf]|\xe2\x80[\x80-\xbf]")
"""Une lettre accentuée ou une ponctuation du français, en UTF-8."""

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

O_BINARY = getattr(os, "O_BINARY", 0)  # Windows changerait les fins de ligne


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
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | O_BINARY)
    try:
        _refuse_special(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_at_most(file: BufferedReader, limit: int) -> bytes:
    """Au plus `limit` + 1 octets ; rien n'est réservé de plus que ce que le fichier contient."""
    return file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)


def read_text(
    path: Path | str,
    *,
    expected: str = "un fichier de texte UTF-8",
    remedy: str = "vérifiez le chemin et les droits",
    limit: int = MAX_TEXT_BYTES,
    error: type[GPTArchitectureError] = DataError,
) -> str:
    """Le texte d'un fichier qu'une personne a écrit ; voir `decode_text`.

    Args:
        path: le fichier.
        expected: ce qui était attendu, pour les messages.
        remedy: que faire si le fichier ne s'ouvre pas, ou dépasse la limite.
        limit: octets au plus.
        error: ce qui est levé.

    Raises:
        DataError: ou `error` : fichier absent, illisible, trop gros, ou qui n'est pas de l'UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = read_at_most(file, limit)
    except OSError as failure:
        raise error.unreadable(path, failure, expected=expected, remedy=remedy) from None
    if len(data) > limit:
        raise error(f"{path} dépasse {limit} octets", expected=expected, remedy=remedy)
    return decode_text(data, origin=str(path), error=error)


def decode_text(data: bytes, *, origin: str, error: type[GPTArchitectureError] = DataError) -> str:
    """Octets UTF-8 → texte : BOM retiré, CRLF et CR remplacés par LF.

    Raises:
        DataError: ou `error` : octets binaires, ou d'un autre encodage ; le remède dit lequel.
    """
    found = foreign_format(data)
    if found is not None:
        name, remedy = found
        raise error(f"{origin} est {name}", expected="du texte UTF-8", remedy=remedy)
    if b"\0" in data:
        wide = len(data) > 3 and not (any(data[:200:2]) and any(data[1:200:2]))
        encoding = SAVE_AS_UTF8.format(encoding="UTF-16") if wide else "donnez un texte"
        raise error(
            f"{origin} contient un octet nul à la position {data.index(0)}",
            expected="du texte UTF-8, non un fichier binaire",
            remedy=encoding,
        )
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as failure:
        is_text = _seems_text(data)
        raise error(
            f"{origin} : octet 0x{data[failure.start]:02x} invalide à la position {failure.start}",
            expected="du texte UTF-8" if is_text else "du texte UTF-8, non un fichier binaire",
            remedy=encoding_remedy(data),
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoding_remedy(data: bytes, *, accented: bool = False) -> str:
    """Que faire d'octets qui ne sont pas de l'UTF-8, d'après ce qu'ils semblent être.

    Args:
        data: ces octets.
        accented: des accents en UTF-8 les précèdent.
    """
    if not _seems_text(data):
        return "donnez un texte"
    encoding = None if accented else likely_encoding(data)
    if encoding is None:
        return "le fichier mêle l'UTF-8 et un autre encodage : réenregistrez-le en entier en UTF-8"
    return SAVE_AS_UTF8.format(encoding=encoding)


def likely_encoding(data: bytes) -> str | None:
    """L'encodage d'où viennent sans doute des octets qui ne sont pas de l'UTF-8 ; None : aucun."""
    if not _seems_text(data) or _ACCENT.search(data):
        return None
    windows = len(data.translate(None, _WINDOWS_ONLY)) < len(data)
    return "WINDOWS-1252" if windows else "ISO-8859-1"


def _seems_text(data: bytes) -> bool:
    head = data[:4096]
    return len(head) - len(head.translate(None, _CONTROLS)) <= len(head) // _BINARY_SHARE


def foreign_format(data: bytes) -> tuple[str, str] | None:
    """Ce qu'est un fichier qui ne commence pas comme de l'UTF-8, et que faire ; None sinon."""
    if data.startswith(_WORDS) and is_plain(data):
        return None
    return next(
        ((name, remedy) for marks, name, remedy in _FORMATS if data.startswith(marks)), None
    )


def is_plain(data: bytes) -> bool:
    """Vrai si le début est de l'UTF-8 sans octet de commande, ni les objets d'un PDF."""
    head = data[:1024]
    if head != head.translate(None, _CONTROLS) or b" obj" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # la coupe peut tomber dans un signe
    except UnicodeDecodeError:
        return False
    return True


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
        data = read_at_most(file, limit)
    if len(data) > limit:
        raise ValueError(f"plus de {french_size(limit)}")
    return parse_json(data, finite=finite)


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """Une valeur en JSON, en UTF-8.

    Un nom de fichier peut porter des octets qui n'en sont pas : ils s'écrivent en `\\udcff`, que
    le JSON relit à l'identique.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def read_json_object(
    path: Path | str,
    limit: int,
    *,
    error: type[GPTArchitectureError],
    expected: str,
    remedy: str,
    finite: bool = False,
) -> dict[str, Any]:
    """Le contenu d'un fichier qui tient un objet JSON ; voir `read_json`.

    Args:
        error: ce qui est levé.
        expected: ce qui était attendu, pour les messages.
        remedy: que faire.

    Raises:
        GPTArchitectureError: `error` : fichier absent, trop gros, ou d'un autre contenu.
    """
    try:
        content = read_json(path, limit, finite=finite)
    except (OSError, ValueError) as failure:
        found = f"{path} est illisible ({reason(failure)})"
        raise error(found, expected=expected, remedy=remedy) from failure
    if not isinstance(content, dict):
        raise error(f"{path} n'est pas un objet JSON", expected=expected, remedy=remedy)
    return content


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
