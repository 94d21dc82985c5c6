"""L'aide de cyclopts, en français."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_METAVARS = {
    "INT": "ENTIER",
    "FLOAT": "NOMBRE",
    "STR": "TEXTE",
    "PATH": "CHEMIN",
    "CHOICE": "CHOIX",
}
_LABELS = {
    "MODEL": "MODÈLE",
    "DEST": "DESTINATION",
    "ADAPTER": "ADAPTATEURS",
    "TEXT": "TEXTE",
}


class FrenchFormatter(DefaultFormatter):
    """L'aide de cyclopts, en français."""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """La ligne d'usage."""
        if usage:
            text = str(usage).replace("COMMAND", "COMMANDE").strip()
            console.print(f"[bold]Usage :[/bold] {text.replace('[', chr(92) + '[')}\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Un cadre d'options ou de commandes."""
        entries = [self._translate(entry) for entry in panel.entries]
        super().__call__(console, options, panel.copy(entries=entries))

    @staticmethod
    def _translate(entry: HelpEntry) -> HelpEntry:
        from cyclopts.help import InlineText
        from rich.text import Text

        description = entry.description or ""
        if isinstance(description, InlineText):
            description = description.primary_renderable
        plain = description if isinstance(description, str) else getattr(description, "plain", "")
        description = InlineText(Text(" ".join(plain.split())))  # une docstring a des retraits
        if entry.choices:
            description.append(Text(f"[choix : {', '.join(entry.choices)}]", "dim"))
        if entry.required:
            description.append(Text("[obligatoire]", "dim"))
        if entry.default not in (None, "False"):
            default = entry.default.strip("[]()").replace("'", "").replace(",", "")
            if default:  # une liste vide n'en est pas un
                description.append(Text(f"[défaut : {default}]", "dim"))
        metavar = entry.metavar
        for english, french in _METAVARS.items():
            metavar = metavar and metavar.replace(english, french)
        label = entry.positional_label
        return entry.copy(
            positional_label=label and _LABELS.get(label, label),
            description=description,
            choices=None,
            default=None,
            required=False,
            metavar=metavar,
        )
