"""L'avancement d'un entraînement, sur une barre, et ce que sa perte vaut."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from gpt_architecture.french import decimal, french_duration, french_number, percent
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.training.baselines import Baselines
from gpt_architecture.training.callbacks import Callback, StepRecord
from gpt_architecture.training.checkpoint import TrainingState

_UNSETTLED = 2
"""Étapes laissées hors du débit : la première compile, et une évaluation la suit."""

_FEWEST = 3
"""Étapes d'après, au moins, pour en dire quelque chose."""


class TrainingBar(Callback):
    """Fait avancer une barre.

    Le débit compte toute l'horloge, évaluations et exemples compris : le temps restant qui
    en découle est donc juste. La première étape et ce qui la suit n'y sont pas : les noyaux s'y
    compilent, une fois. La part du plafond est celle de l'étape seule.

    Args:
        bar: la barre, déjà en place.
        flops_per_token: opérations d'un token.
        peak_flops: opérations par seconde que la machine atteint.
    """

    def __init__(self, bar: ProgressBar, *, flops_per_token: int, peak_flops: float) -> None:
        self.bar = bar
        self._share = flops_per_token / peak_flops
        self._total_steps = 0
        self._steps_done = 0
        self._steps_here = 0
        self._tokens = 0
        self._settled = 0.0

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Fixe la longueur de la barre."""
        self._steps_done = state.step
        self._total_steps = total_steps
        self.bar.start(total_steps, state.step)

    def on_step(self, record: StepRecord) -> None:
        """Avance d'une étape."""
        self._steps_done = record.step + 1
        self._steps_here += 1
        if self._steps_here == _UNSETTLED:
            self._settled = time.perf_counter()
        elif self._steps_here > _UNSETTLED:
            self._tokens += record.tokens
        told = filter(None, (self.pace(), self._measures(record)))
        self.bar.update(self._steps_done, ", ".join(told))

    def on_event(self, step: int, message: str) -> None:
        """Dit, au-dessus de la barre, ce qui mérite de l'être."""
        del step
        self.bar.say(message)

    def _measures(self, record: StepRecord) -> str:
        parts = [f"perte {record.loss:.3f}", f"taux {record.lr:.1e}"]
        if record.grad_norm is not None and math.isfinite(record.grad_norm):
            parts.append(f"gradient {record.grad_norm:.2f}")
        if record.measures:
            parts.append(measures_said(record.measures))
        share = 100 * self._share * record.tokens / max(record.seconds, 1e-9)
        return ", ".join([*(part.replace(".", ",") for part in parts), f"{share:.0f} % du plafond"])

    def pace(self) -> str:
        """Le débit et le temps restant ; vide tant que trop peu d'étapes en diraient."""
        done = self._steps_here - _UNSETTLED
        elapsed = time.perf_counter() - self._settled
        if done < _FEWEST or elapsed <= 0:
            return ""
        left = elapsed / done * (self._total_steps - self._steps_done)
        pace = french_number(round(self._tokens / elapsed))
        return f"{pace} tokens/s, reste {french_duration(left)}"


_MEASURES = {
    "reward_accuracy": "exactitude",
    "reward_margin": "marge",
    "reward_chosen": "récompenses",
    "reward_rejected": "et",
    "cross_entropy": "entropie croisée",
    "kl": "KL",
}


def measures_said(measures: Mapping[str, float]) -> str:
    """Ce qu'un objectif mesure, en une ligne : « exactitude 75,0 %, marge 0,420, … »."""

    def said(name: str, value: float) -> str:
        return percent(value) if name == "reward_accuracy" else decimal(value, 3)

    known = {name: title for name, title in _MEASURES.items() if name in measures}
    parts = [f"{title} {said(name, measures[name])}" for name, title in known.items()]
    return ", ".join(parts).replace(", et ", " et ")


def loss_verdict(baselines: Baselines, state: TrainingState) -> str | None:
    """Où finit la validation parmi ses repères, en une phrase ; None : elle n'est pas mesurée."""
    if not state.val_losses or not math.isfinite(state.val_losses[-1]):
        return None
    last = f"La perte de validation ({decimal(state.val_losses[-1])})"
    passed = baselines.passed(state.eval_steps, state.val_losses)
    levels = sorted((loss, name) for name, loss in baselines.levels.items())
    above = [(loss, name) for loss, name in levels if loss <= state.val_losses[-1]]
    left = "" if not above else f" ; le repère {above[-1][1]} est à {decimal(above[-1][0])}"
    if passed is None:
        return f"{last} est au-dessus de celle du hasard ({decimal(baselines.uniform)})."
    name, level, step = passed
    since = "depuis le début" if step == 0 else f"depuis l'étape {french_number(step)}"
    return f"{last} est en dessous du repère {name} ({decimal(level)}) {since}{left}."
