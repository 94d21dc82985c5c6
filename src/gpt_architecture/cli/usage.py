"""L'usage des commandes, en français : l'aide, les erreurs, les variables mal écrites."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts import App, CycloptsError
from cyclopts.help import DefaultFormatter

from gpt_architecture.cli.command import ENV_PREFIX, OTHER_VARIABLES
from gpt_architecture.errors import reason
from gpt_architecture.reports.console import say_aside

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


_SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\n]*))?`")
_TYPES = {"int": "un entier", "float": "un nombre", "bool": "un booléen (true ou false)"}


def usage_message(error: CycloptsError) -> str:
    """Traduit une erreur d'usage en une phrase."""
    argument = error.argument.name if error.argument else "?"
    match error:
        case cyclopts.UnknownOptionError(token=token):
            name = token.keyword or token.value
            origin = "" if token.source == "cli" else f" dans {token.source}"
            known = [option for each in error.argument_collection for option in each.names]
            problem, remedy = f"option inconnue : {name}{origin}", _closest(name, known)
        case cyclopts.UnknownCommandError():
            name = (error.unused_tokens or ["?"])[0]
            problem, remedy = f"commande inconnue : {name}", _closest(name, _commands(error))
        case cyclopts.CoercionError(token=token) if token is not None:
            name = token.keyword or argument
            problem = f"{name} vaut {token.value!r} (attendu : {_expected(error)})"
            remedy = "corrigez cette option"
        case cyclopts.MissingArgumentError():
            problem, remedy = f"{error.keyword or argument} attend une valeur", None
        case cyclopts.RepeatArgumentError(token=token):
            problem, remedy = f"{token.keyword} est donné plusieurs fois", "gardez-en un"
        case cyclopts.UnusedCliTokensError(command_chain=None | [] | ()):
            name = (error.unused_tokens or ["?"])[0]
            problem, remedy = f"commande inconnue : {name}", _closest(name, _commands(error))
        case cyclopts.UnusedCliTokensError():
            problem, remedy = f"argument en trop : {' '.join(error.unused_tokens or [])}", None
        case _:
            problem, remedy = f"usage incorrect ({reason(error)})", None
    return f"{problem} ; {remedy or 'voyez --help'}."


def with_options(message: str, app: App, tokens: list[str]) -> str:
    """Un message de la bibliothèque, où chaque `réglage` devient l'option de la commande.

    La bibliothèque nomme ses réglages entre accents graves (`batch_size`, `device=cpu`) : qui
    l'appelle en Python les lit tels quels, qui tape une commande lit --batch-size, --device cpu.

    Args:
        message: la phrase.
        app: l'application.
        tokens: ses arguments, qui disent la commande.
    """
    if "`" not in message:
        return message
    try:
        chain, apps, _ = app.parse_commands(tokens)
        is_command = chain and not chain[-1].startswith("-")  # --help en est une pour cyclopts
        found = apps[-1].assemble_argument_collection() if is_command else ()
    except (CycloptsError, ValueError):
        found = ()
    known = {name for argument in found for name in argument.names}
    fields = {argument.field_info.name: argument.name for argument in found}

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        flag = fields.get(name, f"--{name.replace('_', '-')}")
        if flag not in known:
            return name if value is None else f"{name}={value}"
        return flag if value is None else f"{flag} {value}"

    return _SETTING.sub(option, message)


def _commands(error: CycloptsError) -> list[str]:
    return [command for command in error.app or () if not command.startswith("-")]


def _expected(error: cyclopts.CoercionError) -> str:
    from typing import Literal, get_args, get_origin

    target = error.target_type
    if get_origin(target) is Literal:
        return ", ".join(map(str, get_args(target)))
    name = getattr(target, "__name__", str(target))
    return _TYPES.get(name, name)


def _closest(name: str, candidates: list[str]) -> str | None:
    close = get_close_matches(name.replace("_", "-"), candidates, n=1, cutoff=0.6)
    return f"essayez {close[0]}" if close else None


def warn_unknown_variables(app: App, tokens: list[str]) -> None:
    """Avertit de chaque variable à notre préfixe qu'aucune option ne lit.

    Args:
        app: l'application.
        tokens: ses arguments ; les options de leur commande sont essayées d'abord, car connaître
            toutes les autres demande d'importer chaque commande.
    """
    given = {name for name in os.environ if name.startswith(ENV_PREFIX)}
    given -= {ENV_PREFIX + name for name in OTHER_VARIABLES}
    chain, _, _ = app.parse_commands(tokens)
    if any(name.startswith("-") for name in chain):  # --help, --version
        return
    if not given - _names_of(app, tuple(chain)):
        return
    known = {name for path in _paths(app) for name in _names_of(app, path)}
    known |= {ENV_PREFIX + name for name in OTHER_VARIABLES}
    endings = [name.removeprefix(ENV_PREFIX) for name in sorted(known)]
    for name in sorted(given - known):
        close = get_close_matches(name.removeprefix(ENV_PREFIX), endings, n=1, cutoff=0.7)
        advice = f"essayez {ENV_PREFIX}{close[0]}" if close else "retirez-la"
        say_aside(f"avertissement : aucune option ne lit la variable {name} ; {advice}.")


def _paths(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Le chemin de chaque commande, celles d'un groupe comprises."""
    inner = [name for name in _at(app, path) if not name.startswith("-")]
    if not inner:
        yield path
    for name in inner:
        yield from _paths(app, (*path, name))


def _names_of(app: App, path: tuple[str, ...]) -> frozenset[str]:
    """Les variables des options d'une commande, avec et sans son nom."""
    target = _at(app, path)
    if target.default_command is None or not path:
        return frozenset()
    options = [
        name.removeprefix("--").upper().replace("-", "_")
        for argument in target.assemble_argument_collection()
        for name in argument.names
        if name.startswith("--")
    ]
    own = "_".join([*path, ""]).upper()
    return frozenset(ENV_PREFIX + prefix + name for name in options for prefix in ("", own))


def _at(app: App, path: tuple[str, ...]) -> App:
    for name in path:
        app = app[name]
    return app
