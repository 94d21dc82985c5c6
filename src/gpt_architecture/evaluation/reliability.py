"""Peut-on se fier à un modèle ? Sa confiance est-elle juste ; approché, que perd-il de l'original.

La calibration demande si le token le plus probable est le bon aussi souvent que le modèle le
croit ; la fidélité compare un modèle quantifié à sa référence. Formes : N tokens du texte,
T tokens d'une fenêtre, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.likelihood import perplexity_of
from gpt_architecture.french import counted

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


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Deux modèles comparés sur le même texte.

    Attributes:
        tokens: tokens prédits.
        reference_nll: −log p moyen du modèle de référence, en nats par token.
        candidate_nll: celui du modèle approché.
        agreement: part des positions où leurs tokens les plus probables sont le même.
    """

    tokens: int
    reference_nll: float
    candidate_nll: float
    agreement: float

    @property
    def reference_perplexity(self) -> float:
        """exp(−log p moyen) de la référence."""
        return perplexity_of(self.reference_nll)

    @property
    def candidate_perplexity(self) -> float:
        """exp(−log p moyen) du modèle approché."""
        return perplexity_of(self.candidate_nll)

    @property
    def relative_gap(self) -> float:
        """Hausse relative de la perplexité : 0,01 vaut 1 %."""
        return math.expm1(self.candidate_nll - self.reference_nll)


def calibrate(
    model: CausalLM,
    token_ids: Tensor,
    *,
    window: int,
    bins: int = BINS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Mesure la calibration sur un texte, en fenêtres qui se suivent (voir `compare_models`).

    Args:
        token_ids: (N,) int64.
        window: tokens prédits par fenêtre (T), au plus le contexte du modèle.
        bins: tranches de confiance, de même largeur.
        on_progress: appelé avec (tokens faits, tokens en tout).

    Raises:
        ConfigurationError: `window` ou `bins` hors bornes.
        DataError: moins de deux tokens.
    """
    check_int("bins", bins, minimum=1, maximum=1000)
    confidence, right, nll = list[Tensor](), list[Tensor](), 0.0
    with torch.inference_mode(), evaluation_mode(model):
        for inputs, targets in _windows(model, token_ids, window, on_progress):
            log_probs = F.log_softmax(model(inputs)[0].float(), dim=-1)  # (T, V)
            nll += F.nll_loss(log_probs, targets, reduction="sum").item()
            best = log_probs.max(dim=-1)
            confidence.append(best.values.exp().double().cpu())  # (T,)
            right.append((best.indices == targets).cpu())
    return calibration_of(torch.cat(confidence), torch.cat(right), nll, bins=bins)


def calibration_of(
    confidence: Tensor, right: Tensor, nll: float, *, bins: int = BINS
) -> Calibration:
    """La calibration de prédictions déjà faites.

    Args:
        confidence: (N,) probabilité de ce qui est prédit, dans [0, 1].
        right: (N,) booléen, vrai si c'était le bon.
        nll: somme des −log p du vrai, en nats.
        bins: tranches de confiance, de même largeur.
    """
    counts, confidences, rights = torch.zeros(3, bins, dtype=torch.float64)
    confidence = confidence.double()
    places = (torch.ceil(confidence * bins).long() - 1).clamp(0, bins - 1)
    counts.index_add_(0, places, torch.ones_like(confidence))
    confidences.index_add_(0, places, confidence)
    rights.index_add_(0, places, right.double())
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
        tokens=len(confidence),
        nll=nll / len(confidence),
    )


def compare_models(
    reference: CausalLM,
    candidate: CausalLM,
    token_ids: Tensor,
    *,
    window: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fidelity:
    """Mesure les deux modèles sur un texte qu'ils n'ont pas appris.

    Le texte est découpé en fenêtres qui se suivent ; chaque token, le premier excepté, est prédit
    une fois, depuis ce qui le précède dans sa fenêtre.

    Args:
        token_ids: (N,) int64.
        window: tokens prédits par fenêtre (T), au plus le contexte des modèles.
        on_progress: appelé avec (tokens faits, tokens en tout).

    Raises:
        ConfigurationError: `window` hors bornes.
        DataError: moins de deux tokens.
    """
    sums, agreed = [0.0, 0.0], 0
    with torch.no_grad(), evaluation_mode(reference), evaluation_mode(candidate):
        for inputs, targets in _windows(reference, token_ids, window, on_progress):
            choices = []
            for index, model in enumerate((reference, candidate)):
                logits = model(inputs.to(model.device))[0]  # (T, V)
                wanted = targets.to(model.device)
                sums[index] += F.cross_entropy(logits, wanted, reduction="sum").item()
                choices.append(logits.argmax(dim=-1).cpu())
            agreed += int((choices[0] == choices[1]).sum())
    total = len(token_ids) - 1
    return Fidelity(
        tokens=total,
        reference_nll=sums[0] / total,
        candidate_nll=sums[1] / total,
        agreement=agreed / total,
    )


def _windows(
    model: CausalLM,
    token_ids: Tensor,
    window: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ce que `model` lit (1, T) et doit prédire (T,), fenêtre après fenêtre, là où il calcule."""
    check_int("window", window, minimum=1, maximum=model.cfg.context_length)
    total = len(token_ids) - 1
    if total < 1:
        raise DataError(
            f"texte de {counted(len(token_ids), 'token')}",
            expected="au moins deux tokens",
            remedy="donnez un texte plus long",
        )
    token_ids = token_ids.to(model.device)
    for start in range(0, total, window):
        stop = min(start + window, total)
        yield token_ids[start:stop].unsqueeze(0), token_ids[start + 1 : stop + 1]
        if on_progress is not None:
            on_progress(stop, total)
