"""Ce qu'un modèle approché (quantifié) perd sur un texte : perplexité, et tokens gloutons.

Formes : N tokens du texte, T tokens d'une fenêtre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import perplexity_of


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
    check_int("window", window, minimum=1, maximum=reference.cfg.context_length)
    total = len(token_ids) - 1
    if total < 1:
        raise DataError(
            f"texte de {len(token_ids)} token(s)",
            expected="au moins deux tokens",
            remedy="donnez un texte plus long",
        )
    sums, agreed = [0.0, 0.0], 0
    with torch.no_grad(), evaluation_mode(reference), evaluation_mode(candidate):
        for start in range(0, total, window):
            stop = min(start + window, total)
            inputs, targets = token_ids[start:stop].unsqueeze(0), token_ids[start + 1 : stop + 1]
            choices = []
            for index, model in enumerate((reference, candidate)):
                logits = model(inputs)[0]  # (T, V)
                sums[index] += F.cross_entropy(logits, targets, reduction="sum").item()
                choices.append(logits.argmax(dim=-1))
            agreed += int((choices[0] == choices[1]).sum())
            if on_progress is not None:
                on_progress(stop, total)
    return Fidelity(
        tokens=total,
        reference_nll=sums[0] / total,
        candidate_nll=sums[1] / total,
        agreement=agreed / total,
    )
