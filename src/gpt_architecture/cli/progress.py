"""Progression de l'entraînement : une barre au terminal, des lignes simples ailleurs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from gpt_architecture.cli.command import say
from gpt_architecture.french import french_duration

if TYPE_CHECKING:
    from gpt_architecture.cli.bar import ProgressBar
    from gpt_architecture.training.callbacks import EvaluationRecord, StepRecord
    from gpt_architecture.training.state import TrainingState
    from gpt_architecture.training.trainer import Trainer


class TrainingProgress:
    """Raconte l'entraînement : pertes et exemples sur stdout, avancement sur stderr.

    Le débit compte toute l'horloge, évaluations et exemples compris : le temps restant qui
    en découle est donc juste. La part du plafond, elle, est celle de l'étape seule.

    Args:
        bar: la barre, déjà en place.
        flops_per_token: opérations d'un token.
        peak_flops: opérations par seconde que la machine atteint.
    """

    def __init__(self, bar: ProgressBar, *, flops_per_token: int, peak_flops: float) -> None:
        self._bar = bar
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
        self._bar.start(total_steps, state.step)

    def on_resume(self, trainer: Trainer) -> None:
        """Rien à dire : la commande l'a annoncé."""

    def on_step(self, record: StepRecord) -> None:
        """Avance d'une étape."""
        self._steps_done = record.step + 1
        self._tokens += record.tokens
        self._bar.update(self._steps_done, f"{self._pace()}, {self._measures(record)}")

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Affiche les pertes ; hors d'un terminal, le débit et le temps restant aussi."""
        from gpt_architecture.training.simple import format_evaluation

        del trainer
        line = format_evaluation(record.epoch, record.step, record.train_loss, record.val_loss)
        pace = "" if self._bar.is_live else self._pace()
        say(f"{line} | {pace}" if pace else line)

    def on_sample(self, step: int, epoch: int, text: str) -> None:
        """Affiche l'exemple de l'époque, sur une ligne."""
        del step, epoch
        say(f"  Exemple : {' '.join(text.split())}")

    def on_save(self, step: int, path: str) -> None:
        """Dit où est le point de reprise."""
        del step
        self._bar.say(f"Point de reprise : {path}")

    def on_event(self, step: int, message: str) -> None:
        """Dit ce qui mérite de l'être."""
        del step
        say(f"  {message}")

    def on_end(self, state: TrainingState) -> None:
        """Rien à dire : la commande conclut."""

    def _measures(self, record: StepRecord) -> str:
        parts = [f"perte {record.loss:.3f}", f"taux {record.lr:.1e}"]
        if record.grad_norm is not None and math.isfinite(record.grad_norm):
            parts.append(f"gradient {record.grad_norm:.2f}")
        share = 100 * self._share * record.tokens / max(record.seconds, 1e-9)
        return ", ".join([*(part.replace(".", ",") for part in parts), f"{share:.0f} % du plafond"])

    def _pace(self) -> str:
        elapsed = time.perf_counter() - self._start
        done = self._steps_done - self._first_step
        if done == 0 or elapsed <= 0:
            return ""
        left = elapsed / done * (self._total_steps - self._steps_done)
        return f"{self._tokens / elapsed:.0f} tokens/s, reste {french_duration(left)}"
