"""Comparaison mesurée de stratégies de décodage sur un même début de texte.

Formes : T tokens du début, N tokens produits, V vocabulaire.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt_architecture.config import MAX_TOKENS
from gpt_architecture.core.model import CausalLM
from gpt_architecture.decoding.simple import stream_tokens
from gpt_architecture.decoding.config import GenerationConfig

Variants = Sequence[tuple[str, GenerationConfig]]

SIX_VARIANTS: Variants = (
    ("Glouton", GenerationConfig(strategy="greedy")),
    ("Température 0,3", GenerationConfig(strategy="temperature", temperature=0.3)),
    ("Température 1,0", GenerationConfig(strategy="temperature", temperature=1.0)),
    ("Température 2,0", GenerationConfig(strategy="temperature", temperature=2.0)),
    ("Top-k (k = 50)", GenerationConfig(strategy="top_k", k=50)),
    ("Top-p (p = 0,9)", GenerationConfig(strategy="top_p", p=0.9)),
)
"""Les six variantes du document d'origine : étiquette et configuration."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """Ce qu'une variante a produit, et ses mesures.

    Attributes:
        label: nom affiché.
        config: configuration de génération, graine comprise.
        tokens: identifiants produits (N), sans le début.
        distinct_1: part de tokens différents, dans [0, 1].
        distinct_2: part de paires de tokens différentes.
        repetition: part de quadruplets déjà vus (seq-rep-4, Welleck et al., 2020).
        mean_log_prob: moyenne des log p (nats) sous la distribution brute du modèle.
        seconds: durée de la génération.
    """

    label: str
    config: GenerationConfig
    tokens: tuple[int, ...]
    distinct_1: float
    distinct_2: float
    repetition: float
    mean_log_prob: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Débit, lecture du début comprise."""
        return len(self.tokens) / self.seconds if self.seconds > 0 else 0.0


def compare_strategies(
    model: CausalLM,
    prompt: Tensor,
    variants: Variants = SIX_VARIANTS,
    *,
    max_tokens: int = MAX_TOKENS,
    seed: int | None = None,
    context_size: int | None = None,
    eos_id: int | None = None,
) -> Iterator[VariantResult]:
    """Génère et mesure chaque variante, l'une après l'autre.

    Args:
        model: rend des logits (1, T, V).
        prompt: (1, T) int64, T ≥ 1.
        variants: étiquettes et configurations.
        max_tokens: remplace celui de chaque configuration.
        seed: remplace la graine de chaque configuration.
        context_size: derniers tokens relus, au plus ; None : le contexte du modèle.
        eos_id: token qui arrête une génération.

    Raises:
        ConfigurationError: début vide ou valeur hors bornes.
    """
    for label, variant in variants:
        config = replace(variant, max_tokens=max_tokens, seed=seed)
        choose = config.next_token(prompt.device)
        tokens: list[int] = []
        log_probs: list[float] = []
        start = time.perf_counter()
        for token, logits in stream_tokens(
            model, prompt, max_tokens, choose, context_size=context_size, eos_id=eos_id
        ):
            tokens.append(int(token))
            log_probs.append(torch.log_softmax(logits[0], dim=-1)[tokens[-1]].item())
        yield VariantResult(
            label=label,
            config=config,
            tokens=tuple(tokens),
            distinct_1=distinct_n(tokens, 1),
            distinct_2=distinct_n(tokens, 2),
            repetition=1.0 - distinct_n(tokens, 4),
            mean_log_prob=sum(log_probs) / len(log_probs),
            seconds=time.perf_counter() - start,
        )


def distinct_n(tokens: Sequence[int], n: int) -> float:
    """Part de n-grammes différents (Li et al., 2016), dans ]0, 1] ; 1 s'il n'y en a aucun."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
