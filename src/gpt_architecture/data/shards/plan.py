"""La répartition des documents, et les tâches de codage qui en découlent.

Chaque document va dans une part selon son empreinte. Quand le hasard laisse une part vide,
ou qu'il n'y a qu'un document, un plan décidé d'avance y remédie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from gpt_architecture.config import check_float, check_int
from gpt_architecture.data.shards.layout import MAX_SHARD_TOKENS
from gpt_architecture.data.texts.documents import (
    EMPTY,
    HARMLESS,
    PIECE_CHARACTERS,
    SPLITS,
    Rejected,
    Skip,
    Split,
    Where,
    cut_pieces,
    documents_in,
    last_boundary,
    split_of,
    stream_documents,
)
from gpt_architecture.data.texts.ingest import RecordBlock, Source, read_blocks, read_chunks
from gpt_architecture.errors import ConfigurationError, DataError

LONG_TEXT_BYTES = 4 << 20
"""Un fichier texte plus gros est lu deux fois, en flux : pour le mesurer, puis pour le coder."""

SMALL_CORPUS_BYTES = 1 << 20
"""Le centième d'un corpus plus petit ne tiendrait pas quelques fenêtres."""

_BLANK = len(SPLITS)


def is_long(source: Source) -> bool:
    """Vrai d'un texte à lire en flux ; ce que contient une enveloppe n'a pas de taille connue."""
    return source.kind == "text" and (source.size > LONG_TEXT_BYTES or bool(source.layers))


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Réglages d'une préparation ; deux préparations égales donnent les mêmes octets.

    Attributes:
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        val_fraction: part des documents gardée pour la validation ; None : un centième, un dixième
            d'un corpus de moins de 1 Mio.
        shard_tokens: tokens d'un fragment plein.
        seed: graine de la répartition.
        max_record_bytes: une ligne ou une valeur plus longue est écartée.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    field: str | None = None
    val_fraction: float | None = None
    shard_tokens: int = 100_000_000
    seed: int = 0
    max_record_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if self.field is not None and (not isinstance(self.field, str) or not self.field):
            raise ConfigurationError.wrong("`field`", self.field, expected="un nom de champ")
        if self.val_fraction is not None:
            check_float("val_fraction", self.val_fraction, above=0.0, below=1.0)
        check_int("shard_tokens", self.shard_tokens, minimum=1, maximum=MAX_SHARD_TOKENS)
        check_int("seed", self.seed, minimum=0, maximum=2**63 - 1)
        check_int("max_record_bytes", self.max_record_bytes, minimum=1, maximum=1 << 30)

    def fraction(self, sources: Sequence[Source]) -> float:
        """La part de validation de ces sources."""
        if self.val_fraction is not None:
            return self.val_fraction
        return 0.01 if sum(source.size for source in sources) >= SMALL_CORPUS_BYTES else 0.1


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """La répartition par empreinte, et ses exceptions.

    Attributes:
        seed: graine du hasard.
        val_fraction: part de la validation.
        forced: part imposée à un document, pour qu'aucune part ne soit vide.
        by_source: part imposée aux documents d'une source, par son libellé.
        single: le seul document, coupé par position ; None s'il y en a plus.
        cut: caractères du seul document qui vont à l'entraînement, à un mot près.
    """

    seed: int
    val_fraction: float
    forced: Mapping[Where, Split] = field(default_factory=dict)
    by_source: Mapping[str, Split] = field(default_factory=dict)
    single: Where | None = None
    cut: int = 0

    def split_of(self, where: Where, chunks: Iterable[str]) -> Split:
        """La part d'un document."""
        drawn = self.by_source.get(where[0])
        if drawn is None:
            drawn = split_of(chunks, seed=self.seed, val_fraction=self.val_fraction)
        return self.forced.get(where, drawn)

    def exceptions(self) -> dict[str, Any]:
        """Les exceptions, en types simples ; voir `with_exceptions`."""
        forced = [[*where, split] for where, split in self.forced.items()]
        return {"forced": forced, "single": self.single, "cut": self.cut}

    def with_exceptions(self, found: Mapping[str, Any]) -> SplitPlan:
        """Le même plan, avec les exceptions que rend `exceptions`, relues."""
        forced: dict[Where, Split] = {(*where,): split for *where, split in found["forced"]}
        single = None if found["single"] is None else (*found["single"],)
        return replace(self, forced=forced, single=single, cut=found["cut"])


@dataclass(frozen=True, kw_only=True)
class TextPiece:
    """Un morceau nettoyé d'un document, dont la part est déjà décidée."""

    text: str
    split: Split
    starts_document: bool


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """Des morceaux d'un long fichier, à la suite ; voir `RecordBlock`.

    `separated` documents y commencent après un `<|endoftext|>` écrit dans le texte.
    """

    label: str
    pieces: list[TextPiece]
    consumed: int
    separated: int = 0


