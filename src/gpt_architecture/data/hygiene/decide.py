"""Les décisions d'ensemble : doublons, quasi-doublons, lignes et paragraphes qui se répètent.

Elles lisent des empreintes, tâche après tâche, et les seuls textes dont la ressemblance est
douteuse : la mémoire tient quelques nombres par document. Elles ne dépendent que de la suite des
documents, non de qui les a lus.

Formes : N documents du corpus, dans l'ordre des sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import Hashes, union
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.minhash import PERMUTATIONS, near_duplicates
from gpt_architecture.data.hygiene.store import (
    Store,
    read_arrays,
    read_row,
    read_text,
    write_arrays,
)
from gpt_architecture.data.texts.documents import SPLITS

KEPT, EXACT, NEAR = range(3)
"""Sort d'un document."""
HELD = 1 << 20
"""Empreintes triées ensemble : 8 Mio, leurs copies sept fois autant. Davantage se traite par
tranches de valeurs."""

_VALIDATION = SPLITS.index("val")
Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Les empreintes de toutes les tâches.

    Attributes:
        store: où elles sont.
        first: (tâches + 1,) rang du premier document de chaque tâche, puis N.
        splits: (N,) part de chaque document.
    """

    store: Store
    first: Ranks
    splits: NDArray[np.uint8]

    @classmethod
    def of(cls, store: Store, tasks: int) -> Corpus:
        """Compte les documents."""
        splits = [read_arrays(store.prints(task), "split")[0] for task in range(tasks)]
        counts = [each.size for each in splits]
        return cls(
            store,
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            np.concatenate([np.zeros(0, np.uint8), *splits]),
        )

    def column(self, name: str) -> Hashes:
        """(N,) Une empreinte par document."""
        parts = [read_arrays(path, name)[0] for path in self._paths()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def band(self, number: int) -> Hashes:
        """(N,) L'empreinte d'une bande."""
        parts = [read_row(path, "bands", number) for path in self._paths()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def signatures(self, ranks: Ranks) -> NDArray[np.uint8]:
        """Les signatures de ces documents, rangs croissants."""
        found = np.zeros((ranks.size, PERMUTATIONS), np.uint8)
        bounds = np.searchsorted(ranks, self.first)
        for task, path in enumerate(self._paths()):
            low, high = bounds[task], bounds[task + 1]
            if low < high:
                (rows,) = read_arrays(path, "signature")
                found[low:high] = rows[ranks[low:high] - self.first[task]]
        return found

    def text(self, rank: int) -> str:
        """Le texte d'un document."""
        task = int(np.searchsorted(self.first, rank, side="right")) - 1
        return read_text(self.store.texts(task), rank - int(self.first[task]))

    def pieces(self, values: str, firsts: str) -> Iterator[tuple[Hashes, Ranks]]:
        """Par tâche : des empreintes, et le rang du document de chacune."""
        for task, path in enumerate(self._paths()):
            hashes, bounds = read_arrays(path, values, firsts)
            owners = np.repeat(np.arange(bounds.size - 1), np.diff(bounds)) + self.first[task]
            yield hashes, owners

    def _paths(self) -> Iterator[str]:
        for task in range(self.first.size - 1):
            yield str(self.store.prints(task))


def decide(store: Store, tasks: int, config: HygieneConfig) -> None:
    """Prend les décisions et les écrit : `Store.decisions`.

    Le fichier porte `fate` (N,) et `twin` (N,), le document gardé dont un autre est le double ;
    `lines`, triées ; `paragraphs`, triés, et `holders`, le document qui garde chacun ;
    `validation`, suites de mots triées.

    Args:
        store: le dossier de travail, première passe finie.
        tasks: nombre de tâches.
        config: les étapes.
    """
    corpus = Corpus.of(store, tasks)
    fate, twin = _duplicates(corpus, config)
    kept = fate == KEPT
    lines = np.zeros(0, np.uint64)
    if config.lines:
        lines = _repeated_lines(corpus, kept, config.lines)
    paragraphs, holders = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    held_out = corpus.splits == _VALIDATION
    if config.paragraphs:  # la validation garde les siens ; l'entraînement perd ceux qu'elle a
        own = kept & ~held_out if config.validation else kept
        paragraphs, holders = _repeated_paragraphs(corpus, own)
    validation = np.zeros(0, np.uint64)
    if config.validation:
        pieces = corpus.pieces("ngrams", "first_ngram")
        validation = union(hashes[kept[owners]] for hashes, owners in pieces)
    write_arrays(
        store.decisions,
        {
            "fate": fate,
            "twin": twin,
            "first": corpus.first,
            "lines": lines,
            "paragraphs": paragraphs,
            "holders": holders,
            "validation": validation,
        },
    )


