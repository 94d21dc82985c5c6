"""La barre de progression des commandes : au terminal seulement, et sur stderr."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import TracebackType

from gpt_architecture.cli.command import output_console, say_aside


class ProgressBar:
    """Une barre, son pourcentage et une allure écrite par la commande ; muette hors d'un terminal.

    Args:
        title: ce qui avance.
        width: caractères de la barre.

    Attributes:
        is_live: vrai si quelqu'un la voit ; sinon, à la commande d'écrire des lignes simples.
    """

    def __init__(self, title: str, *, width: int = 12) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = output_console(stderr=True)
        self.is_live = sys.stderr.isatty() and console.is_interactive
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=width),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not self.is_live,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task(title, total=None, pace="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # le terminal a pu se fermer
            self._progress.stop()

    def start(self, total: int, done: int) -> None:
        """Fixe la longueur de la barre, et ce qui en est déjà fait."""
        self._progress.update(self._task, total=total, completed=done)

    def update(self, done: int, pace: str) -> None:
        """Avance jusqu'à `done`, et montre `pace` à droite."""
        self._progress.update(self._task, completed=done, pace=pace)

    def say(self, line: str) -> None:
        """Écrit une ligne sur stderr, au-dessus de la barre."""
        if not self.is_live:  # rich quitterait le programme si le lecteur est parti
            say_aside(line)
            return
        with suppress(OSError):
            self._progress.console.print(line, soft_wrap=True)
