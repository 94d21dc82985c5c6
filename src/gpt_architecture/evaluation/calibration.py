"""Un modèle a-t-il raison aussi souvent qu'il le croit ? Calibration du token le plus probable.

Formes : N tokens du texte, T tokens d'une fenêtre, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import perplexity_of

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Les prédictions dont la confiance tombe dans ]low, high].

    Attributes:
        low: confiance exclue.
        high: confiance incluse.
        count: prédictions.
        confidence: probabilité moyenne du token le plus probable ; 0 s'il n'y en a aucune.
        accuracy: part des fois où c'était le bon ; 0 s'il n'y en a aucune.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Confiance et exactitude d'un modèle sur un texte.

    Attributes:
        bins: par confiance croissante.
        tokens: tokens prédits.
        nll: −log p moyen du vrai token, en nats.
    """

    bins: tuple[Bin, ...]
    tokens: int
    nll: float

    @property
    def perplexity(self) -> float:
        """exp(−log p moyen), infinie si elle ne tient pas dans un flottant."""
        return perplexity_of(self.nll)

    @property
    def confidence(self) -> float:
        """Probabilité moyenne du token le plus probable."""
        return sum(each.count * each.confidence for each in self.bins) / self.tokens

    @property
    def accuracy(self) -> float:
        """Part des fois où le token le plus probable est le vrai."""
        return sum(each.count * each.accuracy for each in self.bins) / self.tokens

    @property
    def error(self) -> float:
        """Écart moyen entre exactitude et confiance, par tranche (ECE, Guo et al., 2017)."""
        gaps = (each.count * abs(each.accuracy - each.confidence) for each in self.bins)
        return sum(gaps) / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """En types simples, pour un programme."""
        return {
            "tokens": self.tokens,
            "perplexity": self.perplexity,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
            "calibration_error": self.error,
        }


def calibrate(
    model: CausalLM,
    token_ids: Tensor,
    *,
    window: int,
    bins: int = BINS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Mesure la calibration sur un texte, en fenêtres qui se suivent.

    Chaque token, le premier excepté, est prédit une fois, depuis ce qui le précède dans sa
    fenêtre.

    Args:
        token_ids: (N,) int64.
        window: tokens prédits par fenêtre (T), au plus le contexte du modèle.
        bins: tranches de confiance, de même largeur.
        on_progress: appelé avec (tokens faits, tokens en tout).

    Raises:
        ConfigurationError: `window` ou `bins` hors bornes.
        DataError: moins de deux tokens.
    """
    check_int("window", window, minimum=1, maximum=model.cfg.context_length)
    check_int("bins", bins, minimum=1, maximum=1000)
    total = len(token_ids) - 1
    if total < 1:
        raise DataError(
            f"texte de {len(token_ids)} token(s)",
            expected="au moins deux tokens",
            remedy="donnez un texte plus long",
        )
    counts, confidences, rights = torch.zeros(3, bins, dtype=torch.float64)
    nll = 0.0
    device = model.new_cache(1, 1).storage.device
    with torch.inference_mode(), evaluation_mode(model):
        for start in range(0, total, window):
            stop = min(start + window, total)
            inputs = token_ids[start:stop].unsqueeze(0).to(device)
            targets = token_ids[start + 1 : stop + 1].to(device)
            log_probs = F.log_softmax(model(inputs)[0].float(), dim=-1)  # (T, V)
            nll += F.nll_loss(log_probs, targets, reduction="sum").item()
            best = log_probs.max(dim=-1)
            confidence = best.values.exp().double().cpu()  # (T,)
            right = (best.indices == targets).double().cpu()
            places = (torch.ceil(confidence * bins).long() - 1).clamp(0, bins - 1)
            counts.index_add_(0, places, torch.ones_like(confidence))
            confidences.index_add_(0, places, confidence)
            rights.index_add_(0, places, right)
            if on_progress is not None:
                on_progress(stop, total)
    sizes = counts.clamp(min=1)
    return Calibration(
        bins=tuple(
            Bin(
                low=place / bins,
                high=(place + 1) / bins,
                count=int(counts[place]),
                confidence=float(confidences[place] / sizes[place]),
                accuracy=float(rights[place] / sizes[place]),
            )
            for place in range(bins)
        ),
        tokens=total,
        nll=nll / total,
    )
