"""Ce qui enveloppe un fichier : compressions et archives ZIP, ouvertes sans rien écrire.

Rien n'est jamais extrait sur le disque : le nom d'un membre n'est qu'une étiquette. Ce qui s'étend
démesurément est arrêté au fil de la lecture, avant d'avoir rempli la mémoire.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

from gpt_architecture.data.texts.documents import UNREADABLE, Rejected
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.texts.readers.base import Layer, Source
from gpt_architecture.errors import MissingDependencyError, reason
from gpt_architecture.french import french_size
from gpt_architecture.storage import open_regular

BOMB = "contenu démesuré"
NESTED = "archives imbriquées"
UNSAFE = "nom de fichier suspect"

MAX_LAYERS = 4
"""Enveloppes au plus autour d'un texte."""

MAX_MEMBERS = 100_000
MAX_RATIO = 300
"""Un texte ne se comprime pas tant : au-delà, ce n'est fait que pour remplir la mémoire."""

FREE_BYTES = 64 << 20  # en deçà, aucun rapport n'est démesuré
NESTED_BYTES = 64 << 20  # une archive dans une archive tient en mémoire
_WINDOW_BYTES = 128 << 20  # mémoire d'un décompresseur
_MEMORY = {"xz": 2 * _WINDOW_BYTES, "zstd": _WINDOW_BYTES}

MAGIC = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\0",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
}
SUFFIXES = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst", "zip": ".zip"}

_BROKEN = (
    *(EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, zipfile.LargeZipFile),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


def codec_of(head: bytes) -> str | None:
    """L'enveloppe que ces premiers octets annoncent."""
    return next((codec for codec, marks in MAGIC.items() if head.startswith(marks)), None)


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Le contenu d'une source, sans ses enveloppes, et le fichier du dessous.

    Raises:
        Rejected: l'ouverture, ou plus tard la lecture, est impossible.
    """
    try:
        raw = cast(
            BinaryIO,
            open_regular(source.on_disk) if source.content is None else io.BytesIO(source.content),
        )
    except OSError as error:
        raise Rejected(UNREADABLE, reason(error)) from None
    with raw:
        inner = below = raw
        for depth, layer in enumerate(source.layers):
            if layer[0] == "zip" and depth:
                kept = _nested(source.on_disk, source.modified_ns, source.layers[:depth])
                inner = below = io.BytesIO(kept)
            inner = _unwrap(layer, inner, below)
        yield inner, raw


def read_chunks(source: Source) -> Iterator[bytes]:
    """Les octets d'une source, par morceaux.

    Raises:
        Rejected: fichier illisible.
    """
    try:
        with opened(source) as (file, _):
            while chunk := file.read(base.BLOCK_BYTES):
                yield chunk
    except OSError as error:
        raise Rejected(UNREADABLE, reason(error)) from None


def read_whole(source: Source, limit: int, what: str) -> bytes:
    """Tout le contenu d'une source, s'il tient dans `limit` octets.

    Raises:
        Rejected: fichier illisible, ou trop gros.
    """
    kept, size = [], 0
    for chunk in read_chunks(source):
        size += len(chunk)
        if size > limit:
            raise Rejected(BOMB, f"{what} de plus de {french_size(limit)}")
        kept.append(chunk)
    return b"".join(kept)


def members(source: Source) -> list[zipfile.ZipInfo]:
    """Les fichiers d'une archive ZIP, triés par leurs noms ; ce qui est caché n'y est pas.

    Raises:
        Rejected: archive illisible, ou trop peuplée.
    """
    try:
        with opened(source) as (file, _):
            archive = (
                file
                if not source.layers
                else io.BytesIO(_nested(source.on_disk, source.modified_ns, source.layers))
            )
            with zipfile.ZipFile(archive) as found:
                entries = found.infolist()
    except (OSError, *_BROKEN) as error:
        raise Rejected(UNREADABLE, f"archive ZIP : {reason(error)}") from None
    if len(entries) > MAX_MEMBERS:
        raise Rejected(BOMB, f"{len(entries)} fichiers dans l'archive")
    shown = {e.filename: e for e in entries if not e.is_dir() and not _is_hidden(e.filename)}
    return [shown[name] for name in sorted(shown)]


def is_unsafe(name: str) -> bool:
    """Vrai d'un nom de membre qui sortirait du dossier où on l'extrairait."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts or ":" in parts[0] or "\0" in name


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") and part not in (".", "..") for part in parts) or (
        parts[0] == "__MACOSX"
    )


