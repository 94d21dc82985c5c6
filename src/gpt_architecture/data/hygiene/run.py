"""L'hygiène d'un corpus : deux passes, des décisions entre elles, en parallèle, reprises.

La première passe lit les sources et nettoie chaque document ; ses empreintes décident de ce qui se
répète ; la seconde applique ces décisions. Chaque passe se fait par tâches, qui écrivent chacune
leurs fichiers (`Store`) : ni l'ordre, ni le nombre des processus, ni les interruptions ne changent
un octet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpt_architecture.data.hygiene.batch import Batch, union
from gpt_architecture.data.hygiene.clean import (
    Cleaner,
    Located,
    RawBlock,
    check_dependencies,
    sections,
)
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.decide import decide
from gpt_architecture.data.hygiene.effects import Effects
from gpt_architecture.data.hygiene.prune import Pruner
from gpt_architecture.data.hygiene.store import (
    Store,
    read_object,
    write_arrays,
    write_object,
    write_texts,
)
from gpt_architecture.data.shards.plan import is_long
from gpt_architecture.data.shards.workers import run_in_order
from gpt_architecture.data.texts.corpus import find_texts, read_documents
from gpt_architecture.data.texts.documents import (
    SPLITS,
    Rejected,
    Skip,
    Split,
    Tally,
    stream_documents,
)
from gpt_architecture.data.texts.ingest import Source, check_text, read_blocks, read_chunks
from gpt_architecture.data.texts.shares import WHOLE, Share, owned
from gpt_architecture.errors import DataError

TASK_BYTES = 4 << 20
"""Octets bruts d'une tâche, environ."""

Progress = Callable[[int, int], None]
"""Reçoit les octets faits et leur total."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Comment lire et répartir les sources.

    Attributes:
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        max_record_bytes: une ligne ou une valeur plus longue est écartée.
        seed: graine de la répartition.
        val_fraction: part de la validation.
        skip_bad: écarte et compte ce qui est illisible ; sinon, le premier défaut arrête tout.
    """

    field: str | None
    max_record_bytes: int
    seed: int
    val_fraction: float
    skip_bad: bool


@dataclass(frozen=True, kw_only=True)
class CleanCorpus:
    """Ce que l'hygiène laisse, prêt à coder.

    Attributes:
        sources: des fichiers JSONL, champ `text`.
        splits: part des documents de chacun, par son libellé.
        report: ce qui est entré, sorti, et ce qui a été retiré ; en types simples.
        tally: octets lus et enregistrements écartés.
    """

    sources: list[Source]
    splits: dict[str, Split]
    report: dict[str, Any]
    tally: Tally


