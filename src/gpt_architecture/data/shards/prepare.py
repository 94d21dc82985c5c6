"""D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il le faut.

Le travail se fait dans `DIR.incomplete`, renommé en `DIR` quand tout y est. `etat.json` dit,
à chaque point sûr, jusqu'où les sources ont été lues et ce qui est écrit : une relance efface
ce qui a été ajouté depuis et continue. Le résultat ne dépend ni du nombre de processus, ni des
interruptions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import check_int
from gpt_architecture.data.shards.encode import encode_in_order, separator_of
from gpt_architecture.data.shards.layout import (
    HEADER_BYTES,
    INDEX_FORMAT,
    INDEX_VERSION,
    MAX_VOCABULARY,
    TOKEN_DTYPE,
    ShardEntry,
    WorkFolder,
    file_sha256,
    header,
    read_present,
    tokenizer_sha256,
)
from gpt_architecture.data.shards.plan import CorpusReader, PrepareConfig, SplitPlan, Task
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.texts.documents import SPLIT_NAMES, SPLITS, Skip, Split, Tally
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, OutputError, TokenizerError, reason

CHECKPOINT_BYTES = 16 << 20
"""Octets de texte codés entre deux points sûrs : quelques secondes de travail."""
_SMALL_CORPUS_BYTES = 8 << 20  # en dessous, lancer des processus coûte plus que coder

Outcome = Literal["new", "resumed", "present"]


class PrepareReporter(Protocol):
    """Reçoit l'avancement."""

    def on_start(self, total_bytes: int, done_bytes: int) -> None:
        """Octets de sources à lire, et déjà lus si c'est une reprise."""
        ...

    def on_progress(self, done_bytes: int, tokens: int) -> None:
        """Octets de sources lus et tokens écrits."""
        ...


@dataclass(frozen=True, kw_only=True)
class PreparedTokens:
    """Ce que contient un dossier préparé.

    Attributes:
        folder: le dossier.
        tokens: tokens de chaque part, séparateurs compris.
        documents: documents commencés dans chaque part.
        text_bytes: octets UTF-8 du texte codé.
        val_fraction: part de validation demandée, ou choisie d'après la taille.
        separated: documents qui suivent un `<|endoftext|>` écrit dans les textes.
        skipped: raison → {"count", "examples"}.
        single_document: un seul document, coupé par position.
        outcome: `new`, `resumed` (une préparation interrompue a été finie) ou `present`.
    """

    folder: Path
    tokens: dict[Split, int]
    documents: dict[Split, int]
    text_bytes: int
    val_fraction: float
    separated: int
    skipped: dict[str, dict[str, Any]]
    single_document: bool
    outcome: Outcome

    @property
    def bytes_per_token(self) -> float:
        """Octets de texte par token de texte, séparateurs exclus."""
        return self.text_bytes / (sum(self.tokens.values()) - sum(self.documents.values()))

    @classmethod
    def from_index(
        cls, folder: Path | str, index: dict[str, Any], outcome: Outcome
    ) -> PreparedTokens:
        """Depuis l'index du dossier."""
        return cls(
            folder=Path(folder),
            tokens={split: index["splits"][split]["tokens"] for split in SPLITS},
            documents={split: index["splits"][split]["documents"] for split in SPLITS},
            text_bytes=index["text_bytes"],
            val_fraction=index["settings"]["val_fraction"],
            separated=index.get("separated", 0),
            skipped=index["skipped"],
            single_document=index["single_document"],
            outcome=outcome,
        )


