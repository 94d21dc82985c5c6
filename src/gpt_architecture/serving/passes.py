"""Un pas du moteur : ce que chaque place lit, et les passages du modèle qui le lisent.

Formes : B places, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.serving.slots import UNKNOWN, SlotPool

_PLAIN_CHUNK = 128
"""Tokens de début lus par pas quand chaque part demande son passage."""


@runtime_checkable
class UniformLM(Protocol):
    """Un modèle dont un passage mêle des parts de toutes longueurs (voir `kernels.packed`)."""

    @property
    def uniform_rows(self) -> tuple[int, int]:
        """Tokens au plus d'un passage, sous la forme étroite et sous la large ; (0, 0) : aucun."""
        ...

    def read_uniform(
        self,
        parts: Sequence[Sequence[int]],
        cache: KVCache,
        *,
        wide: bool,
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
        prompt: vrai : cela appartient au début ; faux : c'est le dernier token écrit.
        every: vrai : les logits de chaque token ; faux : ceux du dernier.
    """

    slot: int
    tokens: Sequence[int]
    prompt: bool = True
    every: bool = False


class Passes:
    """Fait lire leurs parts aux places.

    Args:
        model: en évaluation.
        pool: les places.
        writers: places qui écrivent ensemble, au plus. D'elles dépend la forme de leurs passages,
            et non de celles qui écrivent à un moment : ce qu'une demande écrit ne dépend donc pas
            des autres.
    """

    def __init__(self, model: CausalLM, pool: SlotPool, writers: int) -> None:
        self._model, self._pool = model, pool
        self._uniform: UniformLM | None = None
        self._rows = (0, 0)
        if isinstance(model, UniformLM) and model.uniform_rows[True] > 0:
            self._uniform, self._rows = model, model.uniform_rows
        self._wide_writers = writers > self._rows[False]

    def warm_up(self) -> None:
        """Un passage de chaque forme, sur la première place."""
        for prompt in (True,) if self._uniform is None else (True, False):
            self.run([Part(slot=0, tokens=[0], prompt=prompt)])

    def budget(self, chunk: int | None, writing: int) -> int:
        """Tokens de début à lire pendant un pas où `writing` places écrivent.

        Quand débuts et écritures passent ensemble, un pas emplit un passage, ou deux s'il ne
        restait presque rien du premier.
        """
        if self._uniform is None:
            return _PLAIN_CHUNK if chunk is None else chunk
        height = self._rows[True]
        if chunk is not None or not self._wide_writers:
            return height if chunk is None else chunk
        room = height - writing % height
        return room if room >= height // 4 else room + height

    def run(self, parts: Sequence[Part]) -> list[Tensor]:
        """Lit chaque part à la suite de sa place ; rend ses logits (1, V), ou (T, V) si `every`."""
        if self._uniform is None:
            found = self._run_plain(parts)
        else:
            found = [torch.empty(0)] * len(parts)
            for wide in (False, True):
                chosen = [i for i, part in enumerate(parts) if self._is_wide(part) is wide]
                for index, logits in zip(
                    chosen, self._run_uniform([parts[i] for i in chosen], wide=wide), strict=True
                ):
                    found[index] = logits
        for part in parts:
            # Relu, ce qu'écrit la forme étroite le serait par la large : à quelques bits près.
            rereadable = self._uniform is None or self._is_wide(part)
            known = part.tokens if rereadable else [UNKNOWN] * len(part.tokens)
            self._pool.note(part.slot, known)
        return found

    def _is_wide(self, part: Part) -> bool:
        return part.prompt or self._wide_writers

    def _run_uniform(self, parts: Sequence[Part], *, wide: bool) -> list[Tensor]:
        """Remplit des passages de parts mises bout à bout, coupées où il le faut."""
        found: list[list[Tensor]] = [[] for _ in parts]
        left = [(index, 0) for index in range(len(parts))]  # part, tokens déjà lus
        while left:
            room, pieces, rest = self._rows[wide], [], []
            for index, start in left:
                stop = min(start + room, len(parts[index].tokens))
                room -= stop - start
                if stop > start:
                    pieces.append((index, start, stop))
                if stop < len(parts[index].tokens):
                    rest.append((index, stop))
            for index, logits in self._read(parts, pieces, wide=wide):
                found[index].append(logits)
            left = rest
        return [torch.cat(each) if len(each) > 1 else each[0] for each in found]

    def _read(
        self, parts: Sequence[Part], pieces: Sequence[tuple[int, int, int]], *, wide: bool
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
        logits = model.read_uniform(tokens, view, wide=wide, wanted=wanted)
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