def clean_corpus(
    sources: Sequence[Source],
    folder: Path | str,
    config: HygieneConfig,
    reading: Reading,
    *,
    share: Share = WHOLE,
    workers: int,
    on_progress: Progress = lambda _done, _total: None,
) -> CleanCorpus:
    """Nettoie des sources, ou finit de le faire.

    Args:
        sources: les fichiers, dans l'ordre.
        folder: dossier de travail ; ce qu'une interruption y a laissé est repris.
        config: les étapes.
        reading: voir `Reading`.
        share: la part des sources à nettoyer, comme si elle était seule.
        workers: processus ; 1 : celui-ci.
        on_progress: reçoit l'avancement des deux passes.

    Raises:
        DataError: une source a changé, un processus est mort, ou un fichier de travail est abîmé.
        MissingDependencyError: une bibliothèque facultative manque.
        OutputError: le disque refuse.
    """
    check_dependencies(config)
    store, half = Store(folder), share_bytes(sources, share)
    store.folder.mkdir(parents=True, exist_ok=True)
    if config.evaluation and not store.census.exists() and not store.references.exists():
        write_references(store, config)
    tasks = first_pass(
        store,
        sources,
        config,
        reading,
        share=share,
        workers=workers,
        on_progress=lambda done: on_progress(done, 2 * half),
    )
    if not store.decisions.exists():
        decide(store, tasks, config)
    second_pass(
        store,
        range(tasks),
        config,
        workers=workers,
        on_progress=lambda done: on_progress(half + half * done // tasks, 2 * half),
    )
    return gathered(store, range(tasks))


def share_bytes(sources: Sequence[Source], share: Share) -> int:
    """Octets de la plage d'une tâche."""
    total = sum(source.size for source in sources)
    low, high = share.bounds(total)
    return min(high, total) - low


def first_pass(
    store: Store,
    sources: Sequence[Source],
    config: HygieneConfig,
    reading: Reading,
    *,
    share: Share = WHOLE,
    workers: int,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> int:
    """Lit et nettoie chaque document seul, et écrit ses empreintes ; rend le nombre de tâches.

    Args:
        store: le dossier de travail ; ce qu'une interruption y a laissé est repris.
        share: la part des sources à lire.
        on_progress: reçoit les octets lus.

    Raises:
        DataError: voir `clean_corpus`.
    """
    if not store.census.exists():
        store.folder.mkdir(parents=True, exist_ok=True)
        done = tasks = 0
        make = partial(_FirstPass, store, config, reading)
        missing = _missing(store, raw_tasks(sources, reading, share))
        for number, consumed in run_in_order(missing, make, workers=workers):
            tasks, done = number, done + consumed
            on_progress(done)
        write_object(store.census, {"tasks": tasks})
    return store.count()


def second_pass(
    store: Store,
    tasks: Sequence[int],
    config: HygieneConfig,
    *,
    workers: int,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> None:
    """Applique les décisions aux documents de ces tâches.

    Args:
        store: le dossier de travail, décisions prises.
        tasks: leurs numéros.
        on_progress: reçoit le nombre de tâches faites.
    """
    left = [task for task in tasks if not store.second_report(task).exists()]
    for number, _ in run_in_order(
        ((task, task) for task in left), partial(Pruner, store, config), workers=workers
    ):
        store.texts(number).unlink(missing_ok=True)
        on_progress(number + 1 - tasks[0])


def raw_tasks(
    sources: Sequence[Source], reading: Reading, share: Share = WHOLE
) -> Iterator[list[RawBlock]]:
    """Les tâches de la première passe, toujours les mêmes : d'environ `TASK_BYTES`.

    Raises:
        DataError: une source a changé depuis le début.
    """
    task, size = list[RawBlock](), 0
    for _, _, block in owned(sources, partial(_raw_blocks, reading=reading), share):
        task.append(block)
        size += block.size
        if size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _raw_blocks(source: Source, reading: Reading) -> Iterator[RawBlock]:
    if not is_long(source):
        limit = reading.max_record_bytes
        for block in read_blocks(source, field=reading.field, max_record_bytes=limit):
            yield RawBlock(records=block, consumed=block.consumed)
        return
    try:  # un fichier fautif est écarté entier : il est lu d'abord, comme sans hygiène
        check_text(source)
    except Rejected as rejected:
        yield RawBlock(skips=[Skip.of(rejected, source.label)], consumed=source.size)
        return
    documents, size, left = list[Located](), 0, source.size
    before: str | None = None
    separated = 0
    for rank, chunks in stream_documents(read_chunks(source)):
        where = f"{source.label}#{rank + 1}" if rank else source.label
        for section in sections(chunks):
            separated += before is not None and where != before
            before = where
            documents.append((where, section))
            size += len(section)
            if size >= TASK_BYTES:
                read = min(left, size)
                yield RawBlock(documents=documents, consumed=read, separated=separated)
                documents, size, left, separated = [], 0, left - read, 0
    yield RawBlock(documents=documents, consumed=left, separated=separated)


def _missing(
    store: Store, tasks: Iterator[list[RawBlock]]
) -> Iterator[tuple[int, tuple[int, list[RawBlock]]]]:
    """Les tâches numérotées ; celles qui sont déjà faites sont vides, pour n'être que comptées."""
    for number, task in enumerate(tasks):
        done = store.prints(number).exists()
        yield number + 1, (number, [RawBlock(consumed=b.consumed) for b in task] if done else task)


class _FirstPass:
    """Nettoie une tâche et l'écrit, sauf si elle l'est déjà."""

    def __init__(self, store: Store, config: HygieneConfig, reading: Reading) -> None:
        self._store, self._skip_bad = store, reading.skip_bad
        self._clean = Cleaner(
            config,
            text_field=reading.field,
            seed=reading.seed,
            val_fraction=reading.val_fraction,
        )

    def __call__(self, task: tuple[int, list[RawBlock]]) -> int:
        number, blocks = task
        store, consumed = self._store, sum(block.consumed for block in blocks)
        if store.prints(number).exists():
            return consumed
        block = self._clean(blocks)
        for skip in block.skips:
            skip.check(skip_bad=self._skip_bad)
        tally = Tally()
        tally.add(consumed, 0, block.separated, block.skips)
        write_texts(store.texts(number), (text for _, text in block.documents))
        write_object(
            store.first_report(number),
            {
                "tally": asdict(tally),
                "effects": block.effects,
                "languages": block.languages,
                "read": block.read,
            },
        )
        write_arrays(store.prints(number), block.arrays)
        return consumed


def write_references(store: Store, config: HygieneConfig) -> None:
    """Écrit les suites de mots des textes d'évaluation.

    Raises:
        DataError: un texte est absent ou illisible, ou ils n'ont aucune suite de mots.
    """
    found = union(
        Batch([section]).ngrams(config.ngram)[0]
        for document in read_documents(config.evaluation, offline=True)
        for section in sections([document.text])
    )
    if not found.size:
        raise DataError(
            "les textes d'évaluation n'ont aucune suite de mots",
            expected=f"au moins un document de {config.ngram} mots",
            remedy="donnez d'autres textes à `evaluation`, ou baissez `ngram`",
        )
    write_arrays(store.references, {"ngrams": found})


def gathered(store: Store, tasks: Sequence[int]) -> CleanCorpus:
    """Les fichiers nettoyés et le bilan de ces tâches."""
    tally, sources = Tally(), list[Source]()
    splits: dict[str, Split] = {}
    reports = list[dict[str, Any]]()
    for task in tasks:
        first = read_object(store.first_report(task))
        second = read_object(store.second_report(task))
        tally.merge(first["tally"]["separated"], first["tally"]["skipped"])
        tally.done_bytes += first["tally"]["done_bytes"]
        kept = [0, 0]
        for split in SPLITS:
            kept = _added(kept, second["written"][split])
            path = store.pruned(task, split)
            status = path.stat()
            if status.st_size:
                source = Source(
                    path=path, kind="jsonl", size=status.st_size, modified_ns=status.st_mtime_ns
                )
                sources.append(source)
                splits[source.label] = split
        shared = {"read": _counted(first["read"]), "kept": _counted(kept)}
        reports.append({**shared, "languages": first["languages"], "effects": first["effects"]})
        nothing = {"read": _counted([0, 0]), "kept": _counted([0, 0]), "languages": {}}
        reports.append({**nothing, "effects": second["effects"]})
    return CleanCorpus(sources=sources, splits=splits, report=summed_reports(reports), tally=tally)


def summed_reports(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Le bilan de plusieurs lots, d'après ceux de chacun : `CleanCorpus.report`."""
    effects, languages = Effects(), dict[str, list[int]]()
    sums = {"read": [0, 0], "kept": [0, 0]}
    for report in reports:
        effects.merge(report["effects"])
        for name, counts in report["languages"].items():
            languages[name] = _added(languages.get(name, [0, 0]), counts)
        for name, known in sums.items():
            sums[name] = _added(known, [report[name]["documents"], report[name]["bytes"]])
    return {
        **{name: _counted(each) for name, each in sums.items()},
        "languages": dict(sorted(languages.items())),
        "effects": effects.to_dict(),
    }


def _counted(counts: Sequence[int]) -> dict[str, int]:
    return {"documents": counts[0], "bytes": counts[1]}


def _added(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)]


RULES = 2
"""Version des étapes et de leurs fichiers de travail : une autre ne les reprend pas."""


def identity_of(config: HygieneConfig) -> dict[str, Any]:
    """Ce qui distingue cette hygiène d'une autre, en types simples : réglages, textes d'évaluation.

    Raises:
        DataError: un texte d'évaluation est absent.
    """
    found: dict[str, Any] = json.loads(json.dumps(asdict(config))) | {"rules": RULES}
    if config.evaluation:
        found["evaluation"] = [
            [str(each.path), each.size, each.modified_ns]
            for each in find_texts(config.evaluation, offline=True)[0]
        ]
    return found
