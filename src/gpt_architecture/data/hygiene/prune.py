"""La seconde passe : les décisions d'ensemble appliquées à chaque document."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import Batch, Known
from gpt_architecture.data.hygiene.clean import Located
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.decide import EXACT, KEPT, Ranks
from gpt_architecture.data.hygiene.effects import DOCUMENTS, PASSAGES, Effects
from gpt_architecture.data.hygiene.store import (
    Store,
    read_arrays,
    read_texts,
    write_lines,
    write_object,
)
from gpt_architecture.data.texts.documents import SPLITS, Split

DUPLICATE, NEAR_DUPLICATE = "doublon exact", "quasi-doublon"
REPEATED_LINE, REPEATED_PARAGRAPH = "ligne répétée", "paragraphe répété"
IN_VALIDATION, IN_EVALUATION = "recouvre la validation", "recouvre l'évaluation"
NOTHING_LEFT = "rien n'en reste"


class Pruner:
    """La seconde passe ; ne garde que les décisions.

    Args:
        store: le dossier de travail, décisions prises.
        config: les étapes.
    """

    def __init__(self, store: Store, config: HygieneConfig) -> None:
        self._store, self._config = store, config
        self._fate, self._twin, self._first = read_arrays(store.decisions, "fate", "twin", "first")
        lines, self._paragraphs, self._holders, validation = read_arrays(
            store.decisions, "lines", "paragraphs", "holders", "validation"
        )
        evaluation = np.zeros(0, np.uint64)
        if config.evaluation:
            (evaluation,) = read_arrays(store.references, "ngrams")
        self._lines, self._validation, self._evaluation = map(
            Known, (lines, validation, evaluation)
        )

    def __call__(self, task: int) -> int:
        """Écrit les documents d'une tâche, chacun dans le fichier de sa part.

        Returns:
            Les octets UTF-8 lus.
        """
        store, first = self._store, int(self._first[task])
        places, bounds, splits = read_arrays(store.prints(task), "places", "first_place", "split")
        documents: list[Located] = [
            (bytes(places[low:high]).decode("utf-8"), text)
            for text, (low, high) in zip(
                read_texts(store.texts(task)), pairwise(bounds.tolist()), strict=True
            )
        ]
        effects = Effects()
        drop = self._dropped_lines(task, documents, splits)
        rows: dict[Split, list[dict[str, str]]] = {split: [] for split in SPLITS}
        size = 0
        for number, (where, text) in enumerate(documents):
            size += len(text.encode("utf-8"))
            if (fate := self._fate[first + number]) != KEPT:
                reason = DUPLICATE if fate == EXACT else NEAR_DUPLICATE
                twin = f"de {self._place_of(int(self._twin[first + number]))}"
                characters = len(text)
                effects.add(reason, DOCUMENTS, where, text, detail=twin, characters=characters)
                continue
            left = text
            if number in drop:
                left = self._without(where, text, drop[number], effects)
            if left.strip():
                rows[SPLITS[splits[number]]].append({"text": left})
            else:
                effects.add(NOTHING_LEFT, DOCUMENTS, where, text)
        written: dict[str, list[int]] = {}
        for split in SPLITS:
            write_lines(store.pruned(task, split), rows[split])
            kept = sum(len(row["text"].encode("utf-8")) for row in rows[split])
            written[split] = [len(rows[split]), kept]
        write_object(store.second_report(task), {"effects": effects.to_dict(), "written": written})
        return size

    def _place_of(self, document: int) -> str:
        task = int(np.searchsorted(self._first, document, side="right")) - 1
        places, bounds = read_arrays(self._store.prints(task), "places", "first_place")
        low, high = bounds[document - self._first[task] :][:2]
        return bytes(places[low:high]).decode("utf-8")

    def _dropped_lines(
        self, task: int, documents: Sequence[Located], splits: NDArray[np.uint8]
    ) -> dict[int, list[tuple[str, int, int]]]:
        """Document → (raison, première ligne, ligne qui suit) de ce qu'il faut en retirer."""
        found: dict[int, list[tuple[str, int, int]]] = {}
        path, first = self._store.prints(task), int(self._first[task])
        held_out = splits == SPLITS.index("val")
        if self._lines:
            hashes, bounds = read_arrays(path, "lines", "first_line")
            for place in np.flatnonzero(self._lines.among(hashes)).tolist():
                document = int(np.searchsorted(bounds, place, side="right")) - 1
                line = place - int(bounds[document])
                found.setdefault(document, []).append((REPEATED_LINE, line, line + 1))
        if self._paragraphs.size:
            hashes, bounds, spans = read_arrays(path, "paragraphs", "first_paragraph", "spans")
            owners = np.repeat(np.arange(bounds.size - 1), np.diff(bounds))
            places = np.minimum(
                np.searchsorted(self._paragraphs, hashes), self._paragraphs.size - 1
            )
            repeated = (self._paragraphs[places] == hashes) & (hashes != 0)
            repeated &= self._holders[places] != owners + first
            if self._config.validation:
                repeated &= ~held_out[owners]
            for place in np.flatnonzero(repeated).tolist():
                low, high = spans[place].tolist()
                found.setdefault(int(owners[place]), []).append((REPEATED_PARAGRAPH, low, high))
        if self._validation or self._evaluation:
            self._add_overlaps(documents, held_out, first, found)
        return found

    def _add_overlaps(
        self,
        documents: Sequence[Located],
        held_out: NDArray[np.bool_],
        first: int,
        found: dict[int, list[tuple[str, int, int]]],
    ) -> None:
        """Ajoute les paragraphes qui partagent des mots avec la validation ou l'évaluation."""
        start, size = 0, 0
        for number in range(len(documents) + 1):
            ended = number == len(documents)
            if ended or (size and size + len(documents[number][1]) > _GROUP):
                group = range(start, number)
                batch = Batch([documents[each][1] for each in group])
                for document, reason, low, high in self._overlaps(batch, held_out[start:number]):
                    if self._fate[first + start + document] == KEPT:
                        found.setdefault(start + document, []).append((reason, low, high))
                start, size = number, 0
            if not ended:
                size += len(documents[number][1]) + 1

    def _overlaps(
        self, batch: Batch, held_out: NDArray[np.bool_]
    ) -> list[tuple[int, str, int, int]]:
        hashes, places = batch.ngrams(self._config.ngram)
        owners = batch.word_owners[places]
        in_validation = self._validation.among(hashes) & ~held_out[owners]
        in_evaluation = self._evaluation.among(hashes)
        if not (in_validation.any() or in_evaluation.any()):
            return []
        lines = batch.lines
        _, starts, ends = lines.paragraphs()

        def paragraph_of(words: Ranks) -> Ranks:
            rows = np.searchsorted(lines.starts, batch.word_starts[words], side="right") - 1
            return np.searchsorted(starts, rows, side="right") - 1

        sizes = np.searchsorted(batch.word_starts, lines.ends[ends - 1])
        sizes -= np.searchsorted(batch.word_starts, lines.starts[starts])
        half = (self._config.ngram + 1) // 2
        found = []
        for reason, hits in ((IN_EVALUATION, in_evaluation), (IN_VALIDATION, in_validation)):
            touched = np.zeros(batch.words.size + 1, np.int64)
            np.add.at(touched, places[hits], 1)
            np.add.at(touched, places[hits] + self._config.ngram, -1)
            words = np.flatnonzero(np.cumsum(touched[:-1]))
            shared = np.bincount(paragraph_of(words), minlength=starts.size)
            # Une suite à cheval sur deux paragraphes ne condamne que celui qui en a la moitié
            paragraphs = np.flatnonzero(shared >= np.minimum(half, np.maximum(sizes, 1)))
            for paragraph in paragraphs.tolist():
                low, high = int(starts[paragraph]), int(ends[paragraph])
                document = int(lines.owners[low])
                offset = int(lines.first[document])
                found.append((document, reason, low - offset, high - offset))
        return found

    @staticmethod
    def _without(
        where: str, text: str, dropped: Sequence[tuple[str, int, int]], effects: Effects
    ) -> str:
        """Le texte sans ces lignes ; les blancs qu'elles laissent se réduisent à un."""
        lines: list[str | None] = list(text.split("\n"))
        for reason, low, high in dropped:
            gone = [line for line in lines[low:high] if line is not None]
            if not gone:  # déjà retiré, pour une autre raison
                continue
            removed = "\n".join(gone)
            effects.add(reason, PASSAGES, where, removed, characters=len(removed))
            lines[low:high] = [None] * (high - low)
        kept = list[str]()
        after_gap = False
        for line in lines:
            if line is None:
                after_gap = True
            elif not (after_gap and not line.strip() and (not kept or not kept[-1].strip())):
                kept.append(line)
                after_gap = after_gap and not line.strip()
        return "\n".join(kept)


_GROUP = 1 << 18  # caractères comparés ensemble : leurs tableaux tiennent dans le cache
