"""D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il le faut.

Le travail se fait dans `DIR.incomplete`, renommé en `DIR` quand tout y est. `etat.json` dit,
à chaque point sûr, jusqu'où les sources ont été lues et ce qui est écrit : une relance efface
ce qui a été ajouté depuis et continue. Le résultat ne dépend ni du nombre de processus, ni des
interruptions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from gpt_architecture.config import check_int
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.run import Reading, clean_corpus, identity_of
from gpt_architecture.data.shards.encode import encode_in_order, separator_of
from gpt_architecture.data.shards.layout import (
    INDEX_FORMAT,
    INDEX_VERSION,
    MAX_VOCABULARY,
    WORK_NAME,
    WorkFolder,
    read_present,
    tokenizer_sha256,
)
from gpt_architecture.data.shards.plan import CorpusReader, PrepareConfig, SplitPlan, Task
from gpt_architecture.data.shards.writer import ShardWriter
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.texts.documents import SPLIT_NAMES, SPLITS, Skip, Split, Tally
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, OutputError, TokenizerError, reason

CHECKPOINT_BYTES = 16 << 20
"""Octets de texte codés entre deux points sûrs : quelques secondes de travail."""
_SMALL_CORPUS_BYTES = 8 << 20  # en dessous, lancer des processus coûte plus que coder

Outcome = Literal["new", "resumed", "present", "dry"]


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
        outcome: `new`, `resumed` (une préparation interrompue a été finie), `present`, ou `dry`
            (rien n'a été gardé).
        hygiene: ce que l'hygiène a lu, gardé et retiré ; None : aucune.
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
    hygiene: dict[str, Any] | None = None

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
            hygiene=index.get("hygiene"),
        )


def prepare_tokens(
    sources: Sequence[str | Path],
    out: Path | str,
    *,
    tokenizer: Tokenizer,
    config: PrepareConfig = PrepareConfig(),  # noqa: B008
    hygiene: HygieneConfig | None = None,
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
        hygiene: ce qui est retiré des textes avant de les coder ; None : rien.
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
        MissingDependencyError: une étape d'hygiène demande une bibliothèque absente.
    """
    out = Path(out)
    if hygiene is not None and not hygiene.does_something:
        hygiene = None
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
    if hygiene is not None:
        identity["hygiene"] = identity_of(hygiene)
    try:
        present = read_present(out, identity, force=force)
        if present is not None:
            return PreparedTokens.from_index(out, present, "present")
        with WorkFolder(out, identity, force=force) as work:
            if (index := work.finished_index()) is None:
                crew = workers or _auto_workers(found)
                if hygiene is None:
                    job = _Job(
                        CorpusReader(found, config), config, tokenizer, work, reporter, skip_bad
                    )
                    index = job.run(skips, crew)
                else:
                    index = _run_clean(
                        found, skips, hygiene, config, tokenizer, work, reporter, crew, skip_bad
                    )
            work.publish(index)
            return PreparedTokens.from_index(out, index, "resumed" if work.resumed else "new")
    except OSError as error:
        raise OutputError(
            f"préparation de {out} arrêtée : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place puis relancez la même commande, elle reprend",
        ) from error


def _run_clean(
    sources: Sequence[Source],
    skips: Sequence[Skip],
    hygiene: HygieneConfig,
    config: PrepareConfig,
    tokenizer: Tokenizer,
    work: WorkFolder,
    reporter: PrepareReporter | None,
    workers: int,
    skip_bad: bool,
) -> dict[str, Any]:
    """Nettoie les sources, code ce qui en reste, et rend l'index."""
    if work.state is None:
        work.save_state({})  # une interruption ne fera pas effacer ce que l'hygiène a déjà fait
    fraction = config.fraction(sources)
    if reporter is not None:
        reporter.on_start(2 * _total_bytes(sources), 0)

    def advance(done: int, _total: int) -> None:
        if reporter is not None:
            reporter.on_progress(done, 0)

    clean = clean_corpus(
        sources,
        work.path.resolve() / WORK_NAME,  # l'état du codage nomme ses fichiers
        hygiene,
        Reading(
            field=config.field,
            max_record_bytes=config.max_record_bytes,
            seed=config.seed,
            val_fraction=fraction,
            skip_bad=skip_bad,
        ),
        workers=workers,
        on_progress=advance,
    )
    if not clean.sources:
        reasons = ", ".join(clean.report["effects"]) or ", ".join(clean.tally.skipped)
        raise DataError(
            f"l'hygiène n'a rien laissé des {clean.report['read']['documents']} documents lus"
            f" ({reasons})",
            expected="au moins un document gardé",
            remedy="relâchez ses seuils ou éteignez des étapes",
        )
    encoding = replace(config, field="text", max_record_bytes=1 << 30, val_fraction=fraction)
    reader = CorpusReader(clean.sources, encoding, clean.splits)
    index = _Job(reader, encoding, tokenizer, work, reporter, skip_bad).run((), workers)
    clean.tally.add_skips(skips)
    index["separated"] = clean.tally.separated
    index["skipped"] = clean.tally.skipped
    index["hygiene"] = clean.report
    return index


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
        if state is None or "plan" not in state:
            state = None
            plan, tally, start = self.reader.make_plan(skip_bad=self.skip_bad), Tally(), (0, 0)
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


def _total_bytes(sources: Sequence[Source]) -> int:
    return sum(source.size for source in sources)


def _auto_workers(sources: Sequence[Source]) -> int:
    if _total_bytes(sources) < _SMALL_CORPUS_BYTES:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