Task = RecordBlock | TextBlock


@dataclass(kw_only=True)
class _Census:
    """Des documents : combien, dans quelles parts, et les deux qui bornent leurs longueurs."""

    count: int = 0
    splits: set[Split] = field(default_factory=set)
    shortest: tuple[int, Where] | None = None
    longest: tuple[int, Where] | None = None

    @classmethod
    def of(cls, where: Where, characters: int, split: Split) -> _Census:
        """D'un seul document."""
        size = (characters, where)
        return cls(count=1, splits={split}, shortest=size, longest=size)

    def merge(self, later: _Census) -> None:
        """Ajoute des documents qui suivent ; à longueur égale, le premier reste."""
        self.count += later.count
        self.splits |= later.splits
        shortest, longest = (self.shortest, later.shortest), (self.longest, later.longest)
        self.shortest = min(filter(None, shortest), key=itemgetter(0), default=None)
        self.longest = max(filter(None, longest), key=itemgetter(0), default=None)


@dataclass(kw_only=True)
class _LongText:
    """Un long fichier, lu une fois : la part de chaque document (un octet), leur longueur."""

    census: _Census = field(default_factory=_Census)
    splits: bytearray = field(default_factory=bytearray)
    characters: int = 0


class CorpusReader:
    """Lit les sources et en fait des tâches ; les longs textes ne sont mesurés qu'une fois.

    Args:
        sources: les fichiers, dans l'ordre.
        config: voir `PrepareConfig`.
        by_source: voir `SplitPlan`.

    Attributes:
        by_hash: la répartition, sans exceptions.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: PrepareConfig,
        by_source: Mapping[str, Split] | None = None,
    ) -> None:
        self.sources = sources
        self.by_hash = SplitPlan(
            seed=config.seed,
            val_fraction=config.fraction(sources),
            by_source=by_source or {},
        )
        self._config = config
        self._long: dict[str, _LongText | Rejected] = {}
        self._first: Skip | None = None

    def make_plan(self, *, skip_bad: bool = True) -> SplitPlan:
        """Décide la répartition ; lit le début du corpus, tout s'il n'a que peu de documents.

        Args:
            skip_bad: faux : s'il ne reste pas deux documents, le premier défaut est dit avant cela.

        Raises:
            DataError: aucun document, ou un seul, trop court pour être coupé.
        """
        census = _Census()
        for each in self._census():
            census.merge(each)
            if len(census.splits) == len(SPLITS):
                return self.by_hash
        if census.count < 2 and self._first is not None:
            self._first.check(skip_bad=skip_bad)
        if census.shortest is None or census.longest is None:
            first = self._first
            if first is not None and len(self.sources) == 1:
                raise first.error()
            cause = "" if first is None else f" : {first.where}, {first.reason}"
            raise DataError(
                f"aucun document dans les sources{cause}",
                expected="au moins un texte lisible, en UTF-8",
                remedy=(first and first.remedy) or "vérifiez les fichiers et `field`",
            )
        if census.count == 1:
            return self._cut_single(*census.shortest)
        # Peu de documents, donc de gros écarts : l'entraînement garde le plus de texte possible
        if census.splits == {"train"}:
            return replace(self.by_hash, forced={census.shortest[1]: "val"})
        return replace(self.by_hash, forced={census.longest[1]: "train"})

    def tasks(self, source: Source, plan: SplitPlan) -> Iterator[Task]:
        """Les tâches d'une source, toujours les mêmes.

        Raises:
            DataError: un long texte ne se relit pas comme la première fois.
        """
        measured = self._measure(source) if is_long(source) else None
        if measured is None:
            for block in self._blocks(source):
                yield from self._split_block(block, plan)
        elif isinstance(measured, Rejected):
            skips = [Skip.of(measured, source.label)]
            yield RecordBlock(label=source.label, skips=skips, consumed=source.size)
        else:
            try:
                yield from self._long_blocks(source, measured, plan)
            except Rejected as rejected:  # lu sans faute la première fois
                source.check_unchanged()
                raise DataError(
                    f"{source.label} : {rejected.reason} à la seconde lecture",
                    expected="le même contenu qu'à la première",
                    remedy="vérifiez le disque puis relancez",
                ) from None

    def _census(self) -> Iterator[_Census]:
        for source in self.sources:
            if is_long(source):
                measured = self._measure(source)
                if isinstance(measured, _LongText):
                    yield measured.census
                else:
                    self._note(Skip.of(measured, source.label))
                continue
            for block in self._blocks(source):
                for skip in block.skips:
                    self._note(skip)
                for number, record in block.records:
                    try:
                        found = documents_in(block.text_of(record, self._config.field))
                    except Rejected as rejected:  # dit quand la tâche sera codée
                        self._note(Skip.of(rejected, block.place(number)))
                        continue
                    for rank, text in found:
                        where = (block.label, number, rank)
                        yield _Census.of(where, len(text), self.by_hash.split_of(where, [text]))

    def _note(self, skip: Skip) -> None:
        """Retient le premier défaut ; à défaut, ce qui a été laissé de côté en premier."""
        if self._first is None or (self._first.reason in HARMLESS and skip.reason not in HARMLESS):
            self._first = skip

    def _blocks(self, source: Source) -> Iterator[RecordBlock]:
        field, limit = self._config.field, self._config.max_record_bytes
        return read_blocks(source, field=field, max_record_bytes=limit)

    def _measure(self, source: Source) -> _LongText | Rejected:
        """Les parts des documents d'un long fichier, dans une mémoire d'un octet par document."""
        label = source.label
        if label not in self._long:
            text = _LongText()
            try:
                for rank, chunks in stream_documents(read_chunks(source)):
                    where, count = (label, 0, rank), _Count()
                    split = self.by_hash.split_of(where, count(chunks))
                    text.splits += bytes([_BLANK]) * (rank + 1 - len(text.splits))
                    if not count.blank:
                        text.splits[rank] = SPLITS.index(split)
                        text.census.merge(_Census.of(where, count.characters, split))
                        text.characters += count.characters
                self._long[label] = text if text.characters else Rejected(EMPTY)
            except Rejected as rejected:
                self._long[label] = rejected
        return self._long[label]

    def _long_blocks(
        self, source: Source, measured: _LongText, plan: SplitPlan
    ) -> Iterator[TextBlock]:
        """Un long fichier, par blocs d'environ `PIECE_CHARACTERS` caractères."""
        pieces: list[TextPiece] = []
        position = first = separated = 0
        cut = None if plan.single is None else plan.cut

        def block() -> TextBlock:
            start, end = (source.size * each // measured.characters for each in (first, position))
            read = end - start
            return TextBlock(label=source.label, pieces=pieces, consumed=read, separated=separated)

        for rank, chunks in stream_documents(read_chunks(source)):
            code = measured.splits[rank] if rank < len(measured.splits) else _BLANK
            if code == _BLANK:
                continue
            split = plan.forced.get((source.label, 0, rank), SPLITS[code])
            separated += position > 0
            for piece in _pieces(chunks, split, cut):
                pieces.append(piece)
                position += len(piece.text)
                if position - first >= PIECE_CHARACTERS:
                    yield block()
                    first, pieces, separated = position, [], 0
        if pieces:
            yield block()

    def _cut_single(self, characters: int, where: Where) -> SplitPlan:
        if characters < 2:
            raise DataError(
                f"un seul document, de {characters} caractère",
                expected="de quoi faire deux parts",
                remedy="donnez plus de texte",
            )
        cut = int((1 - self.by_hash.val_fraction) * characters)
        return replace(self.by_hash, single=where, cut=min(max(cut, 1), characters - 1))

    def _split_block(self, block: RecordBlock, plan: SplitPlan) -> Iterator[Task]:
        """Le bloc tel quel, ou sans le seul document du corpus, rendu alors par morceaux."""
        if plan.single is None or plan.single[0] != block.label:
            yield block
            return
        alone = [record for number, record in block.records if number == plan.single[1]]
        others = [(n, record) for n, record in block.records if n != plan.single[1]]
        yield replace(block, records=others)
        for record in alone:
            ((_, text),) = documents_in(block.text_of(record, self._config.field))
            pieces = list(_pieces([text], "train", plan.cut))
            yield TextBlock(label=block.label, pieces=pieces, consumed=0)


class _Count:
    """Compte les caractères d'un document pendant qu'il passe, et voit s'il n'est que blanc."""

    def __init__(self) -> None:
        self.characters, self.blank = 0, True

    def __call__(self, chunks: Iterable[str]) -> Iterator[str]:
        for chunk in chunks:
            self.characters += len(chunk)
            self.blank = self.blank and chunk.isspace()
            yield chunk


def _pieces(chunks: Iterable[str], split: Split, cut: int | None) -> Iterator[TextPiece]:
    """Les morceaux d'un document ; avec `cut`, entraînement avant cette position, puis validation.

    La coupe recule jusqu'au blanc qui précède : les tokens restent ceux du document entier.
    """
    position = 0
    for piece in cut_pieces(chunks):
        local = len(piece) if cut is None else min(max(cut - position, 0), len(piece))
        if 0 < local < len(piece):
            local = last_boundary(piece, local) or local
        first: Split = split if cut is None else "train"
        halves: tuple[tuple[Split, str], ...] = ((first, piece[:local]), ("val", piece[local:]))
        for part, text in halves:
            if text:
                yield TextPiece(text=text, split=part, starts_document=position == 0)
                position += len(text)