def prepare_tokens(
    sources: Sequence[str | Path],
    out: Path | str,
    *,
    tokenizer: Tokenizer,
    config: PrepareConfig = PrepareConfig(),  # noqa: B008
    workers: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    offline: bool = True,
    reporter: PrepareReporter | None = None,
) -> PreparedTokens:
    """Prépare des textes en fragments de tokens.

    Chaque document est précédé de `<|endoftext|>`, comme dans llm.c ; écrit dans un texte,
    celui-ci sépare deux documents. La part d'un document dépend de son texte et de la graine
    seuls ; aucune des deux parts n'est vide.

    Args:
        sources: fichiers et dossiers, ou noms de corpus (voir `data.texts.corpus.find_texts`).
        out: dossier à écrire, absent ou vide.
        tokenizer: au plus 65 536 tokens, dont `<|endoftext|>`.
        config: voir `PrepareConfig`.
        workers: processus ; None : un par cœur, un seul pour un petit corpus.
        force: remplace un dossier préparé autrement, ou recommence une préparation interrompue
            avec d'autres réglages.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros ; sinon, le premier
            défaut arrête la préparation, qu'une relance reprend. Le vide est toujours écarté.
        offline: interdit tout téléchargement.
        reporter: reçoit l'avancement.

    Raises:
        DataError: sources absentes, vides, ou changées en cours de route ; ou un défaut.
        OutputError: dossier occupé, d'autres réglages, ou disque plein.
        TokenizerError: vocabulaire trop grand, sans séparateur, ou mot inconnu.
    """
    out = Path(out)
    if workers is not None:
        check_int("workers", workers, minimum=1, maximum=1024)
    if tokenizer.vocab_size > MAX_VOCABULARY:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} a {tokenizer.vocab_size} tokens",
            expected=f"au plus {MAX_VOCABULARY}, que des entiers de 16 bits peuvent numéroter",
            remedy="prenez gpt2 ou un vocabulaire plus petit",
        )
    separator_of(tokenizer)  # refuse avant de rien lire
    found, skips = find_texts(sources, offline=offline)
    for skip in skips:
        skip.check(skip_bad=skip_bad)
    identity = {
        **asdict(config),
        "val_fraction": config.fraction(found),
        "tokenizer_sha256": tokenizer_sha256(tokenizer.to_dict()),
        "sources": [
            {"path": str(s.path), "bytes": s.size, "modified_ns": s.modified_ns} for s in found
        ],
    }
    try:
        present = read_present(out, identity, force=force)
        if present is not None:
            return PreparedTokens.from_index(out, present, "present")
        with WorkFolder(out, identity, force=force) as work:
            if (index := work.finished_index()) is None:
                job = _Job(CorpusReader(found, config), config, tokenizer, work, reporter, skip_bad)
                index = job.run(skips, workers or _auto_workers(found))
            work.publish(index)
            return PreparedTokens.from_index(out, index, "resumed" if work.resumed else "new")
    except OSError as error:
        raise OutputError(
            f"préparation de {out} arrêtée : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place puis relancez la même commande, elle reprend",
        ) from error


@dataclass(frozen=True)
class _Job:
    """Une préparation en cours : lit, code, écrit, et note où elle en est."""

    reader: CorpusReader
    config: PrepareConfig
    tokenizer: Tokenizer
    work: WorkFolder
    reporter: PrepareReporter | None
    skip_bad: bool

    def run(self, skips: Sequence[Skip], workers: int) -> dict[str, Any]:
        """Fait le travail qui reste et rend l'index."""
        state = self.work.state
        if state is None:
            plan, tally, start = self.reader.make_plan(), Tally(), (0, 0)
            tally.add_skips(skips)
        else:
            plan = self.reader.by_hash.with_exceptions(state["plan"])
            tally, start = Tally(**state["tally"]), (*state["position"],)
        writers = {
            split: ShardWriter(
                self.work.path,
                split,
                shard_tokens=self.config.shard_tokens,
                eos_id=separator_of(self.tokenizer),
                state=None if state is None else state["writers"][split],
            )
            for split in SPLITS
        }
        if self.reporter is not None:
            self.reporter.on_start(_total_bytes(self.reader.sources), tally.done_bytes)
        since = 0
        try:
            tasks, field = self._tasks(plan, start), self.config.field
            results = encode_in_order(tasks, self.tokenizer, plan, field=field, workers=workers)
            for position, encoded in results:
                for skip in encoded.skips:
                    skip.check(skip_bad=self.skip_bad)
                for split, tokens in encoded.tokens.items():
                    writers[split].append(tokens)
                tally.add(encoded.consumed, encoded.text_bytes, encoded.separated, encoded.skips)
                since += encoded.text_bytes
                if since >= CHECKPOINT_BYTES:
                    self.work.save_state(
                        {
                            "plan": plan.exceptions(),
                            "tally": asdict(tally),
                            "position": position,
                            "writers": {split: each.flush() for split, each in writers.items()},
                        }
                    )
                    since = 0
                if self.reporter is not None:
                    written = sum(writer.num_tokens for writer in writers.values())
                    self.reporter.on_progress(tally.done_bytes, written)
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        return self._index(plan, tally, writers)

    def _tasks(
        self, plan: SplitPlan, start: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Task]]:
        """Les tâches depuis `start`, chacune avec la position qui la suit."""
        for index, source in enumerate(self.reader.sources):
            if index < start[0]:
                continue
            for number, task in enumerate(self.reader.tasks(source, plan)):
                if index > start[0] or number >= start[1]:
                    yield (index, number + 1), task

    def _index(
        self, plan: SplitPlan, tally: Tally, writers: dict[Split, ShardWriter]
    ) -> dict[str, Any]:
        for split, writer in writers.items():
            if not writer.num_tokens:
                raise DataError(
                    f"la part de {SPLIT_NAMES[split]} n'a aucun token",
                    expected="au moins un mot dans chaque part",
                    remedy="donnez plus de texte",
                )
        settings = dict(self.work.identity)
        return {
            "format": INDEX_FORMAT,
            "version": INDEX_VERSION,
            "tokenizer": self.tokenizer.to_dict(),
            "tokenizer_sha256": settings.pop("tokenizer_sha256"),
            "vocab_size": self.tokenizer.vocab_size,
            "splits": {
                split: {
                    "tokens": writer.num_tokens,
                    "documents": writer.num_documents,
                    "shards": [asdict(entry) for entry in writer.shards],
                }
                for split, writer in writers.items()
            },
            "text_bytes": tally.text_bytes,
            "single_document": plan.single is not None,
            "sources": settings.pop("sources"),
            "separated": tally.separated,
            "skipped": tally.skipped,
            "settings": settings,
        }


