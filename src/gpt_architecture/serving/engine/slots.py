"""Les places : un cache alloué une fois, dont chaque ligne sert une demande après l'autre.

Une ligne libérée garde ce qu'elle a lu : la demande suivante qui commence de même en part, et une
demande en cours prête aussi son début, par copie. Rien n'est jamais recalculé ni déplacé pour une
autre raison. Un pas est ce que chaque place lit, et les passages du modèle qui le lisent.

Formes : B places, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.core.kv_cache import CacheView, KVCache
from gpt_architecture.core.model import CausalLM

Ids = NDArray[np.int64]

_UNKNOWN = -1  # un token d'aucun vocabulaire

_PLAIN_CHUNK = 128
"""Tokens de début lus par pas quand chaque part demande son passage."""

_PROMPT_PASSES = 4
"""Passages d'un pas, au plus ou presque, quand des débuts sont à lire."""


class SlotPool:
    """Un cache de `rows` lignes de `capacity` positions, et les tokens que chacune a lus.

    Args:
        model: alloue le cache.
        rows: lignes.
        capacity: positions d'une ligne.
    """

    def __init__(self, model: CausalLM, rows: int, capacity: int) -> None:
        self.cache = model.new_cache(rows, capacity)
        self._tokens: Ids = np.full((rows, capacity), _UNKNOWN, dtype=np.int64)
        self._busy = [False] * rows
        self._used = [0] * rows  # date de libération
        self._clock = count(1)

    @property
    def lengths(self) -> list[int]:
        """Positions lues de chaque ligne."""
        return self.cache.lengths

    @property
    def occupied(self) -> int:
        """Positions des lignes prises."""
        return sum(length for length, busy in zip(self.lengths, self._busy, strict=True) if busy)

    def acquire(self, prompt: Ids, *, reuse: bool = True) -> tuple[int, int]:
        """Prend une ligne libre ; rend son numéro et combien de tokens de `prompt` y sont lus.

        Le dernier token n'est jamais compté : il faut le lire pour savoir ce qui suit.

        Args:
            prompt: le début à lire.
            reuse: faux : rien de ce qui est déjà lu ne sert.
        """
        donor, shared = self._longest_prefix(prompt) if reuse else (-1, 0)
        free = [row for row, busy in enumerate(self._busy) if not busy]
        if donor in free and 2 * shared >= self.lengths[donor]:
            slot = donor
        else:  # le donneur garde sa suite, qui peut servir encore
            kept = donor if shared else None
            slot = min(free, key=lambda row: (row == kept, self.lengths[row] > 0, self._used[row]))
        self._busy[slot] = True
        self._copy_prefix(donor, slot, shared)
        return slot, shared

    def extend_(self, slot: int, prompt: Ids) -> int:
        """Copie dans `slot` ce qu'une autre ligne a lu de plus de `prompt` ; rend combien."""
        donor, shared = self._longest_prefix(prompt)
        gained = shared - self.lengths[slot]
        if gained <= 0:
            return 0
        self._copy_prefix(donor, slot, shared)
        return gained

    def release(self, slot: int, *, spoiled: bool = False) -> None:
        """Rend une ligne ; `spoiled` : ce qu'elle contient est peut-être faux."""
        if spoiled:
            self.cache.clear_(slot)
        self._busy[slot], self._used[slot] = False, next(self._clock)

    def view(self, slots: Sequence[int]) -> CacheView:
        """Les lignes `slots`, pour un passage du modèle."""
        return CacheView(self.cache, slots)

    def note(self, slot: int, tokens: Sequence[int]) -> None:
        """Retient les tokens que la ligne vient de lire."""
        length = self.lengths[slot]
        self._tokens[slot, length - len(tokens) : length] = tokens

    def keep(self, slot: int, length: int) -> None:
        """Ne garde que les `length` premières positions de la ligne."""
        self.cache.set_length_(slot, length)

    def _longest_prefix(self, prompt: Ids) -> tuple[int, int]:
        """La ligne qui a lu le plus long début de `prompt`, et sa longueur."""
        limit = min(len(prompt) - 1, self._tokens.shape[1])
        present = np.arange(limit) < np.array(self.lengths)[:, None]  # (lignes, positions)
        same = (self._tokens[:, :limit] == prompt[:limit]) & present
        # La première différence : une colonne fausse de plus arrête aussi ce qui est tout égal.
        stops = np.column_stack([same, np.zeros(len(same), dtype=bool)])
        lengths = stops.argmin(axis=1)
        best = int(lengths.argmax())
        return best, int(lengths[best])

    def _copy_prefix(self, donor: int, slot: int, length: int) -> None:
        if donor == slot or length == 0:
            self.cache.set_length_(slot, length)
            return
        self.cache.copy_(donor, slot, length)
        self._tokens[slot, :length] = self._tokens[donor, :length]


