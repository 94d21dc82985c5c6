"""Une préparation en cours : lire, nettoyer s'il le faut, coder, écrire, et noter où elle en est.

`etat.json` dit, à chaque point sûr, jusqu'où les sources ont été lues et ce qui est écrit : une
relance efface ce qui a été ajouté depuis et continue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.run import CleanCorpus, Reading, share_bytes
from gpt_architecture.data.shards.encode import encode_in_order, separator_of
from gpt_architecture.data.shards.plan import CorpusReader, PrepareConfig, SplitPlan, Task
from gpt_architecture.data.shards.work import WorkFolder
from gpt_architecture.data.shards.writer import ShardWriter, check_parts, index_of, open_writers
from gpt_architecture.data.texts.documents import Skip, Split, Tally
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.data.texts.shares import WHOLE, Share, owned
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError

CHECKPOINT_BYTES = 16 << 20
"""Octets de texte codés entre deux points sûrs : quelques secondes de travail."""


class PrepareReporter(Protocol):
    """Reçoit l'avancement."""

    def on_start(self, total_bytes: int, done_bytes: int) -> None:
        """Octets de sources à lire, et déjà lus si c'est une reprise."""
        ...

    def on_progress(self, done_bytes: int, tokens: int) -> None:
        """Octets de sources lus et tokens écrits."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Ce qui est demandé, vérifié, sources trouvées.

    Attributes:
        out: dossier à écrire.
        sources: les fichiers, dans l'ordre.
        skips: ce qui n'en est pas.
        config: voir `PrepareConfig`.
        hygiene: ce qui est retiré des textes ; None : rien.
        tokenizer: celui qui code.
        identity: ce qui distingue cette préparation d'une autre.
        workers: processus.
        force: remplace une préparation d'autres réglages.
        skip_bad: écarte et compte les défauts.
        reporter: reçoit l'avancement.
    """

    out: Path
    sources: Sequence[Source]
    skips: Sequence[Skip]
    config: PrepareConfig
    hygiene: HygieneConfig | None
    tokenizer: Tokenizer
    identity: dict[str, Any]
    workers: int
    force: bool
    skip_bad: bool
    reporter: PrepareReporter | None

    @property
    def fraction(self) -> float:
        """La part de validation."""
        return self.config.fraction(self.sources)

    @property
    def reading(self) -> Reading:
        """Comment l'hygiène lit les sources."""
        return Reading(
            field=self.config.field,
            max_record_bytes=self.config.max_record_bytes,
            seed=self.config.seed,
            val_fraction=self.fraction,
            skip_bad=self.skip_bad,
        )

    def started(self, total: int, done: int = 0) -> None:
        """Annonce le travail."""
        if self.reporter is not None:
            self.reporter.on_start(total, done)

    def advanced(self, done: int, tokens: int = 0) -> None:
        """Dit où il en est."""
        if self.reporter is not None:
            self.reporter.on_progress(done, tokens)

    def encode(self, work: WorkFolder, share: Share | None = None) -> dict[str, Any]:
        """Code les sources telles quelles, ou la part d'une tâche ; rend l'index."""
        reader = CorpusReader(self.sources, self.config)
        tally = Tally()
        if share is None:  # sinon, c'est la réunion qui les compte
            tally.add_skips(self.skips)
        is_part = share is not None
        return _Job(self, reader, self.config, work, share or WHOLE, is_part=is_part).run(tally)

    def encode_clean(
        self, work: WorkFolder, clean: CleanCorpus, *, is_part: bool = False
    ) -> dict[str, Any]:
        """Code ce que l'hygiène laisse et rend l'index.

        Args:
            work: dossier de travail.
            clean: ce que l'hygiène laisse.
            is_part: ce n'est que la part d'une tâche : elle peut être vide, et rien n'y corrige le
                hasard de la répartition.

        Raises:
            DataError: elle n'a rien laissé.
        """
        if not (clean.sources or is_part):
            reasons = ", ".join(clean.report["effects"]) or ", ".join(clean.tally.skipped)
            raise DataError(
                f"l'hygiène n'a rien laissé des {clean.report['read']['documents']} documents lus"
                f" ({reasons})",
                expected="au moins un document gardé",
                remedy="relâchez ses seuils ou éteignez des étapes",
            )
        config = replace(
            self.config, field="text", max_record_bytes=1 << 30, val_fraction=self.fraction
        )
        reader = CorpusReader(clean.sources, config, clean.splits)
        plan = reader.by_hash if is_part else None
        index = _Job(self, reader, config, work, WHOLE, is_part=is_part).run(Tally(), plan)
        if not is_part:
            clean.tally.add_skips(self.skips)
        index["separated"] = clean.tally.separated
        index["skipped"] = clean.tally.skipped
        index["hygiene"] = clean.report
        return index


