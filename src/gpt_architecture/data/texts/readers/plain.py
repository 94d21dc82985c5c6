"""Texte suivi : le fichier est le document."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_architecture.data.texts.readers.base import Format, RecordBlock, Source, register
from gpt_architecture.data.texts.readers.layers import read_chunks


def _read(source: Source, _field: str | None, _limit: int) -> Iterator[RecordBlock]:
    data = b"".join(read_chunks(source))
    yield RecordBlock(label=source.label, records=[(0, data)], consumed=source.size)


register(Format(name="text", suffixes=(".txt", ".md"), read=_read))
