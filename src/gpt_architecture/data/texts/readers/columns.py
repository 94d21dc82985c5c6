"""Parquet et Arrow (Feather compris) : une rangée, un document."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gpt_architecture.data.texts.documents import (
    EMPTY,
    NOT_TEXT,
    UNREADABLE,
    Rejected,
    Skip,
)
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.texts.readers.base import (
    Format,
    RecordBlock,
    Source,
    pick_field,
    register,
    too_long,
)
from gpt_architecture.data.texts.readers.layers import read_whole
from gpt_architecture.errors import MissingDependencyError, reason

_ROWS = 64
_WRAPPED_BYTES = 256 << 20  # lu d'un bloc : ces formats commencent par leur fin


def _read_parquet(source: Source, field: str | None, limit: int) -> Iterator[RecordBlock]:
    with _pyarrow(source) as pa:
        import pyarrow.parquet as pq  # noqa: PLC0415

        # buffer_size : les pages sont lues au fur et à mesure, non le groupe entier
        buffering = {"buffer_size": base.BLOCK_BYTES, "pre_buffer": False}
        with pq.ParquetFile(_file_of(source), **buffering) as table:
            name = _column(table.schema_arrow, field, pa)
            batches = table.iter_batches(batch_size=_ROWS, columns=[name])
            columns = (batch.column(0) for batch in batches)
            yield from _blocks(source, columns, table.metadata.num_rows, limit, pa)


def _read_arrow(source: Source, field: str | None, limit: int) -> Iterator[RecordBlock]:
    with _pyarrow(source) as pa:
        from pyarrow import ipc  # noqa: PLC0415

        given = _file_of(source)
        mapped = pa.memory_map(str(given)) if not isinstance(given, io.BytesIO) else given
        with pa.PythonFile(mapped, "r") if isinstance(mapped, io.BytesIO) else mapped as file:
            magic = file.read(6)
            file.seek(0)
            if magic == b"ARROW1":
                table = ipc.open_file(file)
                batches = (table.get_batch(i) for i in range(table.num_record_batches))
            else:  # le flux de la bibliothèque datasets
                batches = table = ipc.open_stream(file)
            name = _column(table.schema, field, pa)
            columns = (
                batch.column(name).slice(start, _ROWS)
                for batch in batches
                for start in range(0, batch.num_rows, _ROWS)
            )
            yield from _blocks(source, columns, 0, limit, pa)


@contextmanager
def _pyarrow(source: Source) -> Iterator[Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 — facultatif
    except ImportError:
        suffix = source.path.suffix
        raise MissingDependencyError("pyarrow", purpose=f"lire {suffix}") from None
    try:
        yield pa
    except (OSError, KeyError, pa.ArrowException) as error:
        raise Rejected(UNREADABLE, reason(error)) from None


def _file_of(source: Source) -> Any:
    if not source.layers and source.content is None:
        return source.path
    return io.BytesIO(read_whole(source, _WRAPPED_BYTES, "un tableau compressé"))


def _column(schema: Any, field: str | None, pa: Any) -> str:
    """La colonne du texte, après avoir vérifié qu'elle en contient."""
    name = field
    if name is None:
        name = pick_field(each.name for each in schema if _is_text(_values(each.type, pa), pa))
    if name is None or name not in schema.names:
        raise Rejected.no_field(field, schema.names)
    if schema.names.count(name) > 1:
        raise Rejected(NOT_TEXT, f"{name} : plusieurs colonnes de ce nom")
    kind = schema.field(name).type
    if not _is_text(_values(kind, pa), pa):
        raise Rejected(NOT_TEXT, f"{name} : {kind}")
    return name


def _values(kind: Any, pa: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any, pa: Any) -> bool:
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in known)


def _blocks(
    source: Source, columns: Iterator[Any], rows: int, limit: int, pa: Any
) -> Iterator[RecordBlock]:
    """Un bloc par tranche d'une colonne ; sans `rows`, sa part de la source n'est pas connue."""
    number, before = 0, 0
    for column in columns:
        block = RecordBlock(label=source.label)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()  # noqa: PLW2901
        # En octets : un texte mal codé est écarté seul, avec les mêmes règles qu'un fichier
        raw = column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        raw.validate(full=True)  # un fichier hostile peut désigner des octets qui n'en sont pas
        for value in raw.to_pylist():
            number += 1
            where = f"{source.label}:{number}"
            if value is None:
                block.skips.append(Skip(reason=EMPTY, where=where))
            elif len(value) > limit:
                block.skips.append(too_long(where, limit))
            else:
                block.records.append((number, value))
        done = source.size * number // rows if rows else 0
        yield replace(block, consumed=done - before)
        before = done


_NEEDS = (("pyarrow", "pyarrow"),)
register(
    Format(
        name="parquet",
        suffixes=(".parquet",),
        read=_read_parquet,
        magic=(b"PAR1",),
        unit="rangée",
        needs=_NEEDS,
        extra=None,
    )
)
register(
    Format(
        name="arrow",
        suffixes=(".arrow", ".feather"),
        read=_read_arrow,
        magic=(b"ARROW1", b"\xff\xff\xff\xff"),
        unit="rangée",
        needs=_NEEDS,
        extra=None,
    )
)
