"""Les textes d'un corpus, lus au fil de l'eau pour en apprendre un vocabulaire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.texts.documents import (
    NO_FIELD,
    Rejected,
    Skip,
    Tally,
    cut_pieces,
    decode_stream,
    documents_in,
    json_messages,
    split_documents,
)
from gpt_architecture.data.texts.ingest import RecordBlock, Source, read_blocks, read_chunks
from gpt_architecture.errors import DataError

_PIECE_CHARACTERS = 1 << 16


class SourceTexts:
    """Les documents de fichiers texte, JSONL et Parquet, par morceaux et une seule fois.

    Un long fichier n'est jamais en mémoire en entier. Un document qui ne convient pas est écarté
    et compté, comme par `data.shards.prepare`. D'une conversation (une ligne JSONL qui a `messages`
    et n'a pas ce champ), les textes sont ceux de ses messages.

    Args:
        sources: fichiers et dossiers, ou noms de corpus (voir `data.texts.corpus.find_texts`).
        field: champ du texte, en JSONL et en Parquet.
        max_record_bytes: une ligne ou une valeur plus longue est écartée.
        on_progress: reçoit les octets de sources lus, et leur total.

    Attributes:
        tally: octets lus, octets de texte, et ce qui a été écarté.

    Raises:
        DataError: source absente ; à la lecture, aucun texte.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        field: str = "text",
        max_record_bytes: int = 32 << 20,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self.tally = Tally()
        self._sources, skips = find_texts(sources, offline=True)
        self.tally.add_skips(skips)
        self._field, self._limit, self._on_progress = field, max_record_bytes, on_progress

    def __iter__(self) -> Iterator[str]:
        total = sum(source.size for source in self._sources)
        for source in self._sources:
            yield from self._counted(self._read(source, total))
        if not self.tally.text_bytes:
            skipped = [f" : {cause}, {e['examples'][0]}" for cause, e in self.tally.skipped.items()]
            raise DataError(
                f"aucun texte dans les sources{''.join(skipped[:1])}",
                expected="au moins un texte lisible, en UTF-8",
                remedy="vérifiez les fichiers et `field`",
            )

    def _counted(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self.tally.text_bytes += len(text.encode("utf-8"))
            yield text

    def _read(self, source: Source, total: int) -> Iterator[str]:
        before = self.tally.done_bytes
        if source.kind == "text":
            try:
                parts = split_documents(decode_stream(self._chunks(source, total)))
                for _, group in groupby(parts, key=itemgetter(0)):
                    yield from cut_pieces((text for _, text in group), _PIECE_CHARACTERS)
            except Rejected as rejected:
                self.tally.add_skips([Skip.of(rejected, source.label)])
        else:
            for block in read_blocks(source, field=self._field, max_record_bytes=self._limit):
                self.tally.add_skips(block.skips)
                for number, record in block.records:
                    try:
                        yield from self._texts(block, record)
                    except Rejected as rejected:
                        self.tally.add_skips([Skip.of(rejected, block.place(number))])
                self.tally.done_bytes += block.consumed
                self._on_progress(self.tally.done_bytes, total)
        self.tally.done_bytes = before + source.size

    def _texts(self, block: RecordBlock, record: bytes) -> list[str]:
        try:
            text = block.text_of(record, self._field)
        except Rejected as rejected:
            messages = (
                json_messages(record) if block.is_json and rejected.reason == NO_FIELD else []
            )
            if not messages:
                raise
            return messages
        return [document for _, document in documents_in(text)]

    def _chunks(self, source: Source, total: int) -> Iterator[bytes]:
        for chunk in read_chunks(source):
            yield chunk
            self.tally.done_bytes += len(chunk)
            self._on_progress(self.tally.done_bytes, total)
