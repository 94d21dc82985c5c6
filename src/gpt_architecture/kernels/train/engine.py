"""Le moteur fusionné, tel que la boucle d'entraînement l'emploie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.kernels.train.lean import LeanAdamW, LeanSink


class FusedEngine:
    """Perte et gradients d'un lot par `FusedStep`.

    Args:
        model: sur CPU, en fp32.
        seed: graine des masques d'abandon.
        lean: l'optimiseur du mode économe, qui met à jour les poids pendant l'arrière ; None :
            les gradients vont dans les `.grad`.
    """

    held_back = ()  # `training.backends.LeanEngine`, qui l'enveloppe, le sait

    def __init__(self, model: GPTModel, *, seed: int, lean: LeanAdamW | None = None) -> None:
        self._sink = None if lean is None else LeanSink(model, lean)
        self.step = FusedStep(model, seed=seed, sink=self._sink, recompute=lean is not None)

    def forward_backward(self, batch: Any, *, scale: float) -> Tensor:
        """Perte moyenne du lot ; NaN si un gradient du mode économe n'était pas fini.

        Args:
            batch: `inputs`, `targets` (B, T) et `sequence_ids` (B,), tous int64.
            scale: facteur des gradients.
        """
        before = 0 if self._sink is None else self._sink.skipped
        loss = self.step.forward_backward(
            batch.inputs, batch.targets, batch.sequence_ids, scale=scale
        )
        if self._sink is not None and self._sink.skipped > before:
            return torch.full_like(loss, torch.nan)
        return loss

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Perte moyenne (nats par token) de (B, T), sans abandon."""
        return self.step.loss(inputs, targets)
