"""Ce qui enveloppe un fichier : compressions et archives ZIP, ouvertes sans rien écrire.

Rien n'est jamais extrait sur le disque : le nom d'un membre n'est qu'une étiquette. Ce qui s'étend
démesurément est arrêté au fil de la lecture, avant d'avoir rempli la mémoire.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import lru_cache, partial
from pathlib import Path
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
    "bzip2": tuple(
        b"BZh%d%b" % (size, mark) for size in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90")
    ),
    "xz": (b"\xfd7zXZ\0",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
}
SUFFIXES = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst", "zip": ".zip"}

_BROKEN = (
    *(EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, zipfile.LargeZipFile),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError),
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
    with ExitStack() as stack:
        zips = [depth for depth, (codec, _) in enumerate(source.layers) if codec == "zip"]
        try:
            if zips:
                archive, file = _archive_of(source, source.layers[: zips[-1]])
                stack.enter_context(file)
                below = cast(BinaryIO, _Consumed(file))
            else:
                below = stack.enter_context(_raw(source))
        except OSError as error:
            raise Rejected(UNREADABLE, reason(error)) from None
        inner = below
        if zips:
            name = source.layers[zips[-1]][1]
            inner = _bounded("zip", partial(_member, archive, file, name), below)
        for codec, _ in source.layers[zips[-1] + 1 if zips else 0 :]:
            inner = _bounded(codec, partial(_CODECS[codec], inner), below)
        yield inner, below


def _raw(source: Source) -> BinaryIO:
    if source.content is not None:
        return io.BytesIO(source.content)
    return cast(BinaryIO, open_regular(source.on_disk))


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
        archive, _ = _archive_of(source, source.layers)
        entries = archive.infolist()
    except (OSError, *_BROKEN) as error:
        raise Rejected(UNREADABLE, _said("archive ZIP", error)) from None
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


class _Shared:
    """Le fichier d'une archive, ouvert tant qu'un de ses membres se lit ; ses octets lus."""

    def __init__(self, reopen: Callable[[], Any]) -> None:
        self._reopen, self._lock = reopen, threading.Lock()
        self._users, self.count = 0, 0
        self._file: Any = None

    def __enter__(self) -> _Shared:
        with self._lock:
            if not self._users:
                self._file = self._reopen()
            self._users += 1
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._file.close()

    def read(self, size: int = -1) -> bytes:
        data = cast(bytes, self._file.read(size))
        self.count += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def seekable(self) -> bool:
        return True


class _Consumed:
    """Ce que la lecture d'un membre a pris de son archive."""

    def __init__(self, file: _Shared) -> None:
        self._file, self._start = file, file.count

    def tell(self) -> int:
        return self._file.count - self._start


def _archive_of(source: Source, layers: tuple[Layer, ...]) -> tuple[zipfile.ZipFile, _Shared]:
    status = source.on_disk.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _archive(source.on_disk, stamp, layers)


@lru_cache(maxsize=2)
def _archive(
    path: Path, _stamp: tuple[int, ...], layers: tuple[Layer, ...]
) -> tuple[zipfile.ZipFile, _Shared]:
    """Une archive, ou celle qu'elle contient : son répertoire n'est lu qu'une fois."""
    reopen: Callable[[], Any] = partial(open_regular, path)
    if layers:
        inside = Source(path=path, kind="zip", size=0, modified_ns=0, layers=layers)
        reopen = partial(
            io.BytesIO, read_whole(inside, NESTED_BYTES, "une archive dans une archive")
        )
    with _Shared(reopen) as file:
        return zipfile.ZipFile(cast(BinaryIO, file)), file


def _bounded(codec: str, unwrap: Callable[[], BinaryIO], below: BinaryIO) -> BinaryIO:
    """Le contenu d'une enveloppe, en flux, borné par ce qui est lu du fichier du dessous."""
    try:
        inner = unwrap()
    except _BROKEN as error:
        raise Rejected(UNREADABLE, _said(codec, error)) from None
    return cast(BinaryIO, io.BufferedReader(_Bounded(inner, below, codec), base.BLOCK_BYTES))


def _member(archive: zipfile.ZipFile, file: _Shared, name: str) -> BinaryIO:
    entry = archive.getinfo(name)
    if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return cast(BinaryIO, archive.open(entry))
    if entry.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raise Rejected(UNREADABLE, f"zip : compression n° {entry.compress_type}")
    # `zipfile` décompresserait d'un coup tout ce qu'il lit : il ne fait que donner les octets
    stored = copy(entry)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, entry.compress_size
    del stored.CRC
    raw = cast(BinaryIO, archive.open(stored))
    if entry.compress_type == zipfile.ZIP_BZIP2:
        return cast(BinaryIO, bz2.BZ2File(raw))
    return cast(BinaryIO, _Lzma(raw, entry))


class _Lzma:
    """Un membre en LZMA ; sa fenêtre, qu'il choisit, est bornée avant d'être réservée."""

    def __init__(self, file: BinaryIO, entry: zipfile.ZipInfo) -> None:
        self._file, self._left = file, entry.file_size
        self._wanted, self._crc = entry.CRC, 0
        head = file.read(9)
        if len(head) < 9:
            raise EOFError("flux coupé")
        kind, window = head[4], int.from_bytes(head[5:], "little")
        if window > _WINDOW_BYTES:
            raise Rejected(BOMB, f"zip : une fenêtre de {french_size(window)}")
        sizes = {"lc": kind % 9, "lp": kind // 9 % 5, "pb": kind // 45}
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": max(window, 4096), **sizes}]
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)

    def read(self, size: int) -> bytes:
        """Au plus `size` octets ; aucun à la fin."""
        found = b""
        while self._left and not found:
            data = self._file.read(1 << 16) if self._decoder.needs_input else b""
            if not data and self._decoder.needs_input:
                raise EOFError("flux coupé")
            found = self._decoder.decompress(data, min(size, self._left))
        self._left -= len(found)
        self._crc = zlib.crc32(found, self._crc)
        if not self._left and self._crc != self._wanted:
            raise zipfile.BadZipFile("somme de contrôle fausse")
        return found


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
    """Pourquoi une enveloppe ne s'ouvre pas ; leurs bibliothèques ne le disent qu'en anglais."""
    if isinstance(error, OSError) and error.errno:
        cause = reason(error)
    elif "password required" in str(error):
        cause = "contenu chiffré, à déchiffrer d'abord"
    elif isinstance(error, NotImplementedError):
        cause = "cette compression n'est pas lue"
    else:
        cause = "contenu abîmé ou coupé"
    return f"{codec} : {cause}"
