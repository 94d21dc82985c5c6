"""Des logits au token : le tirage.

Formes : B lot, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import check_float
from gpt_architecture.decoding.strategies import divide_by_temperature, greedy
from gpt_architecture.errors import NonFiniteError

NextToken = Callable[[Tensor], Tensor]
"""Choix du token suivant : logits (B, V) → identifiants (B, 1) int64."""


def greedy_token(logits: Tensor) -> Tensor:
    """Le plus probable : (B, V) → (B, 1).

    Raises:
        NonFiniteError: les logits ne sont pas des nombres.
    """
    check_logits(logits)
    return greedy(logits)


def sampled_token(
    temperature: float,
    keep: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> NextToken:
    """Tirage au sort : température, puis filtre `keep`, puis tirage avec `generator`.

    Le filtre voit les logits divisés par la température, comme dans Transformers : top-p
    retient donc la masse p de la distribution d'où l'on tire. Une température de 0 est un
    choix glouton, sans tirage.
    """
    check_float("temperature", temperature, minimum=0.0)

    def choose(logits: Tensor) -> Tensor:
        check_logits(logits)
        if temperature == 0:
            return greedy(logits)
        scaled = divide_by_temperature(logits, temperature)
        if keep is not None:
            scaled = keep(scaled)
        return draw(scaled, generator)

    return choose


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Un token au sort dans softmax(logits) : (B, V) → (B, 1).

    Un nombre uniforme par ligne, placé dans les probabilités cumulées : `torch.multinomial` en
    tire un par token du vocabulaire, dix fois plus lent. Un token retiré n'est jamais tiré.
    """
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # mps s'arrête là
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1, dtype=precise)  # (B, V)
    total = cumulative[:, -1:]
    place = torch.rand(total.shape, dtype=precise, device=logits.device, generator=generator)
    place = torch.minimum(place * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, place, right=True)


def check_logits(logits: Tensor) -> None:
    """Refuse des logits (…, V) dont le plus grand n'est pas un nombre fini.

    Raises:
        NonFiniteError: le modèle a produit autre chose que des nombres.
    """
    if not _is_finite(logits):
        raise NonFiniteError("le modèle a produit des logits NaN ou infinis")


def _is_finite(logits: Tensor) -> bool:
    """Vrai si le plus grand logit de chaque ligne est fini ; un NaN s'y propage."""
    if logits.device.type == "cpu" and logits.dtype is torch.float32:
        # NumPy compare par vecteurs : dix fois plus vite que PyTorch, par ligne de vocabulaire.
        return bool(np.isfinite(logits.detach().numpy().max(axis=-1)).all())
    return bool(torch.isfinite(logits.amax(dim=-1)).all())
