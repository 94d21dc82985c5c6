"""Progression de l'entraînement : une barre au terminal, des lignes simples ailleurs."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from gpt_architecture.scripts._cli import french_duration, output_console, say


class TrainingProgress:
    """Raconte l'entraînement : pertes et exemples sur stdout, avancement sur stderr.

    Le débit compte toute l'horloge, évaluations et exemples compris : le temps restant qui
    en découle est donc juste.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = output_console(stderr=True)
        self._live = sys.stderr.isatty() and console.is_interactive
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not self._live,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("Entraînement", total=None, pace="")
        self._start = time.perf_counter()
        self.total_steps = 0
        self._tokens = 0
        self.steps_done = 0

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def on_start(self, total_steps: int) -> None:
        """Fixe la longueur de la barre."""
        self._start = time.perf_counter()
        self.total_steps = total_steps
        self._progress.update(self._task, total=total_steps)

    def on_step(self, step: int, batch_tokens: int) -> None:
        """Avance d'une étape."""
        self.steps_done = step + 1
        self._tokens += batch_tokens
        self._progress.update(self._task, completed=step + 1, pace=self._pace())

    def on_evaluation(self, epoch: int, step: int, train_loss: float, val_loss: float) -> None:
        """Affiche les pertes ; hors d'un terminal, le débit et le temps restant aussi."""
        from gpt_architecture.training.simple import format_evaluation

        line = format_evaluation(epoch, step, train_loss, val_loss)
        say(line if self._live else f"{line} | {self._pace()}")

    def on_sample(self, epoch: int, text: str) -> None:
        """Affiche l'exemple de l'époque, sur une ligne."""
        say(f"  Exemple : {' '.join(text.split())}")

    def _pace(self) -> str:
        elapsed = time.perf_counter() - self._start
        if self.steps_done == 0 or elapsed <= 0:
            return ""
        left = elapsed / self.steps_done * (self.total_steps - self.steps_done)
        return f"{self._tokens / elapsed:.0f} tokens/s, reste {french_duration(left)}"
