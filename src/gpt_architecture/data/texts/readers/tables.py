"""CSV et TSV : une ligne, un document."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import BinaryIO

from gpt_architecture.data.texts.documents import (
    EMPTY,
    NOT_PLAIN,
    TOO_LONG,
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
)
from gpt_architecture.data.texts.readers.layers import opened
from gpt_architecture.errors import reason
from gpt_architecture.french import counted, french_number
from gpt_architecture.storage import foreign_format

BAD_TABLE = "tableau mal formé"

_SEPARATORS = (",", ";", "\t", "|")


def _read(source: Source, field: str | None, limit: int) -> Iterator[RecordBlock]:
    csv.field_size_limit(max(csv.field_size_limit(), limit))  # celle du module est de 128 Kio
    block, before, size = RecordBlock(label=source.label), 0, 0
    number = 1
    try:
        with opened(source) as (file, raw):
            lines = _lines(file, limit)
            header = next(lines, "").removeprefix("\ufeff")
            if (found := foreign_format(header.encode("utf-8", "surrogateescape"))) is not None:
                raise Rejected(NOT_PLAIN, found[0], remedy=found[1])
            separator = "\t" if ".tsv" in source.path.suffixes else separator_of(header)
            rows = csv.reader(chain([header], lines), delimiter=separator, strict=True)
            names = next(rows, [])
            column = names.index(_column(field, names))
            for row in rows:
                number += 1
                where = block.place(number)
                value = row[column] if column < len(row) else ""
                if row and (len(row) < len(names) or any(row[len(names) :])):
                    block.skips.append(_ragged(where, len(row), len(names)))
                elif not value.strip():
                    block.skips.append(Skip(reason=EMPTY, where=where))
                else:
                    # Un octet mal codé revient tel quel : l'enregistrement sera écarté seul
                    block.records.append((number, value.encode("utf-8", "surrogateescape")))
                size += len(value)
                if size >= base.BLOCK_BYTES or len(block.skips) >= base.BLOCK_BYTES >> 6:
                    yield replace(block, consumed=raw.tell() - before)
                    before, size, block = raw.tell(), 0, RecordBlock(label=source.label)
            yield replace(block, consumed=raw.tell() - before)
    except (OSError, csv.Error, Rejected) as error:
        yield block  # les lignes lues avant la panne
        if isinstance(error, Rejected):
            raise
        if isinstance(error, csv.Error):
            raise Rejected(BAD_TABLE, f"rangée {number + 1} : {_said(error, limit)}") from None
        raise Rejected(UNREADABLE, reason(error)) from None


def _lines(file: BinaryIO, limit: int) -> Iterator[str]:
    """Les lignes, dont aucune ne remplit la mémoire."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise Rejected(TOO_LONG, f"ligne {number}, plus de {french_number(limit)} octets")
        yield line.decode("utf-8", "surrogateescape")


def separator_of(header: str) -> str:
    """Ce qui sépare les colonnes : le signe qui en fait le plus, la virgule à égalité."""
    return max(_SEPARATORS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))


def _column(field: str | None, names: list[str]) -> str:
    if field is None and (found := pick_field(names)) is not None:
        return found
    if field in names and field is not None:
        return field
    raise Rejected.no_field(field, names)


def _ragged(where: str, cells: int, columns: int) -> Skip:
    """Une rangée qui n'a pas une case par colonne ; des cases vides en trop ne gênent pas."""
    said = f"{counted(cells, 'case')} pour {counted(columns, 'colonne')}"
    return Skip(
        reason=BAD_TABLE,
        where=f"{where} ({said})",
        remedy="mettez entre guillemets toute case qui contient le séparateur",
    )


def _said(error: csv.Error, limit: int) -> str:
    if "field limit" in str(error):
        return f"une case de plus de {french_number(limit)} octets"
    if "unexpected end" in str(error):
        return "un guillemet ouvert n'est jamais fermé"
    return "guillemets ou fins de ligne"


register(Format(name="table", suffixes=(".csv", ".tsv"), read=_read, unit="rangée"))
