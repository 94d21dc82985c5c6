"""Les passages d'un modèle : ce que des lignes d'un cache lisent de nouveau, et ce qui les suit.

Un lot, une recherche, une vérification de propositions, une notation et le pas du service ne
diffèrent que par ce qu'ils donnent à lire ; ici se décide comment le lire. Un modèle compacté peut
mêler dans un passage des parts de toutes longueurs, ou lire plusieurs tokens avec les bits d'une
lecture un par un ; tout autre modèle lit ensemble les parts de même longueur.

Formes : B parts, T tokens d'une part, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import CacheView, KVCache
from gpt_architecture.core.model import CausalLM

_PASS_COST = 20
"""Tokens dont le calcul dure ce que dure la lecture des poids : un GPT-2 124M en fp32, sur deux
cœurs, lit un millier de tokens d'une invite par seconde, et en écrit une quarantaine."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Ce qu'une ligne du cache lit de nouveau.

    Attributes:
        row: la ligne.
        tokens: ce qui suit ce qu'elle a lu, au moins un.
        every: vrai : les logits de chaque token ; faux : ceux du dernier.
    """

    row: int
    tokens: Sequence[int]
    every: bool = False


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
class TokenwiseLM(Protocol):
    """Un modèle qui lit plusieurs tokens avec les bits d'une lecture un par un."""

    def read_apart(self, tokens: Sequence[int], cache: KVCache) -> Tensor | None:
        """Logits (T, V) qui suivent chacun ; None : il ne le peut pas, et n'a rien lu."""
        ...