@runtime_checkable
class UniformLM(Protocol):
    """Un modèle dont un passage mêle des parts de toutes longueurs (`kernels.decode.packed`)."""

    @property
    def uniform_rows(self) -> int:
        """Tokens au plus d'un passage ; 0 : aucun."""
        ...

    def read_uniform(
        self,
        parts: Sequence[Sequence[int]],
        cache: KVCache,
        *,
        wanted: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits (W, V) des rangs voulus, qui ne dépendent que de leur séquence."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """Ce qu'une place lit pendant un pas.

    Attributes:
        slot: la place.
        tokens: ce qui suit ce qu'elle a lu.
        every: vrai : les logits de chaque token ; faux : ceux du dernier.
    """

    slot: int
    tokens: Sequence[int]
    every: bool = False


class SlotReader:
    """Fait lire leurs parts aux places.

    Args:
        model: en évaluation.
        pool: les places.
    """

    def __init__(self, model: CausalLM, pool: SlotPool) -> None:
        self._model, self._pool = model, pool
        self._uniform: UniformLM | None = None
        self._rows = 0
        if isinstance(model, UniformLM) and model.uniform_rows > 0:
            self._uniform, self._rows = model, model.uniform_rows

    @property
    def is_uniform(self) -> bool:
        """Vrai si les logits d'une place ne dépendent que d'elle, au bit près."""
        return self._uniform is not None

    def budget(self, writing: int) -> int:
        """Tokens de début à lire pendant un pas où `writing` places écrivent.

        Débuts et écritures passent ensemble : les débuts emplissent le dernier passage des
        écritures, puis quelques autres. Trop peu, et qui arrive attend son premier token ; trop,
        et qui écrit attend le suivant.
        """
        if self._uniform is None:
            return _PLAIN_CHUNK
        return _PROMPT_PASSES * self._rows - writing % self._rows

    def run(self, parts: Sequence[Part]) -> list[Tensor]:
        """Lit chaque part à la suite de sa place ; rend ses logits (1, V), ou (T, V) si `every`."""
        found = self._run_plain(parts) if self._uniform is None else self._run_uniform(parts)
        for part in parts:
            self._pool.note(part.slot, part.tokens)
        return found

    def _run_uniform(self, parts: Sequence[Part]) -> list[Tensor]:
        """Remplit des passages de parts mises bout à bout, coupées où il le faut."""
        found: list[list[Tensor]] = [[] for _ in parts]
        left = [(index, 0) for index in range(len(parts))]  # part, tokens déjà lus
        while left:
            room, pieces, rest = self._rows, [], []
            for index, start in left:
                stop = min(start + room, len(parts[index].tokens))
                room -= stop - start
                if stop > start:
                    pieces.append((index, start, stop))
                if stop < len(parts[index].tokens):
                    rest.append((index, stop))
            for index, logits in self._read(parts, pieces):
                found[index].append(logits)
            left = rest
        return [torch.cat(each) if len(each) > 1 else each[0] for each in found]

    def _read(
        self, parts: Sequence[Part], pieces: Sequence[tuple[int, int, int]]
    ) -> list[tuple[int, Tensor]]:
        """Un passage de morceaux (part, début, fin) ; rend les logits voulus de chaque part."""
        wanted, owners, row = list[int](), list[tuple[int, int]](), 0
        for index, start, stop in pieces:
            part, size = parts[index], stop - start
            row += size
            ends = stop == len(part.tokens)
            rows = range(row - size, row) if part.every else range(row - ends, row)
            if rows:
                owners.append((index, len(rows)))
                wanted += rows
        model = self._uniform
        if model is None:
            return []
        tokens = [parts[index].tokens[start:stop] for index, start, stop in pieces]
        view = self._pool.view([parts[index].slot for index, _, _ in pieces])
        logits = model.read_uniform(tokens, view, wanted=wanted)
        split = torch.split(logits, [size for _, size in owners])
        return [(index, each) for (index, _), each in zip(owners, split, strict=True)]

    def _run_plain(self, parts: Sequence[Part]) -> list[Tensor]:
        """Les parts d'un seul token passent ensemble ; les autres, une par une.

        Compléter les courtes à la longueur des longues coûterait plus que relire les poids.
        """
        found = [torch.empty(0)] * len(parts)
        single = [index for index, part in enumerate(parts) if len(part.tokens) == 1]
        if single:
            logits = self._forward([parts[index] for index in single])
            for row, index in enumerate(single):
                found[index] = logits[row]
        for index, part in enumerate(parts):
            if len(part.tokens) > 1:
                found[index] = self._forward([part])[0]
        return found

    def _forward(self, parts: Sequence[Part]) -> Tensor:
        """Parts de même longueur T → logits (B, T, V) ; (B, 1, V) si seul le dernier est voulu."""
        device = self._model.device
        ids = torch.tensor([list(part.tokens) for part in parts], device=device)  # (B, T)
        every = any(part.every for part in parts)
        last = torch.full((len(parts),), ids.size(1) - 1, device=device)
        view = self._pool.view([part.slot for part in parts])
        return self._model(ids, view, at=None if every else last)


def shared_prefix(first: Ids, second: Ids) -> int:
    """Longueur du début commun de deux suites."""
    limit = min(len(first), len(second))
    different = first[:limit] != second[:limit]
    return int(different.argmax()) if different.any() else limit