@lru_cache(maxsize=1)
def _nested(path: Any, modified_ns: int, layers: tuple[Layer, ...]) -> bytes:
    """Une archive contenue dans une autre ; la dernière reste, ses membres se lisent à la suite."""
    outer = Source(path=path, kind="zip", size=0, modified_ns=modified_ns, layers=layers)
    return read_whole(outer, NESTED_BYTES, "une archive dans une archive")


def _unwrap(layer: Layer, file: BinaryIO, below: BinaryIO) -> BinaryIO:
    """Le contenu d'une enveloppe, en flux, borné par ce qui est lu du fichier du dessous."""
    codec, member = layer
    try:
        inner = _member(file, member) if codec == "zip" else _CODECS[codec](file)
    except _BROKEN as error:
        raise Rejected(UNREADABLE, _said(codec, error)) from None
    return cast(BinaryIO, io.BufferedReader(_Bounded(inner, below, codec), base.BLOCK_BYTES))


def _member(file: BinaryIO, name: str) -> BinaryIO:
    return cast(BinaryIO, zipfile.ZipFile(file).open(name))


def _zstd(file: BinaryIO) -> BinaryIO:
    try:
        import zstandard  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("zstandard", purpose="lire .zst", extra="documents") from None
    reader = zstandard.ZstdDecompressor(max_window_size=_MEMORY["zstd"])
    return cast(BinaryIO, reader.stream_reader(file, read_across_frames=True, closefd=False))


class _Xz:
    """Un flux XZ ; `lzma.LZMAFile` ne sait pas borner sa mémoire, que le fichier choisit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rest = file, b""
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        """Au plus `size` octets ; aucun à la fin."""
        while True:
            data, self._rest = self._rest, b""
            if not data and (self._decoder is None or self._decoder.needs_input):
                data = self._file.read(1 << 16)
                if not data and self._decoder is None:
                    return b""
                if not data:
                    raise EOFError("flux coupé")
            if self._decoder is None:
                data = data.lstrip(b"\0")  # le bourrage entre deux flux
                if not data:
                    continue
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY["xz"])
            found = self._decoder.decompress(data, size)
            if self._decoder.eof:
                self._rest, self._decoder = self._decoder.unused_data, None
            if found:
                return found


_CODECS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gzip": lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file)),
    "bzip2": lambda file: cast(BinaryIO, bz2.BZ2File(file)),
    "xz": lambda file: cast(BinaryIO, _Xz(file)),
    "zstd": _zstd,
}


class _Bounded(io.RawIOBase):
    """Le contenu d'une enveloppe, arrêté s'il est démesuré ; toute panne y est un `Rejected`."""

    def __init__(self, inner: BinaryIO, below: BinaryIO, codec: str) -> None:
        self._inner, self._below, self._codec = inner, below, codec
        self._start, self._count = below.tell(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._inner.read(len(buffer))
        except (OSError, *_BROKEN) as error:
            raise Rejected(UNREADABLE, _said(self._codec, error)) from None
        except Exception as error:  # zstandard, importé ailleurs
            if type(error).__name__ != "ZstdError":
                raise
            raise Rejected(UNREADABLE, _said(self._codec, error)) from None
        self._count += len(found)
        read = max(1, abs(self._below.tell() - self._start))
        if self._count > FREE_BYTES and self._count > MAX_RATIO * read:
            raise Rejected(BOMB, f"plus de {MAX_RATIO} fois sa taille, décompressé")
        buffer[: len(found)] = found
        return len(found)


def _said(codec: str, error: BaseException) -> str:
    cause = "il est chiffré" if "password required" in str(error) else reason(error)
    return f"{codec} : {cause}"
