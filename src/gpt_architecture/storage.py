"""Le disque : n'ouvrir que ce qui est un fichier.

Un tube, une prise ou un périphérique donné à la place d'un fichier ferait attendre sans fin, ou
lire sans fin : il est refusé avant d'être ouvert.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

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


def open_regular(path: Path | str) -> BinaryIO:
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
