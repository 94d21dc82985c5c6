"""D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il le faut.

Le travail se fait dans `DIR.incomplete`, renommé en `DIR` quand tout y est. `etat.json` dit,
à chaque point sûr, jusqu'où les sources ont été lues et ce qui est écrit : une relance efface
ce qui a été ajouté depuis et continue. Le résultat ne dépend ni du nombre de processus, ni des
interruptions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from gpt_architecture.config import check_int
from gpt_architecture.data.shards.encode import (
    EncodingOptions,
    Task,
    encode_in_order,
    separator_of,
)
from gpt_architecture.data.shards.layout import (
    INDEX_FORMAT,
    INDEX_VERSION,
    MAX_VOCABULARY,
    SPLIT_NAMES,
    SPLITS,
    ShardWriter,
    Split,
    tokenizer_sha256,
)
from gpt_architecture.data.shards.plan import CorpusReader, PrepareConfig, SplitPlan
from gpt_architecture.data.shards.work_folder import (
    WorkFolder,
    read_present,
)
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.texts.documents import Skip, Tally
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, OutputError, TokenizerError, reason

CHECKPOINT_BYTES = 16 << 20
"""Octets de texte codés entre deux points sûrs : quelques secondes de travail."""
_SMALL_CORPUS_BYTES = 8 << 20  # en dessous, lancer des processus coûte plus que coder


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
    outcome: Literal["new", "resumed", "present"]

    @property
    def bytes_per_token(self) -> float:
        """Octets de texte par token de texte, séparateurs exclus."""
        return self.text_bytes / (sum(self.tokens.values()) - sum(self.documents.values()))

    @classmethod
    def from_index(
        cls,
        folder: Path | str,
        index: dict[str, Any],
        outcome: Literal["new", "resumed", "present"],
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
    reporter: PrepareReporter | None = None,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
) -> PreparedTokens:
    """Prépare des fichiers texte, JSONL et Parquet en fragments de tokens.

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
        reporter: reçoit l'avancement.
        checkpoint_bytes: octets de texte entre deux points sûrs.

    Raises:
        DataError: sources absentes, vides, ou changées en cours de route.
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
    eos_id = separator_of(tokenizer)
    found, skips = find_texts(sources, offline=True)
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
                job = _Job(found, config, tokenizer, eos_id, work, reporter)
                index = job.run(skips, workers or _auto_workers(found), checkpoint_bytes)
            work.publish(index)
            return PreparedTokens.from_index(out, index, "resumed" if work.resumed else "new")
    except OSError as error:
        raise OutputError(
            f"préparation de {out} arrêtée : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place puis relancez la même commande, elle reprend",
        ) from error


class _Job:
    """Une préparation en cours : lit, code, écrit, et note où elle en est."""

    def __init__(
        self,
        sources: Sequence[Source],
        config: PrepareConfig,
        tokenizer: Tokenizer,
        eos_id: int,
        work: WorkFolder,
        reporter: PrepareReporter | None,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._eos_id = eos_id
        self._work = work
        self._reporter = reporter
        self._reader = CorpusReader(sources, config)
        self._total_bytes = sum(source.size for source in sources)

    def run(self, skips: Sequence[Skip], workers: int, checkpoint_bytes: int) -> dict[str, Any]:
        """Fait le travail qui reste et rend l'index."""
        state = self._work.state
        if state is None:
            plan, tally, start = self._reader.make_plan(), Tally(), (0, 0)
            tally.add_skips(skips)
        else:
            plan, tally = SplitPlan.from_dict(state["plan"]), Tally.from_dict(state["tally"])
            start = (state["position"][0], state["position"][1])
        writers = {
            split: ShardWriter(
                self._work.path,
                split,
                shard_tokens=self._config.shard_tokens,
                eos_id=self._eos_id,
                state=None if state is None else state["writers"][split],
            )
            for split in SPLITS
        }
        options = EncodingOptions(
            field=self._config.field,
            seed=self._config.seed,
            val_fraction=self._config.fraction(self._reader.sources),
            forced=plan.forced,
        )
        if self._reporter is not None:
            self._reporter.on_start(self._total_bytes, tally.done_bytes)
        since = 0
        try:
            results = encode_in_order(
                self._tasks(plan, start), self._tokenizer, options, workers=workers
            )
            for position, encoded in results:
                for split, tokens in encoded.tokens.items():
                    writers[split].append(tokens)
                tally.done_bytes += encoded.consumed
                tally.text_bytes += encoded.text_bytes
                tally.separated += encoded.separated
                tally.add_skips(encoded.skips)
                since += encoded.text_bytes
                if since >= checkpoint_bytes:
                    self._save(plan, tally, position, writers)
                    since = 0
                if self._reporter is not None:
                    written = sum(writer.num_tokens for writer in writers.values())
                    self._reporter.on_progress(tally.done_bytes, written)
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
        for index, source in enumerate(self._reader.sources):
            if index < start[0]:
                continue
            for number, task in enumerate(self._reader.tasks(source, plan)):
                if index > start[0] or number >= start[1]:
                    yield (index, number + 1), task

    def _save(
        self,
        plan: SplitPlan,
        tally: Tally,
        position: tuple[int, int],
        writers: dict[Split, ShardWriter],
    ) -> None:
        for writer in writers.values():
            writer.flush()
        self._work.save_state(
            {
                "plan": plan.to_dict(),
                "tally": tally.to_dict(),
                "position": list(position),
                "writers": {split: writer.state() for split, writer in writers.items()},
            }
        )

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
        settings = dict(self._work.identity)
        return {
            "format": INDEX_FORMAT,
            "version": INDEX_VERSION,
            "tokenizer": self._tokenizer.to_dict(),
            "tokenizer_sha256": settings.pop("tokenizer_sha256"),
            "vocab_size": self._tokenizer.vocab_size,
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


def _auto_workers(sources: Sequence[Source]) -> int:
    if sum(source.size for source in sources) < _SMALL_CORPUS_BYTES:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
