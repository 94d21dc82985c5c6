"""L'avancement d'un entraînement, sur une barre, et ce que sa perte vaut."""

from __future__ import annotations

import math
import time

from gpt_architecture.french import decimal, french_duration, french_number
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.training.baselines import Baselines
from gpt_architecture.training.callbacks import Callback, StepRecord
from gpt_architecture.training.checkpoint import TrainingState


class TrainingBar(Callback):
    """Fait avancer une barre.

    Le débit compte toute l'horloge, évaluations et exemples compris : le temps restant qui
    en découle est donc juste. La part du plafond, elle, est celle de l'étape seule.

    Args:
        bar: la barre, déjà en place.
        flops_per_token: opérations d'un token.
        peak_flops: opérations par seconde que la machine atteint.
    """

    def __init__(self, bar: ProgressBar, *, flops_per_token: int, peak_flops: float) -> None:
        self.bar = bar
        self._share = flops_per_token / peak_flops
        self._start = time.perf_counter()
        self._total_steps = 0
        self._first_step = 0
        self._steps_done = 0
        self._tokens = 0

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Fixe la longueur de la barre."""
        self._start = time.perf_counter()
        self._first_step = self._steps_done = state.step
        self._total_steps = total_steps
        self.bar.start(total_steps, state.step)

    def on_step(self, record: StepRecord) -> None:
        """Avance d'une étape."""
        self._steps_done = record.step + 1
        self._tokens += record.tokens
        self.bar.update(self._steps_done, f"{self.pace()}, {self._measures(record)}")

    def on_event(self, step: int, message: str) -> None:
        """Dit, au-dessus de la barre, ce qui mérite de l'être."""
        del step
        self.bar.say(message)

    def _measures(self, record: StepRecord) -> str:
        parts = [f"perte {record.loss:.3f}", f"taux {record.lr:.1e}"]
        if record.grad_norm is not None and math.isfinite(record.grad_norm):
            parts.append(f"gradient {record.grad_norm:.2f}")
        share = 100 * self._share * record.tokens / max(record.seconds, 1e-9)
        return ", ".join([*(part.replace(".", ",") for part in parts), f"{share:.0f} % du plafond"])

    def pace(self) -> str:
        """Le débit et le temps restant ; vide avant la première étape."""
        elapsed = time.perf_counter() - self._start
        done = self._steps_done - self._first_step
        if done == 0 or elapsed <= 0:
            return ""
        left = elapsed / done * (self._total_steps - self._steps_done)
        pace = french_number(round(self._tokens / elapsed))
        return f"{pace} tokens/s, reste {french_duration(left)}"


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