@dataclass(frozen=True)
class _Job:
    """Le codage ; `is_part` : ce n'est que la part d'une tâche, qui peut être vide."""

    asked: Preparation
    reader: CorpusReader
    config: PrepareConfig
    work: WorkFolder
    share: Share
    is_part: bool

    def run(self, tally: Tally, plan: SplitPlan | None = None) -> dict[str, Any]:
        """Fait le travail qui reste et rend l'index ; sans `plan`, il est décidé ici."""
        state, tokenizer, skip_bad = self.work.state, self.asked.tokenizer, self.asked.skip_bad
        if state is None or "plan" not in state:
            state, start = None, (0, 0)
            plan = self.reader.make_plan(skip_bad=skip_bad) if plan is None else plan
        else:
            plan = self.reader.by_hash.with_exceptions(state["plan"])
            tally, start = Tally(**state["tally"]), (*state["position"],)
        writers = open_writers(
            self.work.path,
            shard_tokens=self.config.shard_tokens,
            eos_id=separator_of(tokenizer),
            state=None if state is None else state["writers"],
        )
        self.asked.started(share_bytes(self.reader.sources, self.share), tally.done_bytes)
        since = 0
        try:
            tasks, field = self._tasks(plan, start), self.config.field
            workers = self.asked.workers
            results = encode_in_order(tasks, tokenizer, plan, field=field, workers=workers)
            for position, encoded in results:
                for skip in encoded.skips:
                    skip.check(skip_bad=skip_bad)
                for split, tokens in encoded.tokens.items():
                    writers[split].append(tokens)
                if self.asked.hygiene is None:  # nettoyés, ils n'ont plus leur source
                    source = self.reader.sources[position[0]]
                    tally.add_origin(source.short_name, encoded.documents(tokenizer))
                tally.add(encoded.consumed, encoded.text_bytes, encoded.separated, encoded.skips)
                since += encoded.text_bytes
                if since >= CHECKPOINT_BYTES:
                    self._save(plan, tally, position, writers)
                    since = 0
                written = sum(writer.num_tokens for writer in writers.values())
                self.asked.advanced(tally.done_bytes, written)
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        entries = {split: writer.shards for split, writer in writers.items()}
        if not self.is_part:
            check_parts(entries)
        return index_of(
            self.work.identity,
            tokenizer,
            entries,
            text_bytes=tally.text_bytes,
            single_document=plan.single is not None,
            separated=tally.separated,
            skipped=tally.skipped,
            origins=tally.origins,
        )

    def _save(
        self,
        plan: SplitPlan,
        tally: Tally,
        position: tuple[int, int],
        writers: dict[Split, ShardWriter],
    ) -> None:
        self.work.save_state(
            {
                "plan": plan.exceptions(),
                "tally": asdict(tally),
                "position": position,
                "writers": {split: each.flush() for split, each in writers.items()},
            }
        )

    def _tasks(
        self, plan: SplitPlan, start: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Task]]:
        """Les tâches depuis `start`, chacune avec la position qui la suit."""

        def blocks(source: Source) -> Iterator[Task]:
            return self.reader.tasks(source, plan)

        owning = owned(self.reader.sources, blocks, self.share, begin=start[0])
        for rank, number, task in owning:
            if (rank, number) >= start:
                yield (rank, number + 1), task