def _duplicates(corpus: Corpus, config: HygieneConfig) -> tuple[NDArray[np.uint8], Ranks]:
    """(N,) Sort de chaque document, et (N,) celui dont il est le double ; −1 : aucun."""
    documents = corpus.splits.size
    fate, twin = np.full(documents, KEPT, np.uint8), np.full(documents, -1, np.int64)
    if config.exact:
        values = corpus.column("exact")
        order = np.argsort(values, kind="stable")  # à égalité, le premier document d'abord
        new = np.ones(documents, np.bool_)
        np.not_equal(values[order[1:]], values[order[:-1]], out=new[1:])
        heads = order[np.flatnonzero(new)][np.cumsum(new) - 1]
        fate[order[~new]], twin[order[~new]] = EXACT, heads[~new]
    if config.near:
        found = near_duplicates(
            fate == KEPT, corpus.band, corpus.signatures, corpus.text, config.near
        )
        for document, like in found.items():
            fate[document], twin[document] = NEAR, like
    return fate, twin


def _slices(
    corpus: Corpus, values: str, firsts: str, own: NDArray[np.bool_]
) -> Iterator[tuple[Hashes, Ranks]]:
    """Les empreintes non nulles de ces documents, par tranches de valeurs, documents dans l'ordre.

    Chacune n'y est qu'une fois par document.
    """
    total = sum(hashes.size for hashes, _ in corpus.pieces(values, firsts))
    count = 1 + total // HELD
    width = (1 << 64) // count + 1
    for number in range(count):
        low, high = number * width, min((number + 1) * width, 1 << 64) - 1
        parts: list[tuple[Hashes, Ranks]] = []
        for hashes, owners in corpus.pieces(values, firsts):
            mine = own[owners] & (hashes != 0) & (hashes >= np.uint64(low))
            mine &= hashes <= np.uint64(high)
            some, whose = hashes[mine], owners[mine]
            order = np.lexsort((some, whose))
            some, whose = some[order], whose[order]
            new = np.ones(some.size, np.bool_)
            new[1:] = (some[1:] != some[:-1]) | (whose[1:] != whose[:-1])
            parts.append((some[new], whose[new]))
        yield (
            np.concatenate([np.zeros(0, np.uint64), *(each for each, _ in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(each for _, each in parts)]),
        )


def _repeated_lines(corpus: Corpus, kept: NDArray[np.bool_], documents: int) -> Hashes:
    """Les lignes qui sont dans au moins tant de documents gardés, triées."""
    found = []
    for hashes, _ in _slices(corpus, "lines", "first_line", kept):
        values, counts = np.unique(hashes, return_counts=True)
        found.append(values[counts >= documents])
    return np.concatenate(found)


def _repeated_paragraphs(corpus: Corpus, own: NDArray[np.bool_]) -> tuple[Hashes, Ranks]:
    """Les paragraphes que plusieurs documents ont, triés, et le premier document de chacun."""
    found, holders = [], []
    for hashes, owners in _slices(corpus, "paragraphs", "first_paragraph", own):
        values, firsts, counts = np.unique(hashes, return_index=True, return_counts=True)
        found.append(values[counts > 1])
        holders.append(owners[firsts[counts > 1]])  # return_index : la première occurrence
    return np.concatenate(found), np.concatenate(holders)
