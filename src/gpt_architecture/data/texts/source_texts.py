"""Les documents des sources, par morceaux et une seule fois : de quoi apprendre un vocabulaire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpt_architecture.config import check_float
from gpt_architecture.data.texts.corpus import MAX_RECORD_BYTES, find_texts
from gpt_architecture.data.texts.documents import (
    NO_FIELD,
    Rejected,
    Skip,
    Tally,
    cut_pieces,
    documents_in,
    is_sampled,
    json_messages,
    stream_documents,
)
from gpt_architecture.data.texts.ingest import (
    RecordBlock,
    Source,
    check_text,
    read_blocks,
    read_chunks,
)
from gpt_architecture.data.texts.shares import WHOLE, Share, owned
from gpt_architecture.errors import DataError

_PIECE_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class _Texts:
    """Les textes d'un bloc, lus à mesure, et les octets de sa source."""

    texts: Iterator[str]
    consumed: int


class SourceTexts:
    """Les documents des sources, par morceaux et une seule fois.

    Un long fichier n'est jamais en mémoire en entier. D'une conversation (une ligne JSONL qui a
    `messages` et n'a pas ce champ), les textes sont ceux de ses messages.

    Args:
        sources: voir `find_texts`.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        sample: part des textes gardée, tirée par l'empreinte de chacun (un document, ou un morceau
            d'un long fichier) ; None : tous.
        share: la part des sources à lire ; elle peut n'avoir aucun texte.
        on_progress: reçoit les octets de sources lus, et leur total.

    Attributes:
        sources: les fichiers, dans l'ordre.
        tally: octets lus, octets de texte, et ce qui a été écarté.

    Raises:
        DataError: source absente ; à la lecture, un défaut, ou aucun texte.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        field: str | None = None,
        skip_bad: bool = False,
        offline: bool = True,
        sample: float | None = None,
        share: Share = WHOLE,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        if sample is not None:
            check_float("`sample`", sample, above=0.0, maximum=1.0)
        self.tally = Tally()
        self.sources, skips = find_texts(sources, offline=offline)
        self._skip_bad, self._sample, self._share = skip_bad, sample, share
        self._set_aside(skips)
        self._total = sum(source.size for source in self.sources)
        self._field, self._on_progress = field, on_progress

    def __iter__(self) -> Iterator[str]:
        for _, _, block in owned(self.sources, self._blocks, self._share):
            for text in block.texts:
                if self._sample is None or is_sampled(text, self._sample):
                    self.tally.text_bytes += len(text.encode("utf-8"))
                    yield text
            self._advance(block.consumed)
        if not self.tally.text_bytes and self._share == WHOLE:
            skipped = [f" : {e['examples'][0]}, {cause}" for cause, e in self.tally.skipped.items()]
            raise DataError(
                f"aucun texte dans les sources{''.join(skipped[:1])}",
                expected="au moins un texte lisible, en UTF-8",
                remedy="vérifiez les fichiers, `field` et `sample`",
            )

    def _blocks(self, source: Source) -> Iterator[_Texts]:
        if source.kind == "text":
            left = source.size  # décompressé, un texte a plus d'octets que son fichier
            try:
                if self._skip_bad:
                    check_text(source)
                for _, chunks in stream_documents(read_chunks(source)):
                    for piece in cut_pieces(chunks, _PIECE_CHARACTERS):
                        read = min(left, len(piece.encode("utf-8")))
                        left -= read
                        yield _Texts(iter([piece]), read)
            except Rejected as rejected:
                self._set_aside([Skip.of(rejected, source.label)])
            yield _Texts(iter(()), left)
            return
        for block in read_blocks(source, field=self._field, max_record_bytes=MAX_RECORD_BYTES):
            yield _Texts(self._records(block), block.consumed)

    def _records(self, block: RecordBlock) -> Iterator[str]:
        self._set_aside(block.skips)
        for number, record in block.records:
            try:
                yield from self._texts(block, record)
            except Rejected as rejected:
                self._set_aside([Skip.of(rejected, block.place(number))])

    def _texts(self, block: RecordBlock, record: bytes) -> list[str]:
        is_json = block.kind in ("json", "jsonl")
        try:
            text = block.text_of(record, self._field)
        except Rejected as rejected:
            if is_json and rejected.reason == NO_FIELD and (found := json_messages(record)):
                return found
            raise
        return [document for _, document in documents_in(text)]

    def _set_aside(self, skips: Sequence[Skip]) -> None:
        for skip in skips:
            skip.check(skip_bad=self._skip_bad)
        self.tally.add_skips(skips)

    def _advance(self, read: int) -> None:
        self.tally.done_bytes += read
        self._on_progress(self.tally.done_bytes, self._total)
