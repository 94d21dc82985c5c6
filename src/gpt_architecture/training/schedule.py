"""Le taux d'apprentissage au fil des étapes : des fonctions pures de l'étape."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpt_architecture.config import ScheduleConfig

Schedule = Callable[[int], float]
"""Étape (depuis 0) → part du taux le plus haut, dans [0, 1]."""


def make_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """Le programme de `config` sur `total_steps` étapes.

    La montée est linéaire : l'étape 0 apprend déjà un peu, l'étape `warmup_steps` au plus
    haut. La descente part du plus haut et finit à `final_lr` à la dernière étape ; WSD (Hu et
    al., 2024) garde un palier avant de descendre.
    """
    warmup, final = config.warmup_steps, config.final_lr
    last = max(total_steps - 1, 1)
    start = warmup
    if config.schedule == "wsd":
        start = max(warmup, round(last * (1 - config.decay_fraction)))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - start) / max(last - start, 1)
        progress = min(max(progress, 0.0), 1.0)
        if config.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return 1.0 if config.schedule == "constant" else 1 - (1 - final) * progress

    return factor
