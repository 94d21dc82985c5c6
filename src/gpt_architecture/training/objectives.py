"""Ce qu'une étape fait apprendre à la place de l'entropie croisée, et ce qu'elle en mesure.

Un objectif ne voit que les logits des tokens qu'il demande : le moteur, autograd ou fusionné,
s'occupe du reste. `LabelObjective`, `PreferenceObjective` et `DistillationObjective` en sont.

Formes : B lot, T tokens, n tokens demandés, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt_architecture.data.sampler import IGNORED


class Scorer(Protocol):
    """Les logits d'un modèle, sans dropout ni gradient."""

    def __call__(
        self, inputs: Tensor, positions: Tensor, document_starts: Tensor | None = None
    ) -> Tensor:
        """Logits (n, V) fp32 de certains tokens.

        Args:
            inputs: (B, T) int64.
            positions: (n,) int64, rangs de ces tokens dans le lot aplati.
            document_starts: voir `step.Batch`.
        """
        ...


class Objective(Protocol):
    """Une perte sur les logits de certains tokens."""

    def positions(self, batch: Any) -> Tensor:
        """(n,) int64, croissants : les tokens du lot aplati dont elle veut les logits."""
        ...

    def __call__(self, logits: Tensor, batch: Any) -> Tensor:
        """Logits (n, V) de ces tokens → perte moyenne du lot, avec son graphe."""
        ...

    def take(self) -> Mapping[str, Tensor]:
        """Les mesures de l'étape, par nom ; la suivante repart de rien."""
        ...


class Measures:
    """Les moyennes d'une étape, ajoutées lot après lot."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, share: float, values: Mapping[str, Tensor]) -> None:
        """Ajoute les moyennes d'un lot, pour sa part de l'étape."""
        for name, value in values.items():
            found = value.detach().to("cpu", torch.float64) * share  # MPS n'a pas de fp64
            self._sums[name] = found if name not in self._sums else self._sums[name] + found

    def take(self) -> dict[str, Tensor]:
        """Les moyennes ; repart de rien."""
        found, self._sums = self._sums, {}
        return found


def learned_positions(targets: Tensor) -> Tensor:
    """(n,) int64 : les tokens du lot aplati qui ont une cible, d'après `targets` (B, T)."""
    return (targets.flatten() != IGNORED).nonzero().squeeze(1)


def log_probs_of(logits: Tensor, targets: Tensor) -> Tensor:
    """log p (n,) fp32 de chaque cible (n,) sous ses logits (n, V)."""
    wanted = targets.to(logits.device)
    return -torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
