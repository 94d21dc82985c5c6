"""Les textes d'un corpus, lus au fil de l'eau pour en apprendre un vocabulaire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpt_architecture.data.corpus import CORPUS_NAMES, load_corpus
from gpt_architecture.data.documents import Rejected, Skip, cut_pieces, decode_stream
from gpt_architecture.data.encoding import clean_record, location
from gpt_architecture.data.ingest import Source, find_sources, read_blocks, read_chunks
from gpt_architecture.data.prepare_tally import Tally
from gpt_architecture.errors import DataError

_PIECE_CHARACTERS = 1 << 16


class SourceTexts:
    """Les documents de fichiers texte, JSONL et Parquet, par morceaux et une seule fois.

    Un long fichier n'est jamais en mémoire en entier. Un document qui ne convient pas est écarté
    et compté, comme par `data.prepare`.

    Args:
        sources: fichiers et dossiers, ou noms de corpus (`data.corpus.CORPUS_NAMES`).
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
        named = [name for name in sources if name in CORPUS_NAMES and not Path(name).exists()]
        paths = [source for source in sources if source not in named]
        self._named = [load_corpus([name], offline=True).text for name in named]
        self._sources: list[Source] = []
        if paths:
            self._sources, skips = find_sources(paths)
            self.tally.add_skips(skips)
        self._field, self._limit, self._on_progress = field, max_record_bytes, on_progress

    def __iter__(self) -> Iterator[str]:
        for text in self._named:
            yield from self._counted(cut_pieces([text], _PIECE_CHARACTERS))
        total = sum(source.size for source in self._sources)
        for source in self._sources:
            yield from self._counted(self._read(source, total))
        if not self.tally.text_bytes:
            raise DataError(
                "aucun texte dans les sources",
                expected="au moins un texte lisible, en UTF-8",
                remedy="vérifiez les fichiers et `field`",
            )

    def _counted(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self.tally.text_bytes += len(text.encode("utf-8"))
            yield text

    def _read(self, source: Source, total: int) -> Iterator[str]:
        before, label = self.tally.done_bytes, str(source.path)
        if source.kind == "text":
            try:
                yield from cut_pieces(decode_stream(self._chunks(source, total)), _PIECE_CHARACTERS)
            except Rejected as rejected:
                self.tally.add_skips([Skip.of(rejected, label)])
        else:
            for block in read_blocks(source, field=self._field, max_record_bytes=self._limit):
                self.tally.add_skips(block.skips)
                for number, record in block.records:
                    try:
                        yield clean_record(block, record, self._field)
                    except Rejected as rejected:
                        self.tally.add_skips([Skip.of(rejected, location(label, number))])
                self.tally.done_bytes += block.consumed
                self._on_progress(self.tally.done_bytes, total)
        self.tally.done_bytes = before + source.size

    def _chunks(self, source: Source, total: int) -> Iterator[bytes]:
        for chunk in read_chunks(source):
            yield chunk
            self.tally.done_bytes += len(chunk)
            self._on_progress(self.tally.done_bytes, total)