class CacheReader:
    """Fait lire leurs parts aux lignes d'un cache.

    Args:
        model: rend des logits (B, T, V) ; qui s'en sert l'a mis en évaluation, sous
            `inference_mode`.
        mixed: mêle des parts de toutes longueurs si le modèle le sait : les logits d'une ligne ne
            dépendent alors que d'elle, au bit près. Ce ne sont pas les bits des autres lectures.
        tokenwise: les logits d'une part seule ont les bits d'une lecture token par token, tant que
            le modèle le sait : vérifier des propositions ne change alors rien au texte. Une part
            trop longue pour cela est lue comme ailleurs, en un passage.
    """

    def __init__(self, model: CausalLM, *, mixed: bool = False, tokenwise: bool = False) -> None:
        self._model = model
        self._uniform: UniformLM | None = None
        self._tokenwise: TokenwiseLM | None = None
        self.height = 0
        if mixed and isinstance(model, UniformLM) and model.uniform_rows > 0:
            self._uniform, self.height = model, model.uniform_rows
        elif tokenwise and isinstance(model, TokenwiseLM):
            self._tokenwise = model

    @property
    def is_uniform(self) -> bool:
        """Vrai si les logits d'une ligne ne dépendent que d'elle ; `height` tokens par passage."""
        return self._uniform is not None

    @property
    def is_tokenwise(self) -> bool:
        """Vrai si quelques tokens d'une part seule ont les bits d'une lecture un par un."""
        return self._tokenwise is not None

    def run(self, cache: KVCache, parts: Sequence[Part]) -> list[Tensor]:
        """Lit chaque part à la suite de sa ligne ; rend ses logits (1, V), ou (T, V) si `every`.

        Args:
            cache: celui du modèle.
            parts: de lignes distinctes ; les autres lignes ne bougent pas.
        """
        if self._uniform is not None:
            return self._mixed(self._uniform, cache, parts)
        if self._tokenwise is not None and len(parts) == 1 and parts[0].every:
            view = _view(cache, [parts[0].row])
            apart = self._tokenwise.read_apart(parts[0].tokens, view)
            return self._together(cache, parts) if apart is None else [apart]
        found = [torch.empty(0)] * len(parts)
        for group in _groups(parts, cache):
            logits = self._together(cache, [parts[index] for index in group])
            for index, each in zip(group, logits, strict=True):
                found[index] = each
        return found

    def _together(self, cache: KVCache, parts: Sequence[Part]) -> list[Tensor]:
        """Un passage de toutes les parts, les courtes complétées à droite.

        L'ordre causal cache ce qui est au-delà d'une part ; sa ligne l'oublie ensuite.
        """
        sizes = [len(part.tokens) for part in parts]
        longest = max(sizes)
        rows = [[*part.tokens, *[0] * (longest - len(part.tokens))] for part in parts]
        view = _view(cache, [part.row for part in parts])
        ends = [length + size for length, size in zip(view.lengths, sizes, strict=True)]
        device = self._model.device
        ids = torch.tensor(rows, dtype=torch.int64, device=device)  # (B, T)
        every = any(part.every for part in parts)
        last = torch.tensor([size - 1 for size in sizes], dtype=torch.int64, device=device)
        # Une invite ne demande que ses derniers logits : la tête coûte cher ailleurs.
        logits = self._model(ids, view, at=None if every else last)
        if min(sizes) < longest:
            view.rewind_(ends)
        if not every:
            return list(logits)
        pairs = zip(parts, sizes, logits, strict=True)
        return [each[:size] if part.every else each[size - 1 : size] for part, size, each in pairs]

    def _mixed(self, model: UniformLM, cache: KVCache, parts: Sequence[Part]) -> list[Tensor]:
        """Remplit des passages de parts mises bout à bout, coupées où il le faut."""
        found: list[list[Tensor]] = [[] for _ in parts]
        left = [(index, 0) for index in range(len(parts))]  # part, tokens déjà lus
        while left:
            room, pieces, rest = self.height, list[tuple[int, int, int]](), list[tuple[int, int]]()
            for index, start in left:
                stop = min(start + room, len(parts[index].tokens))
                room -= stop - start
                if stop > start:
                    pieces.append((index, start, stop))
                if stop < len(parts[index].tokens):
                    rest.append((index, stop))
            wanted, owners, row = list[int](), list[tuple[int, int]](), 0
            for index, start, stop in pieces:
                row += stop - start
                ends = stop == len(parts[index].tokens)
                size = stop - start if parts[index].every else int(ends)
                if size:
                    wanted += range(row - size, row)
                    owners.append((index, size))
            tokens = [parts[index].tokens[start:stop] for index, start, stop in pieces]
            view = _view(cache, [parts[index].row for index, _, _ in pieces])
            logits = model.read_uniform(tokens, view, wanted=wanted)
            split = torch.split(logits, [size for _, size in owners])
            for (index, _), each in zip(owners, split, strict=True):
                found[index].append(each)
            left = rest
        return [torch.cat(each) if len(each) > 1 else each[0] for each in found]


def _groups(parts: Sequence[Part], cache: KVCache) -> list[list[int]]:
    """Rangs des parts que lit chaque passage : celles d'un token, puis chacune des autres.

    Toutes en un seul, si leurs lignes ont la place et que les compléter coûte moins que ces
    passages ; une carte, qu'un passage occupe à peine, n'en fait jamais plusieurs.
    """
    sizes = [len(part.tokens) for part in parts]
    longest = max(sizes)
    together = [list(range(len(parts)))]
    fits = max(cache.lengths[part.row] for part in parts) + longest <= cache.capacity
    if min(sizes) == longest or (fits and cache.storage.device.type != "cpu"):
        return together
    single = [index for index, size in enumerate(sizes) if size == 1]
    groups = [*([single] if single else []), *([i] for i, size in enumerate(sizes) if size > 1)]
    padding = longest * len(sizes) - sum(sizes)
    return together if fits and padding <= _PASS_COST * (len(groups) - 1) else groups


def _view(cache: KVCache, rows: Sequence[int]) -> KVCache:
    """Ces lignes du cache ; lui-même si ce sont toutes les siennes, dans l'ordre."""
    return cache if list(rows) == list(range(len(cache.lengths))) else CacheView(cache, rows)
