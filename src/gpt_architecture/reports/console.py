"""Ce qui avance, montré à qui regarde : une barre au terminal ou dans un carnet, sinon des lignes.

Rien n'est importé d'avance : l'aide d'une commande n'attend ni rich ni IPython.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpt_architecture.french import french_duration, french_number, french_size

if TYPE_CHECKING:
    from rich.console import Console

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # ni fin de ligne, ni tabulation
_LINE_EVERY_S = 5.0
_REFRESH_S = 0.2  # un carnet reçoit chaque image par le réseau


def output_console(*, stderr: bool = False) -> Console:
    """Console rich ; hors d'un terminal, pas de couleurs et une largeur fixe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,  # celui d'à présent, même si une bibliothèque est ensuite réduite au silence
        width=None if stream.isatty() else 100,
        highlight=False,
        markup=False,  # un chemin ou un texte peut contenir des crochets
        emoji=False,
    )


class _Aside:
    """Ce que devient une ligne avant stderr ; None : elle y va telle quelle."""

    shape: Callable[[str, int], str | None] | None = None


def shape_asides(shape: Callable[[str, int], str | None] | None) -> None:
    """Donne leur forme aux lignes de `say_aside`, et retire les barres : un journal en JSON.

    Args:
        shape: ligne et niveau (`logging`) → ligne écrite ; None : telle quelle.
    """
    _Aside.shape = staticmethod(shape) if shape is not None else None


def shaped(line: str, level: int = logging.INFO) -> str | None:
    """Cette ligne, dans la forme qui leur est donnée ; None : elles n'en ont pas."""
    return None if _Aside.shape is None else _Aside.shape(line, level)


def say_aside(line: str, level: int = logging.INFO) -> None:
    """Écrit une ligne sur stderr ; si elle ne s'écrit plus, se tait désormais sans s'arrêter.

    Un nom venu d'un fichier ou d'un service n'y commande pas le terminal.
    """
    try:
        print(shaped(line, level) or _COMMANDS.sub(" ", line), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr.fileno())


def silence(descriptor: int) -> None:
    """Jette tout ce qui reste à écrire sur ce descripteur."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def notebook_display() -> Callable[..., Any] | None:
    """Ce qui affiche dans le carnet en cours (Jupyter, VS Code, Colab) ; None hors d'un carnet."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if getattr(shell, "kernel", None) is None:  # l'interpréteur d'IPython est un terminal
        return None
    from IPython.display import display

    return display


class ProgressBar:
    """Une barre, son pourcentage et une allure écrite par qui avance.

    Args:
        title: ce qui avance.
        width: caractères de la barre.
        shown: vrai : une barre, ou des lignes là où personne ne la verrait ; None : une barre si
            quelqu'un la voit, sinon rien ; faux : rien.

    Attributes:
        is_live: vrai si quelqu'un la voit ; sinon, à qui avance d'écrire des lignes simples.
    """

    def __init__(self, title: str, *, width: int = 12, shown: bool | None = True) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        display = notebook_display()
        console = output_console(stderr=True)
        seen = display is not None or (sys.stderr.isatty() and console.is_interactive)
        self.is_live = seen and shown is not False and _Aside.shape is None
        self._speaks = shown or (shown is None and seen)
        self._cell = None
        if display is not None and self.is_live:
            self._cell = _CellBar(title, display)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=width),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not self.is_live or self._cell is not None,
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
        if self._cell is not None:
            self._cell.clear()
        with suppress(OSError):  # le terminal a pu se fermer
            self._progress.stop()

    def start(self, total: int, done: int) -> None:
        """Fixe la longueur de la barre, et ce qui en est déjà fait."""
        self._progress.update(self._task, total=total, completed=done)
        if self._cell is not None:
            self._cell.total = total
            self._cell.show(done, "")

    def update(self, done: int, pace: str) -> None:
        """Avance jusqu'à `done`, et montre `pace` à droite."""
        self._progress.update(self._task, completed=done, pace=pace)
        if self._cell is not None:
            self._cell.show(done, pace)

    def say(self, line: str) -> None:
        """Écrit une ligne sur stderr, au-dessus de la barre."""
        if not self._speaks:
            return
        if not self.is_live or self._cell is not None:  # rich quitterait si le lecteur est parti
            say_aside(line)
            return
        with suppress(OSError):
            self._progress.console.print(line, soft_wrap=True)


