"""Lire des suites de même longueur, sans relire ce que le cache tient déjà.

Formes : B suites, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.decoding.batch import CHUNK


class Reader:
    """Rend les logits qui suivent des tokens, en ne lisant que ceux qui ont changé.

    On lui donne toujours les suites entières : il garde le début commun avec la lecture
    précédente et oublie le reste. Un token rejeté ou une fenêtre qui avance ne demandent donc
    rien de particulier.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens lus, au plus.
        capacity: positions que les suites peuvent atteindre.
    """

    def __init__(self, model: CausalLM, *, window: int, capacity: int) -> None:
        self._model, self._window = model, window
        self._capacity = min(window, capacity)
        self._rows = list[list[int]]()  # les tokens présents dans le cache
        self._cache: KVCache | None = None

    def read(self, rows: Sequence[Sequence[int]], *, count: int = 1) -> Tensor:
        """Logits (B, count, V) qui suivent chacun des `count` derniers tokens.

        Args:
            rows: identifiants de chaque suite, toutes de même longueur ; au-delà de la fenêtre,
                seuls les derniers comptent.
            count: au moins 1, au plus la fenêtre.
        """
        cropped = [list(row[-self._window :]) for row in rows]
        length = len(cropped[0])
        known = self._known(cropped, length - count)
        cache = self._prepare(len(rows), known)
        self._rows = [row[:known] for row in cropped]  # vrai même si la lecture est interrompue
        # Un début de texte ne demande que ses derniers logits : la tête coûte cher ailleurs.
        last = length if count == 1 else length - count
        logits = torch.empty(0)
        for first, end in pairwise([*range(known, last, CHUNK), last]):
            logits = self._forward([row[first:end] for row in cropped], cache, last_only=True)
        if count > 1:
            logits = self._forward([row[last:] for row in cropped], cache, last_only=False)
        self._rows = cropped
        return logits

    def select_(self, rows: Sequence[int]) -> None:
        """Garde, range ou répète des suites : la nouvelle i est l'ancienne `rows[i]`."""
        if self._cache is not None:
            self._cache.select_(rows)
            self._rows = [self._rows[row] for row in rows]

    def _known(self, rows: Sequence[list[int]], limit: int) -> int:
        """Longueur du début que toutes les suites ont déjà dans le cache, `limit` au plus."""
        if len(rows) != len(self._rows):
            return 0
        shared = (_common(new, old) for new, old in zip(rows, self._rows, strict=True))
        return min(limit, *shared)

    def _prepare(self, batch_size: int, known: int) -> KVCache:
        if self._cache is None or len(self._rows) != batch_size:
            self._cache = self._model.new_cache(batch_size, self._capacity)
        self._cache.rewind_([known] * batch_size)
        return self._cache

    def _forward(
        self, tokens: Sequence[Sequence[int]], cache: KVCache, *, last_only: bool
    ) -> Tensor:
        device = cache.storage.device
        ids = torch.tensor(tokens, dtype=torch.int64, device=device)
        at = torch.full((len(tokens),), ids.size(1) - 1, device=device) if last_only else None
        with torch.inference_mode(), evaluation_mode(self._model):
            return self._model(ids, cache, at=at)


def _common(first: list[int], second: list[int]) -> int:
    """Longueur du début commun."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    return next(i for i in range(size) if first[i] != second[i])
