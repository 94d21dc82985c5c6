"""Un pas du moteur : ce que chaque place lit, et les passages du modèle qui le lisent.

Formes : B places, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.serving.slots import SlotPool


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


def run_parts(model: CausalLM, pool: SlotPool, parts: Sequence[Part]) -> list[Tensor]:
    """Lit chaque part à la suite de sa place ; rend ses logits, (1, V), ou (T, V) si `every`.

    Les parts d'un seul token passent ensemble ; les autres, une par une : compléter les courtes
    à la longueur des longues coûterait plus que relire les poids.
    """
    found: list[Tensor | None] = [None] * len(parts)
    single = [index for index, part in enumerate(parts) if len(part.tokens) == 1]
    if single:
        logits = _forward(model, pool, [parts[index] for index in single])
        for row, index in enumerate(single):
            found[index] = logits[row]
    for index, part in enumerate(parts):
        if found[index] is None:
            found[index] = _forward(model, pool, [part])[0]
    for part in parts:
        pool.note(part.slot, part.tokens)
    return [each for each in found if each is not None]


def _forward(model: CausalLM, pool: SlotPool, parts: Sequence[Part]) -> Tensor:
    """Parts de même longueur T → logits (B, T, V) ; (B, 1, V) si seul le dernier est voulu."""
    device = pool.cache.storage.device
    ids = torch.tensor([list(part.tokens) for part in parts], device=device)  # (B, T)
    every = any(part.every for part in parts)
    last = torch.full((len(parts),), ids.size(1) - 1, device=device)
    return model(ids, pool.view([part.slot for part in parts]), at=None if every else last)