class _CellBar:
    """La barre d'une cellule de carnet : l'élément HTML que le navigateur dessine lui-même.

    Args:
        title: ce qui avance.
        display: celui d'IPython.
    """

    def __init__(self, title: str, display: Callable[..., Any]) -> None:
        self._title, self._display = title, display
        self._handle: Any = None
        self._last = 0.0
        self.total = 0

    def show(self, done: int, pace: str) -> None:
        """Montre l'avancement, quelques fois par seconde au plus."""
        now = time.monotonic()
        if self._handle is not None and done < self.total and now - self._last < _REFRESH_S:
            return
        self._last = now
        from html import escape  # un carnet seul s'en sert

        title = escape(self._title)
        share = 100 * done // max(1, self.total)
        self._put(
            f'<div style="font-family:system-ui,sans-serif;font-size:.85rem">{title} '
            f'<progress value="{done}" max="{max(1, self.total)}" aria-label="{title}" '
            f'style="vertical-align:middle;width:14rem"></progress> {share} % {escape(pace)}</div>'
        )

    def clear(self) -> None:
        """L'efface : la cellule ne garde que son résultat."""
        if self._handle is not None:
            self._put("")

    def _put(self, html: str) -> None:
        content = {"text/html": html, "text/plain": ""}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class PaceProgress:
    """Avancement d'une mesure : la barre si on la voit, une ligne de temps en temps ailleurs.

    Args:
        bar: la barre, déjà en place.
        name: ce qui est mesuré.
        unit: ce qui se compte, au pluriel.
        heading: ce que dit le début d'une ligne.
    """

    def __init__(
        self, bar: ProgressBar, name: str, unit: str = "tokens", *, heading: str = "Évaluation"
    ) -> None:
        self._bar, self._name, self._unit, self._heading = bar, name, unit, heading
        self._start = self._last_line = time.perf_counter()
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        """Avance jusqu'à `done` unités sur `total`."""
        if not self._started:
            self._bar.start(total, 0)
            self._started = True
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        left = french_duration(elapsed / max(1, done) * (total - done))
        pace = f"{self._name}, {french_number(round(done / elapsed))} {self._unit}/s, reste {left}"
        self._bar.update(done, pace)
        if not self._bar.is_live and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._bar.say(f"{self._heading} {100 * done / total:.0f} % | {pace}")


class PrepareProgress:
    """Avancement d'une préparation : une barre si on la voit, une ligne de temps en temps ailleurs.

    Args:
        bar: la barre, déjà en place.
    """

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._total = self._first = 0
        self._start = self._last_line = time.perf_counter()

    def on_start(self, total_bytes: int, done_bytes: int) -> None:
        """Fixe la longueur de la barre ; dit s'il s'agit d'une reprise."""
        self._total, self._first = total_bytes, done_bytes
        self._start = self._last_line = time.perf_counter()
        self._bar.start(total_bytes, done_bytes)
        if done_bytes:
            share = f"{100 * done_bytes / max(1, total_bytes):.0f} %"
            self._bar.say(f"Reprise à {share} d'une préparation interrompue.")

    def on_progress(self, done_bytes: int, tokens: int) -> None:
        """Avance la barre ; hors d'un terminal, une ligne toutes les quelques secondes."""
        now = time.perf_counter()
        elapsed, done = now - self._start, done_bytes - self._first
        if elapsed <= 0 or done <= 0:
            return
        left = elapsed / done * (self._total - done_bytes)
        pace = (
            f"{french_number(tokens)} tokens, {french_size(round(done / elapsed))}/s, "
            f"reste {french_duration(max(0.0, left))}"
        )
        self._bar.update(done_bytes, pace)
        if not self._bar.is_live and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            share = f"{100 * done_bytes / max(1, self._total):.0f} %"
            self._bar.say(f"Préparation {share} | {pace}")
