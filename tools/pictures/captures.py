"""Ce que le programme montre, redessiné de ce qui a été retenu d'un entraînement.

Le terminal est enregistré par Rich, les courbes tracées par les fonctions des commandes : un mot
qui change dans le programme change l'image.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import recording
from drawing import MONO
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

WIDTH = 88  # colonnes
THEME = TerminalTheme(
    (16, 21, 28),
    (222, 230, 240),
    [
        *((40, 48, 60), (255, 123, 114), (99, 210, 154), (240, 190, 92)),
        *((111, 176, 255), (210, 168, 255), (118, 214, 227), (222, 230, 240)),
    ],
)
"""Le fond et les seize couleurs du terminal dessiné."""

TEMPLATE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
    'aria-labelledby="titre">\n<title id="titre">@TITRE@</title>\n<style>\n'
    ".{unique_id}-matrix {{font-family: @POLICE@; font-size: {char_height}px; "
    "line-height: {line_height}px}}\n"
    ".{unique_id}-title {{font-family: @POLICE@; font-size: 15px}}\n{styles}\n</style>\n"
    '<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" '
    'height="{terminal_height}"/></clipPath>{lines}</defs>\n{chrome}\n'
    '<g transform="translate({terminal_x}, {terminal_y})" '
    'clip-path="url(#{unique_id}-clip-terminal)">\n{backgrounds}'
    '<g class="{unique_id}-matrix">\n{matrix}\n</g></g>\n</svg>\n'
)
"""Le gabarit de Rich, sans les polices qu'il demande au réseau."""


def terminal_trace() -> str:
    """Ce que montre `infer --trace`."""
    from gpt_architecture.reports.trace import render_terminal

    options = [
        part
        for name, value in recording.TRACE.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    trace = recording.trace_of(recording.recorded())
    command = ["infer", "--trace", "--prompt", recording.TRACED, *options]
    return _terminal(
        command, "La trace des filtres", lambda console: render_terminal(console, trace)
    )


def terminal_demo() -> str:
    """Ce que montre `demo`."""
    from gpt_architecture.reports.comparison import show_comparison

    summaries = recording.comparison_of(recording.recorded())
    command = ["demo", "--max-tokens", str(recording.COMPARED["max_tokens"])]
    return _terminal(
        [*command, "--prompt", recording.PROMPT],
        "Six stratégies de décodage comparées",
        lambda console: show_comparison(console, [recording.PROMPT], summaries),
    )


def _terminal(command: list[str], title: str, show: Callable[[Console], None]) -> str:
    """Un terminal où la commande a été tapée, et ce qu'elle y écrit."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    line = " ".join(["gpt-architecture", *map(_quoted, command)])
    console.print(Text.assemble(("$ ", "bold green"), (line, "bold"), "\n"))
    show(console)
    template = TEMPLATE.replace("@TITRE@", escape(f"{title} : {line}")).replace("@POLICE@", MONO)
    drawn = console.export_svg(
        title="gpt-architecture", theme=THEME, code_format=template, unique_id="terminal"
    )
    return "\n".join(each.rstrip() for each in drawn.splitlines()) + "\n"


def _quoted(word: str) -> str:
    """Un mot comme on le tape : entre guillemets s'il a des espaces."""
    return f'"{word}"' if " " in word else word


def loss_curve() -> str:
    """La figure que `train` écrit dans loss-plot.pdf."""
    from gpt_architecture.training.simple import plot_losses

    losses: Mapping[str, Any] = recording.recorded()["losses"]
    return _figure(lambda path: plot_losses(**losses, path=path), "Les pertes d'un entraînement")


def temperature() -> str:
    """La figure que `visualize` écrit dans temperature-visualization.pdf."""
    from gpt_architecture.evaluation.distribution import plot_distribution

    study, labels = recording.study_of(recording.recorded())
    title = f"Token suivant après « {recording.STUDIED} »"
    return _figure(
        lambda path: plot_distribution(study, labels, title, path),
        "L'effet de la température et des filtres",
    )


INVERTED = "@media (prefers-color-scheme: dark){svg{filter:invert(.93) hue-rotate(180deg)}}"
"""Matplotlib ne connaît pas les thèmes : en sombre, le clair devient foncé, les teintes restent."""


def _figure(plot: Callable[[Path], object], title: str) -> str:
    """Une figure de Matplotlib en SVG, la même à chaque fois, le texte restant du texte."""
    from matplotlib import rc_context

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "gpt-architecture"}
    fixed = patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "0"})
    with TemporaryDirectory() as folder, rc_context(settings), fixed:
        path = Path(folder) / "figure.svg"
        plot(path)
        drawn = path.read_text(encoding="utf-8")
    start = drawn.index("<svg")
    opening = drawn.index(">", start) + 1
    head = drawn[start:opening].replace("<svg", '<svg role="img"', 1)
    body = drawn[drawn.index("</metadata>") + len("</metadata>") :]
    return f"{head}\n <title>{escape(title)}</title>\n <style>{INVERTED}</style>{body}"
