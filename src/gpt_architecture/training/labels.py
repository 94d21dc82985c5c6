"""Classer et noter : la perte d'exemples étiquetés, chacun jugé sur son dernier token.

Formes : B lot, T tokens, n textes jugés, L sorties de la tête.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gpt_architecture.core.heads import Criterion, class_loss, label_loss, value_loss
from gpt_architecture.data.labelled import LabelledData
from gpt_architecture.training.losses import EvaluationLoss
from gpt_architecture.training.objectives import Scorer, learned_positions
from gpt_architecture.training.step import Batch


class LabelObjective:
    """La perte d'un lot d'exemples étiquetés ; voir `objectives.Objective`.

    Args:
        labelled: ce qu'ils font apprendre : une classe, pesée s'il le faut, ou une valeur.
    """

    def __init__(self, labelled: LabelledData) -> None:
        weights = labelled.weights
        self._loss: Criterion = label_loss if weights is None else class_loss(weights)
        if labelled.head.is_regression:
            self._loss = value_loss

    def positions(self, batch: Batch) -> Tensor:
        """Le dernier token de chaque texte."""
        return learned_positions(batch.targets)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sorties de la tête (n, L) à ces tokens → perte moyenne d'un texte."""
        return self._of(logits, batch.targets)

    def take(self) -> Mapping[str, Tensor]:
        """Voir `Objective.take` : rien de plus que la perte."""
        return {}

    def measured(self, score: Scorer) -> EvaluationLoss:
        """La perte d'évaluation d'un modèle, d'après ce que sa tête rend."""

        @torch.no_grad()
        def loss(inputs: Tensor, targets: Tensor, document_starts: Tensor | None = None) -> Tensor:
            outputs = score(inputs, learned_positions(targets), document_starts)
            return self._of(outputs, targets)

        return loss

    def _of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.flatten()[learned_positions(targets)]
        return self._loss(outputs, wanted.to(outputs.device))
