"""Ce que la boucle d'entraînement reçoit de qui l'assemble : un rythme, et des appelables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

StopCheck = Callable[[], bool]
Evaluate = Callable[[StopCheck], tuple[float, float] | None]
"""Rend (perte d'entraînement, perte de validation) ; None si l'arrêt demandé l'a interrompu."""
Sample = Callable[[StopCheck], str | None]
"""Rend un exemple de texte ; None si l'arrêt demandé l'a interrompu."""


class Store(Protocol):
    """Où vont les points de reprise (voir `training.checkpoint.CheckpointStore`).

    Tous les processus l'appellent ensemble ; à plusieurs, `DistributedStore` s'en charge.
    """

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Écrit le point de reprise de `step` étapes ; rend son dossier."""
        ...

    def mark_best(self, step: int) -> None:
        """Retient que ce point est le meilleur."""
        ...

    def flush(self) -> None:
        """Attend que ce qui s'écrit en arrière-plan soit publié ; lève ce qui l'a empêché."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Le rythme de la boucle.

    Attributes:
        total_steps: étapes de l'entraînement entier.
        clip: norme au-delà de laquelle le gradient est réduit ; None : jamais.
        max_bad_steps: étapes non finies de suite avant d'abandonner.
        eval_freq: étapes entre deux évaluations ; la première suit l'étape 0, et une dernière
            la dernière étape.
        save_every: étapes entre deux points de reprise ; None : le temps seul en décide.
        save_seconds: secondes entre deux points de reprise, au plus.
        save_best: écrit un point de reprise à chaque meilleure validation.
        save_last: écrit un point de reprise à la fin, même si aucun ne l'a été avant.
        extra: ce que chaque `state.json` porte en plus (options, identité, tokenizer…).
    """

    total_steps: int
    clip: float | None = None
    max_bad_steps: int = 5
    eval_freq: int = 5
    save_every: int | None = None
    save_seconds: float = math.inf
    save_best: bool = False
    save_last: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
