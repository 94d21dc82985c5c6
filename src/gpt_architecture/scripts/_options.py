"""Options que plusieurs commandes partagent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from gpt_architecture.config import MAX_TOKENS, TEMPERATURE, TOP_K, TOP_P, StrategyName

if TYPE_CHECKING:
    from gpt_architecture.decoding.config import GenerationConfig

Prompt = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""Début de texte ; il peut commencer par un tiret, et « - » seul lit l'entrée standard."""


@Parameter(name="*", group=Group("Modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Quel modèle, et où le faire calculer."""

    model: Path | None = None
    """Fichier du modèle ; sans lui, gpt-model.pt ici ou dans un dossier parent."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""


@Parameter(name="*", group=Group("Décodage", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Comment choisir chaque token."""

    strategy: StrategyName = "greedy"
    """Stratégie de décodage."""

    max_tokens: int = MAX_TOKENS
    """Nombre de tokens à produire, au plus."""

    temperature: float = TEMPERATURE
    """Température : 0 est glouton, moins de 1 resserre, plus de 1 disperse."""

    k: int = TOP_K
    """Nombre de tokens gardés par top_k."""

    p: float = TOP_P
    """Masse de probabilité gardée par top_p, entre 0 et 1."""

    seed: int | None = None
    """Graine du tirage ; sans elle, un texte nouveau à chaque fois."""

    def to_config(self, fallback_seed: int) -> GenerationConfig:
        """La configuration validée ; `fallback_seed` sert si aucune graine n'est donnée."""
        from gpt_architecture.decoding.config import GenerationConfig

        return GenerationConfig(
            strategy=self.strategy,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            k=self.k,
            p=self.p,
            seed=fallback_seed if self.seed is None else self.seed,
        )
