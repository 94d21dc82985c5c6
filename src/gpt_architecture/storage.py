"""Le disque : n'ouvrir que ce qui est un fichier, ne lire comme du texte que du texte.

Un tube, une prise ou un périphérique donné à la place d'un fichier ferait attendre sans fin, ou
lire sans fin : il est refusé avant d'être ouvert. Un texte qu'une personne a écrit est de l'UTF-8,
quels que soient son éditeur et son système : le BOM est retiré, les fins de ligne deviennent LF, et
tout autre encodage est refusé par son nom.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from gpt_architecture.errors import DataError, GPTArchitectureError, reason

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
_BINARY_SHARE = 50  # un octet de commande sur tant : ce n'est pas du texte mal encodé
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\r\f\x1b"})

_KINDS = (
    (stat.S_ISDIR, "c'est un dossier"),
    (stat.S_ISFIFO, "c'est un tube"),
    (stat.S_ISSOCK, "c'est une prise"),
    (stat.S_ISCHR, "c'est un périphérique"),
    (stat.S_ISBLK, "c'est un périphérique"),
)

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
            data = file.read(limit + 1)
    except OSError as failure:
        raise error(
            f"{path} ne peut pas être lu : {reason(failure)}",
            expected=expected,
            remedy=remedy,
        ) from None
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
        head = data[:4096]
        is_text = len(head) - len(head.translate(None, _CONTROLS)) <= len(head) // _BINARY_SHARE
        encoding = SAVE_AS_UTF8.format(encoding="WINDOWS-1252") if is_text else "donnez un texte"
        raise error(
            f"{origin} : octet 0x{data[failure.start]:02x} invalide à la position {failure.start}",
            expected="du texte UTF-8" if is_text else "du texte UTF-8, non un fichier binaire",
            remedy=encoding,
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def foreign_format(data: bytes) -> tuple[str, str] | None:
    """Ce qu'est un fichier qui ne commence pas comme de l'UTF-8, et que faire ; None sinon."""
    return next(
        ((name, remedy) for marks, name, remedy in _FORMATS if data.startswith(marks)), None
    )


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError(
            next((name for test, name in _KINDS if test(mode)), "ce n'est pas un fichier")
        )
