"""Mettre bout à bout les fragments des tâches : chacun de ceux qui en sortent s'écrit seul.

La longueur de chaque fragment d'entrée est connue : ce que contient chaque fragment de sortie se
calcule, et plusieurs processus les écrivent ensemble. L'état dit lesquels sont finis ; les autres
sont refaits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gpt_architecture.data.shards.layout import (
    HEADER_BYTES,
    TOKEN_DTYPE,
    ShardEntry,
    bad_shard,
    file_sha256,
    header,
    read_header,
)
from gpt_architecture.data.shards.work import WorkFolder
from gpt_architecture.data.shards.workers import run_in_order
from gpt_architecture.data.texts.documents import SPLITS, Split
from gpt_architecture.storage import open_regular

MERGED_BYTES = 256 << 20
"""Octets de tokens réunis entre deux points sûrs, au moins."""
_CHUNK_TOKENS = 4 << 20

Shards = Mapping[Split, Sequence[tuple[Path, ShardEntry]]]
"""Par part, dans l'ordre : le dossier et la description de chaque fragment d'entrée."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Un fragment de sortie.

    Attributes:
        path: son fichier.
        split: sa part.
        slices: (fichier, premier token, fin exclue) de ce qui le compose, dans l'ordre.
    """

    path: Path
    split: Split
    slices: tuple[tuple[Path, int, int], ...]

    @property
    def tokens(self) -> int:
        """Son nombre de tokens."""
        return sum(stop - start for _, start, stop in self.slices)


def pieces_of(folder: Path | str, shards: Shards, shard_tokens: int) -> Iterator[Piece]:
    """Les fragments de sortie, part après part ; tous pleins, sauf le dernier de chacune."""
    for split in SPLITS:
        number, room = 0, shard_tokens
        slices = list[tuple[Path, int, int]]()

        def piece() -> Piece:
            path = Path(folder) / f"{split}_{number:06d}.bin"  # noqa: B023 — appelée sur-le-champ
            return Piece(path=path, split=split, slices=tuple(slices))  # noqa: B023

        for place, entry in shards[split]:
            start = 0
            while start < entry.tokens:
                stop = min(entry.tokens, start + room)
                slices.append((place / entry.name, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield piece()
                    number, room, slices = number + 1, shard_tokens, []
        if slices:
            yield piece()


def join_shards(
    work: WorkFolder,
    shards: Shards,
    *,
    shard_tokens: int,
    eos_id: int,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda _done, _tokens: None,
) -> dict[Split, list[ShardEntry]]:
    """Vérifie les fragments d'entrée, puis écrit ceux de sortie, ou finit de le faire.

    Args:
        work: le dossier de travail.
        shards: les fragments d'entrée.
        shard_tokens: tokens d'un fragment plein.
        eos_id: token qui commence chaque document ; il les compte.
        workers: processus ; 1 : celui-ci.
        on_progress: reçoit les octets de tokens écrits, et les tokens.

    Raises:
        DataError: un fragment est absent ou abîmé.
    """
    state = work.state if work.state is not None and "merged" in work.state else None
    if state is None:
        given = ((None, pair) for split in SPLITS for pair in shards[split])
        for _ in run_in_order(given, _checker, workers=workers):
            pass
        work.save_state({"merged": {split: [] for split in SPLITS}})
    kept = {} if state is None else state["merged"]
    done = {split: [ShardEntry(**each) for each in kept.get(split, ())] for split in SPLITS}
    names = {entry.name for entries in done.values() for entry in entries}
    left = (
        (piece.split, piece)
        for piece in pieces_of(work.path, shards, shard_tokens)
        if piece.path.name not in names
    )
    tokens, since = sum(entry.tokens for entries in done.values() for entry in entries), 0
    for split, entry in run_in_order(left, partial(_writer, eos_id), workers=workers):
        done[split].append(entry)
        tokens, since = tokens + entry.tokens, since + entry.tokens * TOKEN_DTYPE.itemsize
        if since >= MERGED_BYTES:
            simple = {name: [asdict(each) for each in entries] for name, entries in done.items()}
            work.save_state({"merged": simple})
            since = 0
        on_progress(tokens * TOKEN_DTYPE.itemsize, tokens)
    return done


def _checker() -> Callable[[tuple[Path, ShardEntry]], None]:
    return _check


def _check(shard: tuple[Path, ShardEntry]) -> None:
    """Relit un fragment d'entrée.

    Raises:
        DataError: il est absent ou abîmé.
    """
    folder, entry = shard
    path = folder / entry.name
    if read_header(path) != entry.tokens or file_sha256(path) != entry.sha256:
        raise bad_shard(
            path,
            "contenu changé depuis sa préparation",
            expected=f"{entry.tokens} tokens, sha256 {entry.sha256}",
            remedy=f"effacez {folder} et relancez cette tâche",
        )


def _writer(eos_id: int) -> Callable[[Piece], ShardEntry]:
    return partial(write_piece, eos_id=eos_id)


def write_piece(piece: Piece, *, eos_id: int) -> ShardEntry:
    """Écrit un fragment de sortie, par morceaux, et rend sa description.

    Raises:
        DataError: un fragment d'entrée a rétréci depuis sa vérification.
    """
    head, documents = header(piece.tokens), 0
    digest = hashlib.sha256(head)
    with piece.path.open("wb") as file:
        file.write(head)
        for path, start, stop in piece.slices:
            with open_regular(path) as source:
                source.seek(HEADER_BYTES + start * TOKEN_DTYPE.itemsize)
                for first in range(start, stop, _CHUNK_TOKENS):
                    count = min(_CHUNK_TOKENS, stop - first)
                    chunk = source.read(count * TOKEN_DTYPE.itemsize)
                    if len(chunk) < count * TOKEN_DTYPE.itemsize:
                        raise bad_shard(path, "tronqué", expected="le fichier vérifié au départ")
                    digest.update(chunk)
                    file.write(chunk)
                    documents += int(np.count_nonzero(np.frombuffer(chunk, TOKEN_DTYPE) == eos_id))
        file.flush()
        os.fsync(file.fileno())
    return ShardEntry(
        name=piece.path.name,
        tokens=piece.tokens,
        documents=documents,
        sha256=digest.hexdigest(),
    )
