"""Une préparation partagée entre machines : chaque tâche prend sa plage, une réunion les rassemble.

Sans étape qui compare les documents, une tâche va d'une traite de ses textes à ses tokens. Sinon,
elle s'arrête aux empreintes ; la réunion, quand elle les a toutes, prend les décisions d'ensemble
(quasi-doublons : les signatures d'abord, puis les bandes) ; relancée, chaque tâche les applique et
code. La dernière réunion met les tokens bout à bout. Relancer ce qui est fait ne refait rien, et le
résultat est, à l'octet près, celui d'une seule machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.data.hygiene.clean import check_dependencies
from gpt_architecture.data.hygiene.decide import decide
from gpt_architecture.data.hygiene.run import (
    clean_corpus,
    first_pass,
    gathered,
    second_pass,
    share_bytes,
    summed_reports,
    write_references,
)
from gpt_architecture.data.shards import parts
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.job import Preparation
from gpt_architecture.data.shards.layout import TOKEN_DTYPE, ShardEntry, index_entries
from gpt_architecture.data.shards.merge import join_shards
from gpt_architecture.data.shards.parts import Part
from gpt_architecture.data.shards.work import WorkFolder, read_present
from gpt_architecture.data.shards.writer import check_parts, index_of
from gpt_architecture.data.texts.documents import SPLITS, Split, Tally
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.errors import OutputError


@dataclass(frozen=True)
class Step:
    """Ce qu'une tâche ou une réunion a fait.

    Attributes:
        outcome: `task` (une tâche a ses tokens), `read` (elle a ses empreintes), `decided` (les
            décisions sont prises), ou une issue de `prepare_tokens`.
        index: l'index de ce qui est fini ; None : rien ne l'est encore.
    """

    outcome: str
    index: dict[str, Any] | None


def run_task(asked: Preparation, share: Share) -> Step:
    """Fait ce que cette tâche peut faire : ses empreintes, ou ses tokens.

    Raises:
        DataError: sources absentes, vides, ou changées en cours de route ; ou un défaut.
        OutputError: dossier occupé, d'autres réglages, ou disque plein.
    """
    present = read_present(asked.out, asked.identity, force=asked.force)
    if present is not None:
        return Step("present", present)
    place = parts.part_folder(asked.out, share)
    identity = {**asked.identity, "task": str(share)}
    store = parts.part_store(asked.out, share)
    if (index := _present(place, identity, force=asked.force)) is not None:
        if not _keeps_texts(asked, index) or store.census.exists():
            return Step("task", index)
        shutil.rmtree(place)  # ses textes nettoyés, abîmés, ont été effacés : tout se refait
    with WorkFolder(place, identity, force=asked.force) as work:
        if not work.resumed:
            shutil.rmtree(store.folder, ignore_errors=True)
        index = work.finished_index()
        if index is None and asked.hygiene is None:
            index = asked.encode(work, share)
        elif index is None:
            index = _clean_part(asked, share, work)
        if index is None:
            return Step("read", None)
        work.publish(index)
    if not _keeps_texts(asked, index):
        for split in SPLITS:
            for path in store.folder.glob(f"{split}_*.jsonl"):
                path.unlink()
    return Step("task", index)


def _keeps_texts(asked: Preparation, index: dict[str, Any]) -> bool:
    """Vrai si les textes nettoyés d'une tâche finie peuvent encore servir : voir `_join`."""
    full = all(index["splits"][split]["tokens"] for split in SPLITS)
    return asked.hygiene is not None and not full


def _present(place: Path, identity: dict[str, Any], *, force: bool) -> dict[str, Any] | None:
    """L'index d'une tâche finie ; `force` ne refait que celle d'autres réglages."""
    try:
        return read_present(place, identity, force=False)
    except OutputError:
        if not force:
            raise
        return None


