"""Les documents qui sont des archives ZIP (EPUB, DOCX, ODT) : ouverts, et bornés d'avance."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from gpt_architecture.data.texts.documents import UNREADABLE, Rejected
from gpt_architecture.data.texts.readers.layers import BOMB, MAX_RATIO
from gpt_architecture.errors import reason
from gpt_architecture.french import french_size

MAX_ENTRIES = 20_000
MAX_BYTES = 512 << 20
"""Ce qu'un document peut annoncer, décompressé."""


@contextmanager
def opened_package(data: bytes) -> Iterator[zipfile.ZipFile]:
    """L'archive d'un document.

    Raises:
        Rejected: ce n'en est pas une, ou elle annonce un contenu démesuré.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            size = sum(each.file_size for each in entries)
            if len(entries) > MAX_ENTRIES or size > MAX_BYTES or size > MAX_RATIO * len(data):
                cause = f"{len(entries)} fichiers, {french_size(size)} une fois décompressé"
                raise Rejected(BOMB, cause)
            yield archive
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise Rejected(UNREADABLE, reason(error)) from None


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Un fichier de l'archive, dont la taille annoncée est déjà bornée ; `zipfile` s'y tient.

    Raises:
        Rejected: il n'y est pas.
    """
    try:
        return archive.read(name)
    except KeyError:
        raise Rejected(UNREADABLE, f"{name or 'son sommaire'} n'y est pas") from None
