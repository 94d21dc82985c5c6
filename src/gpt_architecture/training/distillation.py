"""Distiller : l'élève apprend le texte, et les probabilités d'un professeur (Hinton et al., 2015).

La perte est (1 − α) × entropie croisée + α × T² × KL(professeur ‖ élève), les deux distributions à
la température T ; T² garde aux gradients leur grandeur. Le professeur ne change pas.

Son gradient s'écrit : (1 − α)(q − y) + α T (qₜ − pₜ). Il est calculé avec elle, par paquets de
tokens qui tiennent dans les caches, plutôt que par une douzaine de passages sur tous les logits.

Formes : B lot, T tokens, n tokens appris, V vocabulaire.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import ObjectiveConfig
from gpt_architecture.training.objectives import Measures, Scorer, learned_positions
from gpt_architecture.training.step import Batch

_CHUNK = 1 << 18
"""Logits calculés ensemble : 1 Mio en fp32."""


class DistillationObjective:
    """La perte de distillation d'un lot ; voir `objectives.Objective`.

    Args:
        teacher: les logits du professeur.
        config: température et part du professeur.
    """

    def __init__(self, teacher: Scorer, config: ObjectiveConfig) -> None:
        self._teacher, self._config = teacher, config
        self._measures = Measures()

    def positions(self, batch: Batch) -> Tensor:
        """Les tokens qui s'apprennent."""
        return learned_positions(batch.targets)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits (n, V) de l'élève → perte moyenne d'un token."""
        places = self.positions(batch)
        taught = self._teacher(batch.inputs, places, batch.document_starts).to(logits.device)
        targets = batch.targets.flatten()[places].to(logits.device)
        loss, cross_entropy, kl = _Distillation.apply(  # type: ignore[no-untyped-call]
            logits, taught, targets, self._config.distill_temperature, self._config.distill_alpha
        )
        self._measures.add(batch.share, {"cross_entropy": cross_entropy, "kl": kl})
        return loss  # type: ignore[no-any-return]

    def take(self) -> dict[str, Tensor]:
        """Voir `Objective.take` : l'entropie croisée, et la divergence à la température."""
        return self._measures.take()


class _Distillation(torch.autograd.Function):
    """La perte, ses deux termes, et le gradient de la perte."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, taught: Tensor, targets: Tensor, temperature: float, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits de l'élève (n, V), du professeur (n, V ou plus), cibles (n,) → trois scalaires."""
        count, width = logits.shape
        grad = torch.empty_like(logits, dtype=torch.float32)
        sums = torch.zeros(2, device=logits.device)  # fp32 : MPS n'a pas de fp64
        rows = max(1, _CHUNK // width)
        for first in range(0, count, rows):
            part = slice(first, first + rows)
            scores = logits[part].float()
            theirs = taught[part, :width].float() / temperature  # sans les lignes vides du sien
            mine = scores / temperature
            wanted = targets[part, None]
            log_p = torch.log_softmax(theirs, dim=-1)
            log_q = torch.log_softmax(mine, dim=-1)
            p, plain = log_p.exp(), torch.log_softmax(scores, dim=-1)
            sums[0] -= plain.gather(1, wanted).sum()
            sums[1] += (p * log_p.sub_(log_q)).sum()
            own = grad[part]
            torch.exp(plain, out=own)
            own.scatter_add_(1, wanted, own.new_full(wanted.shape, -1.0)).mul_(1 - alpha)
            own.add_(log_q.exp_().sub_(p), alpha=alpha * temperature)
        ctx.save_for_backward(grad.div_(count))
        ctx.dtype = logits.dtype
        cross_entropy, kl = sums / count
        loss = (1 - alpha) * cross_entropy + alpha * temperature**2 * kl
        ctx.mark_non_differentiable(cross_entropy, kl)
        return loss, cross_entropy, kl

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Le gradient de la perte, déjà calculé."""
        (grad,) = ctx.saved_tensors
        return (grad * outputs[0]).to(ctx.dtype), None, None, None, None
