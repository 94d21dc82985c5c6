"""JSON et JSONL : un objet, un document."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from gpt_architecture.data.texts.documents import (
    BAD_JSON,
    BAD_UTF8,
    EMPTY,
    UNREADABLE,
    Rejected,
    Skip,
    json_field,
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
from gpt_architecture.data.texts.readers.layers import opened
from gpt_architecture.errors import reason
from gpt_architecture.french import french_number

_BLANK = re.compile(r"[\s,]*")


class _Filler:
    """Remplit des blocs d'enregistrements JSON, et trouve le champ du texte au premier objet."""

    def __init__(self, source: Source, field: str | None, kind: str) -> None:
        self._source, self._kind, self._field = source, kind, field
        self._before = 0
        self.inside = False  # d'une ligne trop longue, dont la suite reste à passer
        self._start()

    def _start(self) -> None:
        self.block = RecordBlock(label=self._source.label, kind=self._kind, field=self._field)
        self.size = 0

    def add(self, number: int, record: bytes) -> None:
        """Ajoute un enregistrement."""
        if self._field is None and (found := _field_of(record)) is not None:
            self._field = found
            self.block = replace(self.block, field=found)
        self.block.records.append((number, record))
        self.size += len(record)

    def take(self, position: int) -> RecordBlock:
        """Le bloc rempli, lu jusqu'à `position` dans le fichier ; un autre commence."""
        found = replace(self.block, consumed=position - self._before)
        self._before = position
        self._start()
        return found


def _field_of(record: bytes) -> str | None:
    try:
        row = json.loads(record)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    return pick_field(name for name, value in row.items() if isinstance(value, str))


def _read_lines(source: Source, field: str | None, limit: int) -> Iterator[RecordBlock]:
    filler = _Filler(source, field, "jsonl")
    try:
        with opened(source) as (lines, raw):
            number, ended = 1, False
            while not ended:
                number, ended = _fill(filler, lines, number, limit)
                yield filler.take(raw.tell())
    except (OSError, Rejected) as error:
        yield filler.block  # les lignes lues avant la panne
        raise _rejected(error) from None


def _rejected(error: OSError | Rejected) -> Rejected:
    return error if isinstance(error, Rejected) else Rejected(UNREADABLE, reason(error))


def _fill(filler: _Filler, lines: BinaryIO, number: int, limit: int) -> tuple[int, bool]:
    """Remplit un bloc ; rend le numéro de la ligne suivante, et si c'est la fin."""
    while filler.size < base.BLOCK_BYTES:
        while filler.inside and (rest := lines.readline(base.BLOCK_BYTES)):
            filler.inside = not rest.endswith(b"\n")
        line = lines.readline(limit + 1)
        if not line:
            return number, True
        where = filler.block.place(number)
        if len(line) > limit and not line.endswith(b"\n"):
            filler.block.skips.append(too_long(where, limit))
            filler.size += base.BLOCK_BYTES  # une longue ligne finit le bloc : qui la refuse
            filler.inside = True  # n'en lit pas la suite
        elif line.strip():
            filler.add(number, line)
        else:
            filler.block.skips.append(Skip(reason=EMPTY, where=where))
            filler.size += len(line)
        number += 1
    return number, False


def _read_values(source: Source, field: str | None, limit: int) -> Iterator[RecordBlock]:
    filler = _Filler(source, field, "json")
    try:
        with opened(source) as (file, raw):
            for number, text in enumerate(_values(file, limit), start=1):
                filler.add(number, text.encode("utf-8"))
                if filler.size >= base.BLOCK_BYTES:
                    yield filler.take(raw.tell())
            yield filler.take(raw.tell())
    except (OSError, Rejected) as error:
        yield filler.block
        raise _rejected(error) from None


def _values(file: BinaryIO, limit: int) -> Iterator[str]:
    """Les valeurs d'un fichier JSON, l'une après l'autre, une liste étant ouverte en chemin.

    Une seule est en mémoire : au plus `limit` octets, relus en doublant tant qu'elle n'est pas
    finie.

    Raises:
        Rejected: ce n'est pas du JSON, ou une valeur est trop longue.
    """
    decode = json.JSONDecoder().raw_decode
    stream = _Text(file)
    listed = stream.peek() == "["
    stream.start += listed
    while (first := stream.peek()) and not (listed and first == "]"):
        wanted = 1 << 16
        end = None
        while end is None:
            stream.fill(wanted)
            try:
                end = decode(stream.text, stream.start)[1]
            except (ValueError, RecursionError) as error:
                if stream.ended or isinstance(error, RecursionError):
                    raise Rejected(BAD_JSON, f"caractère {stream.position}") from None
                if wanted > limit:
                    most = f"{french_number(limit)} octets"
                    cause = f"caractère {stream.position}, ou valeur de plus de {most}"
                    raise Rejected(BAD_JSON, cause) from None
            else:
                if end == len(stream.text) and not stream.ended:
                    end = None  # un nombre coupé par la fin de la fenêtre
            wanted *= 4
        yield stream.text[stream.start : end]
        stream.start = end
    if listed:
        stream.start += 1
        if not first or stream.peek():
            cause = "après la liste" if first else "la liste n'est pas finie"
            raise Rejected(BAD_JSON, f"{cause}, caractère {stream.position}")


class _Text:
    """Le texte d'un fichier, dont une fenêtre est en mémoire."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.start, self.ended, self._dropped = "", 0, False, 0

    @property
    def position(self) -> int:
        """Le caractère où commence ce qui n'est pas encore lu, depuis 1."""
        return self._dropped + self.start + 1

    def fill(self, wanted: int) -> None:
        """Fait tenir `wanted` caractères dans la fenêtre, s'il en reste tant."""
        while len(self.text) - self.start < wanted and not self.ended:
            data = self._file.read(max(1 << 16, wanted // 2))
            self.ended = not data
            try:
                found = self._decoder.decode(data, final=self.ended)
            except UnicodeDecodeError:
                raise Rejected(BAD_UTF8, f"après le caractère {self.position}") from None
            self._dropped += self.start
            self.text, self.start = self.text[self.start :] + found, 0

    def peek(self) -> str:
        """Le prochain caractère qui n'est ni blanc ni virgule ; vide à la fin."""
        while True:
            self.fill(1)
            found = _BLANK.match(self.text, self.start)
            self.start = found.end() if found else self.start
            if self.start < len(self.text) or self.ended:
                return self.text[self.start : self.start + 1]


register(
    Format(
        name="jsonl",
        suffixes=(".jsonl", ".ndjson"),
        read=_read_lines,
        extract=json_field,
        unit="ligne",
    )
)
register(
    Format(name="json", suffixes=(".json",), read=_read_values, extract=json_field, unit="objet")
)
