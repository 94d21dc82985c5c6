"""Mirostat v2 : un tirage qui tient la surprise moyenne près d'une cible (Basu et al., 2021).

La surprise d'un token est −log₂ de sa probabilité, en bits. À chaque pas, les tokens de
surprise > μ sont retirés, un token est tiré parmi le reste, et μ se corrige de l'écart entre
la surprise observée et la cible τ. Comme dans llama.cpp, la surprise observée est celle du
token dans la distribution où on l'a tiré, donc après le retrait.

Formes : V vocabulaire.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt_architecture.config import check_float
from gpt_architecture.decoding.sampling import draw


class Mirostat:
    """Le tirage d'une suite, avec son état.

    Args:
        tau: surprise visée, en bits, > 0.
        eta: vitesse de correction, > 0.
        generator: source des tirages ; None : le générateur global de PyTorch.

    Attributes:
        mu: surprise maximale admise au prochain pas, en bits ; d'abord 2τ.

    Raises:
        ConfigurationError: valeur hors bornes.
    """

    def __init__(self, tau: float, eta: float, generator: torch.Generator | None = None) -> None:
        check_float("mirostat_tau", tau, above=0.0)
        check_float("mirostat_eta", eta, above=0.0)
        self.mu = 2 * tau
        self._tau, self._eta, self._generator = tau, eta, generator

    def truncate(self, logits: Tensor) -> Tensor:
        """Retire les tokens de surprise > μ, sauf le plus probable : (V,) → (V,). L'état reste."""
        removed = _surprise(logits) > self.mu
        removed[logits.argmax()] = False
        return logits.masked_fill(removed, -torch.inf)

    def choose(self, logits: Tensor) -> int:
        """Retire, tire un token, corrige μ ; logits (V,)."""
        kept = self.truncate(logits)
        token = int(draw(kept.unsqueeze(0), self._generator))
        self.mu -= self._eta * (float(_surprise(kept)[token]) - self._tau)
        return token


def _surprise(logits: Tensor) -> Tensor:
    """Surprise de chaque token, en bits : (V,) → (V,) float32."""
    return torch.log_softmax(logits.float(), dim=-1) / -math.log(2)
