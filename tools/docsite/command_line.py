"""La référence de la ligne de commande, faite de l'aide que chaque commande montre."""

from __future__ import annotations

import io
from typing import Any

from markdown_text import table
from rich.console import Console

from gpt_architecture.cli.app import COMMANDS, SUBCOMMANDS, build_app
from gpt_architecture.cli.usage import FrenchFormatter


class _Collector(FrenchFormatter):
    """Retient ce que l'aide montrerait, cadre par cadre, au lieu de l'écrire."""

    def __init__(self) -> None:
        super().__init__()
        self.usage, self.panels = "", list[tuple[str, list[Any]]]()

    def render_usage(self, console: Console, options: Any, usage: Any) -> None:
        """La ligne d'usage."""
        self.usage = str(usage).strip()

    def __call__(self, console: Console, options: Any, panel: Any) -> None:
        """Un cadre."""
        title = getattr(panel.title, "plain", str(panel.title))
        self.panels.append((title, [self._translate(entry) for entry in panel.entries]))


def commands() -> str:
    """Chaque commande : sa ligne d'usage, puis ses options, un tableau par cadre de l'aide."""
    parts = list[str]()
    for name, summary in COMMANDS.items():
        for inner, line in SUBCOMMANDS.get(name, {"": summary}).items():
            parts += _command((name, inner) if inner else (name,), line)
    return "\n\n".join(parts)


def _command(path: tuple[str, ...], summary: str) -> list[str]:
    app, collector = build_app(), _Collector()
    app.help_formatter = app[path[0]].help_formatter = collector
    app.help_print(list(path), console=Console(file=io.StringIO(), width=200))
    parts = [f"## {' '.join(path)}", summary, f"```text\n{collector.usage}\n```"]
    for title, entries in collector.panels:
        rows = [(_names(entry), _plain(entry.description)) for entry in entries]
        parts += [f"**{title}**", table(("option", "rôle"), rows)] if rows else []
    return parts


def _names(entry: Any) -> str:
    label = [entry.positional_label] if entry.positional_label else []
    names = [*label, *entry.names, *entry.shorts]
    return " ".join(f"`{name}`" for name in names) + (f" {entry.metavar}" if entry.metavar else "")


def _plain(description: Any) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=10_000, color_system=None).print(description)
    return buffer.getvalue()