def _clean_part(asked: Preparation, share: Share, work: WorkFolder) -> dict[str, Any] | None:
    """Nettoie et code la part d'une tâche ; None : les décisions d'ensemble restent à prendre."""
    assert asked.hygiene is not None  # noqa: S101 — vérifié par run_task
    if work.state is None:
        work.save_state({})  # une interruption ne fera pas effacer ce qui est déjà fait
    store, config, workers = parts.part_store(asked.out, share), asked.hygiene, asked.workers
    size = share_bytes(asked.sources, share)
    asked.started(2 * size)
    if not config.compares:
        clean = clean_corpus(
            asked.sources,
            store.folder,
            config,
            asked.reading,
            share=share,
            workers=workers,
            on_progress=lambda done, _total: asked.advanced(done),
        )
        return asked.encode_clean(work, clean, is_part=True)
    check_dependencies(config)
    count = first_pass(
        store,
        asked.sources,
        config,
        asked.reading,
        share=share,
        workers=workers,
        on_progress=asked.advanced,
    )
    joined = parts.saved_decisions(asked.out, asked.identity, share.count)
    if joined is None:
        return None
    first = joined.first[share.number - 1]
    tasks = range(first, first + count)
    second_pass(
        joined,
        tasks,
        config,
        workers=workers,
        on_progress=lambda done: asked.advanced(size + size * done // count),
    )
    return asked.encode_clean(work, gathered(joined, tasks), is_part=True)


def merge_tasks(asked: Preparation) -> Step:
    """Réunit les tâches, ou prend les décisions dont elles ont encore besoin.

    Raises:
        DataError: une tâche manque, est en double, n'est pas finie, vient d'autres réglages ou
            d'autres sources, ou est abîmée.
        OutputError: dossier occupé, d'autres réglages, ou disque plein.
    """
    present = read_present(asked.out, asked.identity, force=asked.force)
    if present is not None:
        parts.remove_parts(asked.out, asked.identity)
        return Step("present", present)
    with WorkFolder(asked.out, asked.identity, force=asked.force) as work:
        if (index := work.finished_index()) is None:
            found = parts.find_parts(asked.out, asked.identity)
            missing = [part.share.number for part in found if part.index is None]
            if missing and asked.hygiene is not None and asked.hygiene.compares:
                taken = parts.saved_decisions(asked.out, asked.identity, len(found))
                if taken is None:
                    _decide(asked, found)
                if taken is None or len(missing) == len(found):  # relancée avant les tâches
                    return Step("decided", None)
            place = parts.parts_folder(asked.out)
            parts.check_all(place, missing, len(found), "les tokens de ")
            index = _join(asked, found, work)
        work.publish(index)
        resumed = work.resumed
    parts.remove_parts(asked.out, asked.identity)
    return Step("resumed" if resumed else "new", index)


def _decide(asked: Preparation, found: Sequence[Part]) -> None:
    """Prend les décisions d'ensemble, d'après les empreintes de toutes les tâches."""
    assert asked.hygiene is not None  # noqa: S101 — vérifié par merge_tasks
    stores = [parts.part_store(asked.out, part.share) for part in found]
    unread = [
        part.share.number
        for part, store in zip(found, stores, strict=True)
        if not store.census.exists()
    ]
    place = parts.parts_folder(asked.out)
    parts.check_all(place, unread, len(found), "les empreintes de ")
    counts = [store.count() for store in stores]
    joined = parts.joined_store(asked.out, counts)
    joined.folder.mkdir(parents=True, exist_ok=True)
    if asked.hygiene.evaluation:
        write_references(joined, asked.hygiene)
    decide(joined, sum(counts), asked.hygiene)
    parts.save_decisions(asked.out, asked.identity, counts)


def _join(asked: Preparation, found: Sequence[Part], work: WorkFolder) -> dict[str, Any]:
    """Met les tokens bout à bout et rend l'index.

    Le hasard a laissé une part vide : c'est un petit corpus, dont ce qu'a laissé l'hygiène est
    recodé ici d'une traite, avec les mêmes exceptions que sur une machine.
    """
    indexes = [part.index for part in found if part.index is not None]
    empty = any(not sum(index["splits"][split]["tokens"] for index in indexes) for split in SPLITS)
    if asked.hygiene is not None and empty:
        return asked.encode_clean(work, _gathered_parts(asked, found))
    tally = Tally()
    if asked.hygiene is None:
        tally.add_skips(asked.skips)
    for index in indexes:
        tally.merge(index["separated"], index["skipped"])
        for name, documents in index.get("origins", ()):
            tally.add_origin(name, documents)
    if asked.hygiene is not None:
        tally.add_skips(asked.skips)
    joined = index_of(
        work.identity,
        asked.tokenizer,
        _copy(asked, found, work),
        text_bytes=sum(index["text_bytes"] for index in indexes),
        single_document=any(index["single_document"] for index in indexes),
        separated=tally.separated,
        skipped=tally.skipped,
        origins=tally.origins,
    )
    if asked.hygiene is not None:
        joined["hygiene"] = summed_reports(index["hygiene"] for index in indexes)
    return joined


def _gathered_parts(asked: Preparation, found: Sequence[Part]) -> Any:
    counts = [parts.part_store(asked.out, part.share).count() for part in found]
    return gathered(parts.joined_store(asked.out, counts), range(sum(counts)))


def _copy(
    asked: Preparation, found: Sequence[Part], work: WorkFolder
) -> dict[Split, list[ShardEntry]]:
    """Écrit à la suite les fragments de toutes les tâches, part après part."""
    shards = {
        split: [
            (part.folder, entry)
            for part in found
            for entry in index_entries(part.index or {}, split)
        ]
        for split in SPLITS
    }
    total = sum(entry.tokens for each in shards.values() for _, entry in each)
    asked.started(total * TOKEN_DTYPE.itemsize)
    entries = join_shards(
        work,
        shards,
        shard_tokens=asked.config.shard_tokens,
        eos_id=separator_of(asked.tokenizer),
        workers=asked.workers,
        on_progress=asked.advanced,
    )
    check_parts(entries)
    return entries
