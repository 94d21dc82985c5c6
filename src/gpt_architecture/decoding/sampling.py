"""Des logits au token : le tirage, et sa configuration.

Formes : B lot, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from gpt_architecture.config import (
    MAX_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    StrategyName,
    check_float,
    check_int,
)
from gpt_architecture.decoding.strategies import divide_by_temperature, greedy, top_k, top_p
from gpt_architecture.errors import ConfigurationError, GenerationError

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

NextToken = Callable[[Tensor], Tensor]
"""Choix du token suivant : logits (B, V) → identifiants (B, 1) int64."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Comment générer ; immuable et validée.

    Attributes:
        strategy: `greedy`, `temperature`, `top_k` ou `top_p`.
        max_tokens: nombre de tokens à produire, au plus.
        temperature: 0 revient à `greedy` ; sans effet sur `greedy`.
        k: nombre de tokens gardés par `top_k`.
        p: masse de probabilité gardée par `top_p`.
        seed: graine du tirage ; None : imprévisible.

    Raises:
        ConfigurationError: stratégie inconnue ou valeur hors bornes.
    """

    strategy: StrategyName = "greedy"
    max_tokens: int = MAX_TOKENS
    temperature: float = TEMPERATURE
    k: int = TOP_K
    p: float = TOP_P
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigurationError(
                f"stratégie inconnue : {self.strategy!r}",
                expected=", ".join(STRATEGIES),
                remedy="corrigez strategy",
            )
        check_int("max_tokens", self.max_tokens, minimum=1, maximum=1_000_000)
        check_float("temperature", self.temperature, minimum=0.0)
        check_int("k", self.k, minimum=1)
        check_float("p", self.p, minimum=0.0, maximum=1.0)
        if self.seed is not None:
            check_int("seed", self.seed, minimum=0, maximum=2**63 - 1)

    def next_token(self, device: torch.device | str = "cpu") -> NextToken:
        """La fonction de choix, avec son propre générateur ; une par génération."""
        if self.strategy == "greedy":
            return greedy_token
        generator = torch.Generator(device=device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        filters: dict[StrategyName, Callable[[Tensor], Tensor]] = {
            "top_k": lambda logits: top_k(logits, self.k),
            "top_p": lambda logits: top_p(logits, self.p),
        }
        return sampled_token(self.temperature, filters.get(self.strategy), generator)


def greedy_token(logits: Tensor) -> Tensor:
    """Le plus probable : (B, V) → (B, 1).

    Raises:
        GenerationError: les logits ne sont pas des nombres.
    """
    _check_logits(logits)
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
        _check_logits(logits)
        if temperature == 0:
            return greedy(logits)
        scaled = divide_by_temperature(logits, temperature)
        if keep is not None:
            scaled = keep(scaled)
        probabilities = torch.softmax(scaled, dim=-1)
        return torch.multinomial(probabilities, num_samples=1, generator=generator)

    return choose


def _check_logits(logits: Tensor) -> None:
    maximum = logits.amax(dim=-1)  # un NaN s'y propage
    if not bool(torch.isfinite(maximum).all()):
        raise GenerationError(
            "le modèle a produit des logits NaN ou infinis",
            expected="des nombres finis",
            remedy="réentraînez le modèle avec un taux d'apprentissage plus bas",
        )
