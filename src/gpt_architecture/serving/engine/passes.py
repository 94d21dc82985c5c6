"""Un pas du moteur : ce que chaque place lit, et les passages du modèle qui le lisent.

Formes : B places, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.serving.engine.slots import SlotPool

_PLAIN_CHUNK = 128
"""Tokens de début lus par pas quand chaque part demande son passage."""

_PROMPT_PASSES = 4
"""Passages d'un pas, au plus ou presque, quand des débuts sont à lire."""


Choose = Callable[[Tensor], list[int]]
"""Logits (B, V) → un token par place."""


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


@runtime_checkable
class DraftingLM(Protocol):
    """Un modèle qui propose ses prochains tokens (voir `kernels.decode.self_draft`)."""

    @property
    def can_draft(self) -> bool:
        """Vrai s'il le sait."""
        ...

    def draft(
        self,
        last: Sequence[int],
        cache: KVCache,
        count: int,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """`count` tokens à la suite de chaque séquence, dont `last` n'est pas dans le cache."""
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


class Passes:
    """Fait lire leurs parts aux places.

    Args:
        model: en évaluation.
        pool: les places.
    """

    def __init__(self, model: CausalLM, pool: SlotPool) -> None:
        self._model, self._pool = model, pool
        self._uniform: UniformLM | None = None
        self._rows = 0
        self._drafter: DraftingLM | None = None
        if isinstance(model, UniformLM) and model.uniform_rows > 0:
            self._uniform, self._rows = model, model.uniform_rows
            if isinstance(model, DraftingLM) and model.can_draft:
                self._drafter = model

    @property
    def can_draft(self) -> bool:
        """Vrai si le modèle sait proposer ce que ses logits, uniformes, confirmeront ou non."""
        return self._drafter is not None

    def warm_up(self, *, drafts: bool) -> None:
        """Un passage, et une proposition s'il y en aura, sur la première place."""
        if drafts:
            self.draft([0], [0], 1)
        self.run([Part(slot=0, tokens=[0])])

    def budget(self, writing: int) -> int:
        """Tokens de début à lire pendant un pas où `writing` places écrivent.

        Débuts et écritures passent ensemble : les débuts emplissent le dernier passage des
        écritures, puis quelques autres. Trop peu, et qui arrive attend son premier token ; trop,
        et qui écrit attend le suivant.
        """
        if self._uniform is None:
            return _PLAIN_CHUNK
        return _PROMPT_PASSES * self._rows - writing % self._rows

    def draft(
        self, slots: Sequence[int], last: Sequence[int], count: int, choose: Choose | None = None
    ) -> list[list[int]]:
        """Ce que le modèle propose à la suite de chaque place, dont `last` n'est pas lu."""
        model = self._drafter
        return [] if model is None else model.draft(last, self._pool.view(slots), count, choose)

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
        device = self._pool.cache.storage.device
        ids = torch.tensor([list(part.tokens) for part in parts], device=device)  # (B, T)
        every = any(part.every for part in parts)
        last = torch.full((len(parts),), ids.size(1) - 1, device=device)
        view = self._pool.view([part.slot for part in parts])
        return self._model(ids, view, at=None if every else last)
