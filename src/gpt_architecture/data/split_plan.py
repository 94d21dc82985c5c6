"""La répartition des documents, et les tâches de codage qui en découlent.

Chaque document va dans une part selon son empreinte. Quand le hasard laisse une part vide,
ou qu'il n'y a qu'un document, un plan décidé d'avance y remédie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpt_architecture.config import check_float, check_int
from gpt_architecture.data.documents import (
    DocumentHash,
    Rejected,
    Skip,
    cut_pieces,
    decode_stream,
    last_boundary,
    split_of,
)
from gpt_architecture.data.encoding import Task, TextPiece, clean_record
from gpt_architecture.data.ingest import RecordBlock, Source, read_blocks, read_chunks
from gpt_architecture.data.shard_layout import MAX_SHARD_TOKENS, Split
from gpt_architecture.errors import ConfigurationError, DataError

LONG_TEXT_BYTES = 4 << 20
"""Un fichier texte plus gros est lu deux fois, en flux : pour son empreinte, puis pour le coder."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Réglages d'une préparation ; deux préparations égales donnent les mêmes octets.

    Attributes:
        field: champ du texte, en JSONL et en Parquet.
        val_fraction: part des documents gardée pour la validation.
        shard_tokens: tokens d'un fragment plein.
        seed: graine de la répartition.
        max_record_bytes: une ligne JSONL ou une valeur Parquet plus longue est écartée.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    field: str = "text"
    val_fraction: float = 0.01
    shard_tokens: int = 100_000_000
    seed: int = 0
    max_record_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if not isinstance(self.field, str) or not self.field:
            raise ConfigurationError(
                f"field vaut {self.field!r}", expected="un nom de champ", remedy="corrigez `field`"
            )
        check_float("val_fraction", self.val_fraction, above=0.0, below=1.0)
        check_int("shard_tokens", self.shard_tokens, minimum=1, maximum=MAX_SHARD_TOKENS)
        check_int("seed", self.seed, minimum=0, maximum=2**63 - 1)
        check_int("max_record_bytes", self.max_record_bytes, minimum=1, maximum=1 << 30)


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Les exceptions à la répartition par empreinte.

    Attributes:
        forced: (source, numéro) → part imposée, pour qu'aucune part ne soit vide.
        single: (source, numéro) du seul document, coupé par position ; None s'il y en a plus.
        cut: caractères du seul document qui vont à l'entraînement, à un mot près.
        characters: longueur du seul document.
    """

    forced: Mapping[tuple[str, int], Split] = field(default_factory=dict)
    single: tuple[str, int] | None = None
    cut: int = 0
    characters: int = 0

    def to_dict(self) -> dict[str, Any]:
        """En types simples, relu par `from_dict`."""
        return {
            "forced": [[label, number, split] for (label, number), split in self.forced.items()],
            "single": None if self.single is None else list(self.single),
            "cut": self.cut,
            "characters": self.characters,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitPlan:
        """Relit `to_dict`."""
        single = values["single"]
        return cls(
            forced={(label, number): split for label, number, split in values["forced"]},
            single=None if single is None else (single[0], single[1]),
            cut=values["cut"],
            characters=values["characters"],
        )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Un document valable : où, son empreinte, sa longueur en caractères."""

    where: tuple[str, int]
    value: int
    characters: int