class ShardWriter:
    """Ajoute des tokens à la suite, et commence un fragment quand le précédent est plein.

    L'écriture se reprend à chaque point sûr : un `ShardWriter` bâti de ce que rend `flush` efface
    ce qui l'a suivi.

    Args:
        folder: dossier existant.
        split: part, début du nom des fichiers.
        shard_tokens: tokens d'un fragment plein.
        eos_id: token qui précède chaque document ; il les compte.
        state: rendu par `flush` avant une interruption ; None : rien n'est écrit.

    Raises:
        DataError: le fragment en cours est plus court que ne le dit `state`.
    """

    def __init__(
        self,
        folder: Path | str,
        split: Split,
        *,
        shard_tokens: int,
        eos_id: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        self._folder, self._split = Path(folder), split
        self._shard_tokens, self._eos_id = shard_tokens, eos_id
        state = state or {"shards": [], "tokens": 0, "documents": 0}
        self.shards = [ShardEntry(**entry) for entry in state["shards"]]
        self._tokens: int = state["tokens"]
        self._documents: int = state["documents"]
        kept = {entry.name for entry in self.shards} | ({self._name} if self._tokens else set())
        for path in self._folder.glob(f"{split}_*.bin"):
            if path.name not in kept:
                path.unlink()
        self._file: BinaryIO | None = None
        if self._tokens:
            self._file = self._reopen()

    @property
    def num_tokens(self) -> int:
        """Tokens écrits, fragment en cours compris."""
        return sum(entry.tokens for entry in self.shards) + self._tokens

    @property
    def num_documents(self) -> int:
        """Documents commencés."""
        return sum(entry.documents for entry in self.shards) + self._documents

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Écrit des tokens, (N,) uint16."""
        start = 0
        while start < tokens.size:
            if self._file is None:
                self._file = (self._folder / self._name).open("wb")
                self._file.write(bytes(HEADER_BYTES))  # le vrai est écrit en dernier
            part = tokens[start : start + self._shard_tokens - self._tokens]
            self._file.write(part.astype(TOKEN_DTYPE, copy=False).tobytes())
            self._tokens += part.size
            self._documents += int(np.count_nonzero(part == self._eos_id))
            start += part.size
            if self._tokens == self._shard_tokens:
                self._finish_shard()

    def flush(self) -> dict[str, Any]:
        """Vide le fragment en cours sur disque ; rend ce qui est écrit, en types simples."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        shards = [asdict(entry) for entry in self.shards]
        return {"shards": shards, "tokens": self._tokens, "documents": self._documents}

    def close(self) -> None:
        """Termine le fragment en cours."""
        if self._file is not None:
            self._finish_shard()

    def abandon(self) -> None:
        """Ferme le fichier sans terminer le fragment ; ce qui reste à écrire peut être perdu."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # disque plein : l'erreur d'origine suit son cours
                file.close()

    @property
    def _name(self) -> str:
        return f"{self._split}_{len(self.shards):06d}.bin"

    def _reopen(self) -> BinaryIO:
        path = self._folder / self._name
        size = HEADER_BYTES + self._tokens * TOKEN_DTYPE.itemsize
        if not path.is_file() or path.stat().st_size < size:
            raise DataError(
                f"{path} est plus court que ne le dit l'état de la préparation",
                expected=f"au moins {size} octets",
                remedy="recommencez avec `force`",
            )
        file = path.open("r+b")
        file.truncate(size)
        file.seek(size)
        return file

    def _finish_shard(self) -> None:
        assert self._file is not None  # noqa: S101 — appelé fragment ouvert
        self._file.seek(0)
        self._file.write(header(self._tokens))
        self.flush()
        self._file.close()
        self._file = None
        entry = ShardEntry(
            name=self._name,
            tokens=self._tokens,
            documents=self._documents,
            sha256=file_sha256(self._folder / self._name),
        )
        self.shards.append(entry)
        self._tokens = self._documents = 0


def _total_bytes(sources: Sequence[Source]) -> int:
    return sum(source.size for source in sources)


def _auto_workers(sources: Sequence[Source]) -> int:
    if _total_bytes(sources) < _SMALL_CORPUS_BYTES:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
