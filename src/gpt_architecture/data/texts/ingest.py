"""Les sources d'un corpus : fichiers texte, JSONL (aussi gzip) et Parquet, lus par blocs bornés.

La lecture ne fait que découper ; nettoyer et coder est le travail des processus (voir
`data.shards.encode`). Un bloc dépend du contenu seul : les mêmes sources donnent les mêmes blocs.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from gpt_architecture.data.texts.documents import (
    EMPTY,
    NO_FIELD,
    NOT_TEXT,
    REPEATED,
    TOO_LONG,
    UNKNOWN_KIND,
    UNREADABLE,
    Rejected,
    Skip,
    clean_bytes,
    json_field,
)
from gpt_architecture.errors import DataError, MissingDependencyError, reason
from gpt_architecture.storage import check_regular, exists, open_regular

Kind = Literal["text", "jsonl", "parquet"]

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
}
_REFUSED = (
    (
        ".json .ipynb .json.gz",
        "écrivez un objet par ligne dans un .jsonl ; s'il en est déjà un, changez son extension",
    ),
    (
        ".csv .tsv .xlsx .xls .ods",
        "gardez-en la colonne du texte dans un .jsonl ou un .parquet, ou écrivez-la dans un .txt",
    ),
    (
        ".html .htm .xhtml .xml .docx .doc .odt .rtf .epub .pdf .pptx",
        "enregistrez-en le texte dans un fichier .txt",
    ),
    (".gz .bz2 .xz .zst .zip .7z .tar .tgz", "décompressez-le ; seul .jsonl.gz se lit compressé"),
    (
        ".png .jpg .jpeg .gif .webp .svg .mp3 .wav .ogg .mp4 .mkv .avi .pt .pth .safetensors .gguf "
        ".onnx .bin .npy .npz .pickle .pkl .db .sqlite .exe .dll .so .pyc .arrow .feather",
        "retirez-le des sources",
    ),
)
"""Extensions de ce qui n'est pas du texte suivi, et ce qu'il faut en faire."""

BLOCK_BYTES = 1 << 20
_PARQUET_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Source:
    """Un fichier à lire, ou un texte connu par son nom.

    Attributes:
        path: son chemin, tel que donné ou trouvé ; ou son nom.
        kind: ce qu'il contient.
        size: sa taille, en octets.
        modified_ns: sa date de modification, en nanosecondes ; 0 pour un texte connu.
        content: les octets d'un texte connu par son nom, déjà lus.
        origin: d'où vient ce texte, si ce n'est pas `path`.
    """

    path: Path
    kind: Kind
    size: int
    modified_ns: int
    content: bytes | None = None
    origin: str = ""

    @property
    def label(self) -> str:
        """La source, pour les messages."""
        return self.origin or str(self.path)

    def check_unchanged(self) -> None:
        """Vérifie que le fichier est encore celui du départ.

        Raises:
            DataError: taille ou date différente.
        """
        if self.content is not None:
            return
        try:
            now = self.path.stat()
            same = (now.st_size, now.st_mtime_ns) == (self.size, self.modified_ns)
        except OSError:
            same = False
        if not same:
            raise DataError(
                f"{self.path} a changé pendant la préparation",
                expected="des sources immobiles",
                remedy="relancez avec `force` quand elles ne changent plus",
            )


@dataclass(frozen=True, kw_only=True)
class RecordBlock:
    """Des documents bruts d'une même source.

    Attributes:
        label: celui de la source.
        records: (numéro, octets) ; le numéro est une ligne (depuis 1), une rangée (depuis 1),
            ou 0 pour un fichier entier.
        is_json: chaque enregistrement est une ligne JSON.
        skips: ce que la lecture a écarté.
        consumed: octets de la source lus pour ce bloc.
    """

    label: str
    records: list[tuple[int, bytes]] = field(default_factory=list)
    is_json: bool = False
    skips: list[Skip] = field(default_factory=list)
    consumed: int = 0

    def text_of(self, record: bytes, field: str) -> str:
        """Le texte d'un enregistrement, nettoyé.

        Raises:
            Rejected: il ne convient pas.
        """
        return json_field(record, field) if self.is_json else clean_bytes(record)

    def place(self, number: int) -> str:
        """« fichier » ou « fichier:ligne »."""
        return f"{self.label}:{number}" if number else self.label


def find_sources(given: Sequence[str | Path | Source]) -> tuple[list[Source], list[Skip]]:
    """Les fichiers à lire, dans l'ordre donné ; ceux d'un dossier sont triés.

    Un dossier est parcouru en entier, sans ses éléments cachés ni ses liens vers des dossiers.
    Un fichier donné par son nom est lu comme du texte si son extension n'est pas connue.

    Args:
        given: fichiers et dossiers ; une source déjà trouvée passe telle quelle.

    Returns:
        Les sources, et ce qui n'en est pas.

    Raises:
        DataError: un chemin n'existe pas, un fichier donné par son nom est d'un format qui n'est
            pas lu, ou aucun fichier ne convient.
    """
    sources: list[Source] = []
    skips: list[Skip] = []
    seen: set[Path] = set()
    for each in given:
        if isinstance(each, Source):
            sources.append(each)
            continue
        for path, kind in _files(Path(each), skips):
            resolved = path.resolve()
            if resolved in seen:
                skips.append(Skip(reason=REPEATED, where=str(path)))
                continue
            seen.add(resolved)
            try:
                check_regular(path)
                status = path.stat()
            except OSError as error:
                skips.append(Skip(reason=UNREADABLE, where=f"{path} ({reason(error)})"))
                continue
            sources.append(
                Source(path=path, kind=kind, size=status.st_size, modified_ns=status.st_mtime_ns)
            )
    if not sources:
        shown = ", ".join(str(each)[:200] for each in given[:3])
        cause = f" : {skips[0].reason}, {skips[0].where}" if skips else ""
        raise DataError(
            f"aucun texte à lire dans {shown}{cause}",
            expected=f"des fichiers {', '.join(SUFFIXES)}",
            remedy="ajoutez-en ou donnez une autre source",
        )
    return sources, skips


def _files(given: Path, skips: list[Skip]) -> Iterator[tuple[Path, Kind]]:
    """Les fichiers que désigne un chemin, et ce que dit leur extension."""
    if not exists(given):
        raise DataError(
            f"source introuvable : {str(given)[:200]}",
            expected="un fichier ou un dossier",
            remedy="corrigez ce chemin",
        )
    if not given.is_dir():
        kind = _kind_of(given)
        for suffixes, remedy in _REFUSED:
            if kind is None and given.name.lower().endswith(tuple(suffixes.split())):
                raise DataError(
                    f"{given} n'est pas un format de texte lu ici",
                    expected=f"du texte, ou un fichier {', '.join(SUFFIXES)}",
                    remedy=remedy,
                )
        yield given, kind or "text"
        return
    for path in _walk(given, skips):
        kind = _kind_of(path)
        if kind is None:
            skips.append(Skip(reason=UNKNOWN_KIND, where=str(path)))
        else:
            yield path, kind


def read_blocks(source: Source, *, field: str, max_record_bytes: int) -> Iterator[RecordBlock]:
    """Lit une source par blocs d'environ 1 Mio ; un fichier texte est un seul document.

    Une lecture impossible finit le fichier par un bloc qui le dit ; ce qui précède est gardé.

    Args:
        source: le fichier.
        field: champ du texte (Parquet).
        max_record_bytes: une ligne ou une valeur plus longue est écartée.

    Raises:
        MissingDependencyError: Parquet demandé sans pyarrow.
    """
    readers = {"text": _read_text, "jsonl": _read_lines, "parquet": _read_parquet}
    try:
        yield from readers[source.kind](source, field, max_record_bytes)
    except Rejected as rejected:
        yield RecordBlock(label=source.label, skips=[Skip.of(rejected, source.label)])


def read_chunks(source: Source) -> Iterator[bytes]:
    """Les octets d'un fichier texte, par morceaux.

    Raises:
        Rejected: fichier illisible.
    """
    if source.content is not None:
        yield source.content
        return
    try:
        with open_regular(source.path) as file:
            while chunk := file.read(BLOCK_BYTES):
                yield chunk
    except OSError as error:
        raise Rejected(UNREADABLE, reason(error)) from None


def _walk(folder: Path, skips: list[Skip]) -> Iterator[Path]:
    """Les fichiers d'un dossier, dans l'ordre de leurs chemins."""
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            if not path.is_dir():
                yield path
            elif path == folder or not path.is_symlink():
                visible = (each for each in path.iterdir() if not each.name.startswith("."))
                pending += sorted(visible, reverse=True)
        except OSError as error:
            skips.append(Skip(reason=UNREADABLE, where=f"{path} ({reason(error)})"))


def _kind_of(path: Path) -> Kind | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _read_text(source: Source, _field: str, _limit: int) -> Iterator[RecordBlock]:
    data = b"".join(read_chunks(source))
    yield RecordBlock(label=source.label, records=[(0, data)], consumed=source.size)


def _read_lines(source: Source, _field: str, limit: int) -> Iterator[RecordBlock]:
    block = RecordBlock(label=source.label, is_json=True)
    try:
        with open_regular(source.path) as raw:
            compressed = source.path.suffix.lower() == ".gz"
            lines: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
            number, before, ended = 1, 0, False
            while not ended:
                number, ended = _fill(block, lines, number, limit)
                yield replace(block, consumed=raw.tell() - before)
                before = raw.tell()
                block = RecordBlock(label=block.label, is_json=True)
    except (OSError, EOFError, zlib.error) as error:
        yield block  # les lignes lues avant la panne
        raise Rejected(UNREADABLE, reason(error)) from None


def _fill(block: RecordBlock, lines: BinaryIO, number: int, limit: int) -> tuple[int, bool]:
    """Remplit les listes d'un bloc ; rend le numéro de la ligne suivante, et si c'est la fin."""
    size = 0
    while size < BLOCK_BYTES:
        line = lines.readline(limit + 1)
        if not line:
            return number, True
        size += len(line)
        where = f"{block.label}:{number}"
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := lines.readline(BLOCK_BYTES)) and not rest.endswith(b"\n"):
                pass
            block.skips.append(_too_long(where, limit))
            size += BLOCK_BYTES  # une longue ligne finit le bloc
        elif line.strip():
            block.records.append((number, line))
        else:
            block.skips.append(Skip(reason=EMPTY, where=where))
        number += 1
    return number, False


def _too_long(where: str, limit: int) -> Skip:
    return Skip(reason=TOO_LONG, where=f"{where} (plus de {limit} octets)")


def _read_parquet(source: Source, field: str, limit: int) -> Iterator[RecordBlock]:
    try:
        import pyarrow as pa  # noqa: PLC0415 — facultatif
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError("pyarrow", purpose="lire Parquet") from None

    label = source.label
    try:
        # buffer_size : les pages sont lues au fur et à mesure, non le groupe entier
        with pq.ParquetFile(source.path, buffer_size=BLOCK_BYTES, pre_buffer=False) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                raise Rejected(NO_FIELD, field)
            kind = schema.field(field).type
            indexed = pa.types.is_dictionary(kind)
            values = kind.value_type if indexed else kind
            if not (pa.types.is_string(values) or pa.types.is_large_string(values)):
                raise Rejected(NOT_TEXT, f"{field} : {kind}")
            # En octets : un texte mal codé est écarté seul, avec les mêmes règles qu'un fichier
            target = pa.large_binary() if pa.types.is_large_string(values) else pa.binary()
            rows = max(1, table.metadata.num_rows)
            number, before = 0, 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
                column = batch.column(0).dictionary_decode() if indexed else batch.column(0)
                block = RecordBlock(label=label)
                for value in column.cast(target).to_pylist():
                    number += 1
                    where = f"{label}:{number}"
                    if value is None:
                        block.skips.append(Skip(reason=EMPTY, where=where))
                    elif len(value) > limit:
                        block.skips.append(_too_long(where, limit))
                    else:
                        block.records.append((number, value))
                done = source.size * number // rows
                yield replace(block, consumed=done - before)
                before = done
    except (OSError, pa.ArrowException) as error:
        raise Rejected(UNREADABLE, reason(error)) from None