class CorpusReader:
    """Lit les sources et en fait des tâches ; les longs textes ne sont mesurés qu'une fois.

    Args:
        sources: les fichiers, dans l'ordre.
        config: voir `PrepareConfig`.
    """

    def __init__(self, sources: Sequence[Source], config: PrepareConfig) -> None:
        self.sources = sources
        self._config = config
        self._long: dict[str, _Measured | Rejected] = {}

    def make_plan(self) -> SplitPlan:
        """Décide la répartition ; lit le début du corpus, tout s'il n'a que peu de documents.

        Raises:
            DataError: aucun document, ou un seul, trop court pour être coupé.
        """
        splits: set[Split] = set()
        count = 0
        shortest = longest = None
        for document in self._documents():
            count += 1
            if shortest is None or document.characters < shortest.characters:
                shortest = document
            if longest is None or document.characters > longest.characters:
                longest = document
            splits.add(split_of(document.value, self._config.val_fraction))
            if len(splits) == 2:
                return SplitPlan()
        if shortest is None or longest is None:
            raise DataError(
                "aucun document dans les sources",
                expected="au moins un texte lisible, en UTF-8",
                remedy="vérifiez les fichiers et `field`",
            )
        if count == 1:
            return self._cut_single(shortest)
        # Peu de documents, donc de gros écarts : l'entraînement garde le plus de texte possible
        return SplitPlan(
            forced={shortest.where: "val"} if splits == {"train"} else {longest.where: "train"}
        )

    def tasks(self, source: Source, plan: SplitPlan) -> Iterator[Task]:
        """Les tâches d'une source, toujours les mêmes.

        Raises:
            DataError: la source a changé depuis le début.
        """
        label = str(source.path)
        if self._is_long(source):
            measured = self._measure(source)
            if isinstance(measured, Rejected):
                yield RecordBlock(
                    label=label, skips=[Skip.of(measured, label)], consumed=source.size
                )
            else:
                split = plan.forced.get(
                    (label, 0), split_of(measured.value, self._config.val_fraction)
                )
                cut = None if plan.single is None else plan.cut
                chunks = decode_stream(read_chunks(source))
                try:
                    yield from _pieces(
                        chunks, label, source.size, measured.characters, split=split, cut=cut
                    )
                except Rejected as rejected:  # lu sans faute la première fois
                    source.check_unchanged()
                    raise DataError(
                        f"{label} : {rejected.reason} à la seconde lecture",
                        expected="le même contenu qu'à la première",
                        remedy="vérifiez le disque puis relancez",
                    ) from None
        else:
            for block in self._blocks(source):
                yield from self._split_block(block, plan)
        source.check_unchanged()

    def _documents(self) -> Iterator[_Measured]:
        for source in self.sources:
            if self._is_long(source):
                measured = self._measure(source)
                if isinstance(measured, _Measured):
                    yield measured
                continue
            for block in self._blocks(source):
                for number, record in block.records:
                    try:
                        text = clean_record(block, record, self._config.field)
                    except Rejected:  # dit quand la tâche sera codée
                        continue
                    yield self._measured([text], (block.label, number))

    def _is_long(self, source: Source) -> bool:
        return source.kind == "text" and source.size > LONG_TEXT_BYTES

    def _blocks(self, source: Source) -> Iterator[RecordBlock]:
        return read_blocks(
            source, field=self._config.field, max_record_bytes=self._config.max_record_bytes
        )

    def _measure(self, source: Source) -> _Measured | Rejected:
        label = str(source.path)
        if label not in self._long:
            try:
                chunks = decode_stream(read_chunks(source))
                self._long[label] = self._measured(chunks, (label, 0))
            except Rejected as rejected:
                self._long[label] = rejected
        return self._long[label]

    def _measured(self, chunks: Iterable[str], where: tuple[str, int]) -> _Measured:
        digest, characters = DocumentHash(self._config.seed), 0
        for chunk in chunks:
            digest.update(chunk)
            characters += len(chunk)
        return _Measured(where=where, value=digest.value(), characters=characters)

    def _cut_single(self, document: _Measured) -> SplitPlan:
        if document.characters < 2:
            raise DataError(
                f"un seul document, de {document.characters} caractère",
                expected="de quoi faire deux parts",
                remedy="donnez plus de texte",
            )
        cut = int((1 - self._config.val_fraction) * document.characters)
        return SplitPlan(
            single=document.where,
            cut=min(max(cut, 1), document.characters - 1),
            characters=document.characters,
        )

    def _split_block(self, block: RecordBlock, plan: SplitPlan) -> Iterator[Task]:
        """Le bloc tel quel, ou sans le seul document du corpus, rendu alors par morceaux."""
        if plan.single is None or plan.single[0] != block.label:
            yield block
            return
        alone = [record for number, record in block.records if number == plan.single[1]]
        others = [(n, record) for n, record in block.records if n != plan.single[1]]
        yield replace(block, records=others)
        for record in alone:
            text = clean_record(block, record, self._config.field)
            yield from _pieces([text], block.label, 0, len(text), split="train", cut=plan.cut)


def _pieces(
    chunks: Iterable[str], label: str, size: int, characters: int, *, split: Split, cut: int | None
) -> Iterator[TextPiece]:
    """Les morceaux d'un document ; avec `cut`, entraînement avant cette position, puis validation.

    La coupe recule jusqu'au blanc qui précède : les tokens restent ceux du document entier.
    """
    position = 0
    for piece in cut_pieces(chunks):
        local = len(piece) if cut is None else cut - position
        if 0 < local < len(piece):
            local = last_boundary(piece, local)
        halves: tuple[tuple[Split, str], ...] = (
            ((split, piece),)
            if cut is None
            else (("train", piece[: max(local, 0)]), ("val", piece[max(local, 0) :]))
        )
        for part, text in halves:
            if not text:
                continue
            end = position + len(text)
            yield TextPiece(
                label=label,
                text=text,
                split=part,
                starts_document=position == 0,
                consumed=size * end // characters - size * position // characters,
            )
            position = end
