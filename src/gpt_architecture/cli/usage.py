"""L'usage des commandes, en français : l'aide, les erreurs, les variables mal écrites."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts import App, CycloptsError
from cyclopts.help import DefaultFormatter

from gpt_architecture.cli.command import ENV_PREFIX, OTHER_VARIABLES
from gpt_architecture.config import PRESET_NOTES, TRAINING_PRESETS
from gpt_architecture.errors import reason
from gpt_architecture.reports.console import say_aside

if TYPE_CHECKING:
    from cyclopts.argument import Argument
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions


_METAVARS = {
    "INT": "ENTIER",
    "FLOAT": "NOMBRE",
    "STR": "TEXTE",
    "PATH": "FICHIER",
    "CHOICE": "CHOIX",
}
_METAVAR = re.compile(rf"\b({'|'.join(_METAVARS)})\b")
_LABELS = {
    "MODEL": "MODÈLE",
    "START": "MODÈLE",
    "DEST": "DESTINATION",
    "ADAPTERS": "ADAPTATEURS",
    "FOLDER": "DOSSIER",
    "FOLDERS": "DOSSIER",
    "PLACE": "LIEU",
    "TEXT": "TEXTE",
}
HIDDEN_NAMES = frozenset(("--ordre", "--choix", "--interdit", "--variants", "--seeds"))
"""Autres orthographes d'options, toujours acceptées, que l'aide ne montre pas."""

EPILOGUE = (
    "Chaque option se règle aussi par une variable d'environnement, GPT_ARCHITECTURE_ suivi de son "
    "nom en capitales, ou par un fichier TOML (--config FICHIER). Un nombre s'écrit avec un point, "
    "par exemple 0.9."
)


COMMON_TITLE = "Options courantes"
COMMON_OPTIONS = (
    *("--data", "--preset", "--output-dir", "--epochs", "--batch-size", "--lr"),
    *("--tokenizer", "--from", "--resume", "--estimate"),
)
"""Les options de `train` que son aide montre d'abord, dans cet ordre ; les autres sont avancées."""


class FrenchFormatter(DefaultFormatter):
    """L'aide de cyclopts, en français."""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """La ligne d'usage."""
        if usage:
            text = str(usage).replace("COMMAND", "COMMANDE").strip()
            console.print(f"[bold]Usage :[/bold] {text.replace('[', chr(92) + '[')}\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Un cadre d'options ou de commandes."""
        entries = [self._translate(entry) for entry in _ordered(panel)]
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
            default = as_typed(entry.default)
            if default:  # une liste vide n'en est pas un
                description.append(Text(f"[défaut : {default}]", "dim"))
        metavar = entry.metavar and _METAVAR.sub(lambda name: _METAVARS[name[1]], entry.metavar)
        label = entry.positional_label
        return entry.copy(
            positive_names=tuple(each for each in entry.positive_names if each not in HIDDEN_NAMES),
            positional_label=label and _LABELS.get(label, label),
            description=description,
            choices=None,
            default=None,
            required=False,
            metavar=metavar and metavar.replace("...", "…"),
        )


def _ordered(panel: HelpPanel) -> list[HelpEntry]:
    """Les lignes d'un cadre ; celles des options courantes ont leur ordre à elles."""
    if panel.title != COMMON_TITLE:
        return panel.entries
    return sorted(panel.entries, key=lambda each: COMMON_OPTIONS.index(each.names[0]))


def as_typed(default: str) -> str:
    """Une valeur par défaut, telle qu'on la taperait : « 5.0 » devient « 5 », « 1e-08 », « 1e-8 ».

    Args:
        default: la valeur telle que Python l'écrit, tuple ou liste compris.
    """
    words = default.strip("[]()").replace("'", "").replace(",", "").split()
    return " ".join(_ROUND.sub(r"\1", _EXPONENT.sub(r"\1e\2", word)) for word in words)


def presets_help() -> str:
    """Les préréglages de `train` : ce à quoi chacun sert, et les options qu'il donne."""
    lines = [EPILOGUE, "", "Préréglages de --preset ; une option donnée l'emporte sur la leur :"]
    for name, note in PRESET_NOTES.items():
        given = [
            f"--{option.replace('_', '-')}" + ("" if value is True else f" {_as_word(value)}")
            for option, value in TRAINING_PRESETS[name].items()
        ]
        lines += ["", f"{name} : {note}.", *([" ".join(given)] if given else [])]
    return "\n".join(lines)


def _as_word(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else as_typed(str(value))


_LESS_MEMORY = ("--batch-size", "--context-length", "--emb-dim", "--slots", "--n", "--max-tokens")
"""Options dont une valeur plus petite demande moins de mémoire."""
_ROUND = re.compile(r"^(-?\d+)\.0$")
_EXPONENT = re.compile(r"^(-?\d[\d.]*)e(-?)0*(?=\d)")
_SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\n]*))?`")
_COMMA = re.compile(r"^-?\d*,\d+(?:[eE][+-]?\d+)?$")
_TYPES = {"int": "un entier", "float": "un nombre", "bool": "un booléen (true ou false)"}


def usage_message(error: CycloptsError, app: App, tokens: list[str]) -> str:
    """Traduit une erreur d'usage en une phrase.

    Args:
        error: l'erreur.
        app: l'application.
        tokens: ses arguments, qui disent la commande.
    """
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
            is_comma = error.target_type is float and _COMMA.match(token.value)
            pointed = token.value.replace(",", ".")
            remedy = f"écrivez {pointed}, avec un point" if is_comma else f"corrigez {name}"
        case cyclopts.MissingArgumentError(keyword=None):
            problem, remedy = f"{argument} n'est pas donné", f"ajoutez {argument}"
        case cyclopts.MissingArgumentError():
            problem, remedy = f"{error.keyword} attend une valeur", None
        case cyclopts.RepeatArgumentError(token=token):
            problem, remedy = f"{token.keyword} est donné plusieurs fois", "gardez-en un"
        case cyclopts.UnusedCliTokensError(command_chain=None | [] | ()):
            name = (error.unused_tokens or ["?"])[0]
            problem, remedy = f"commande inconnue : {name}", _closest(name, _commands(error))
        case cyclopts.UnusedCliTokensError():
            extra = error.unused_tokens or []
            problem, remedy = f"argument en trop : {' '.join(extra)}", _named(app, tokens, extra)
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
    found = _arguments(app, tokens)
    known = {name for argument in found for name in argument.names}
    fields = {argument.field_info.name: argument.name for argument in found}

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        flag = fields.get(name, f"--{name.replace('_', '-')}")
        if flag not in known:
            return name if value is None else f"{name}={value}"
        return flag if value is None else f"{flag} {value}"

    return _SETTING.sub(option, message)


def memory_message(app: App, tokens: list[str]) -> str:
    """Ce qu'il faut dire quand la mémoire manque : seules sont nommées les options de la commande.

    Args:
        app: l'application.
        tokens: ses arguments, qui disent la commande.
    """
    known = {name for argument in _arguments(app, tokens) for name in argument.names}
    smaller = [name for name in _LESS_MEMORY if name in known]
    remedy = f"réduisez {' ou '.join(smaller)}" if smaller else "fermez d'autres programmes"
    return f"mémoire insuffisante ; {remedy}."


def _arguments(app: App, tokens: list[str]) -> Sequence[Argument]:
    """Les arguments de la commande que des tokens demandent ; vide si l'on ne sait laquelle."""
    try:
        chain, apps, _ = app.parse_commands(tokens)
        is_command = chain and not chain[-1].startswith("-")  # --help en est une pour cyclopts
        return apps[-1].assemble_argument_collection() if is_command else ()
    except (CycloptsError, ValueError):
        return ()


def _commands(error: CycloptsError) -> list[str]:
    return [command for command in error.app or () if not command.startswith("-")]


def _expected(error: cyclopts.CoercionError) -> str:
    from typing import Literal, get_args, get_origin

    target = error.target_type
    if get_origin(target) is Literal:
        return ", ".join(map(str, get_args(target)))
    name = getattr(target, "__name__", str(target))
    return _TYPES.get(name, name)


def _named(app: App, tokens: list[str], extra: list[str]) -> str | None:
    """Où mettre un argument en trop : le texte qu'une commande lit n'y est jamais sans son nom."""
    arguments = _arguments(app, tokens)
    known = {name for each in arguments for name in each.names}
    before = tokens[: tokens.index(extra[0])] if extra and extra[0] in tokens else []
    option = next((each for each in reversed(before) if each.startswith("--")), "")
    if any(option in each.names and each.hint is bool for each in arguments):
        return f"retirez-le : {option} ne prend pas de valeur"
    if option == "--source" and option in known:
        return f"essayez --source {shlex.join(extra)}"
    if "--data" in known:
        return f"essayez --data {shlex.join(extra)}"
    return f"essayez --prompt {shlex.quote(' '.join(extra))}" if "--prompt" in known else None


def _closest(name: str, candidates: list[str]) -> str | None:
    if len(name.lstrip("-")) < 2:  # une lettre seule ressemble à toutes les autres
        return None
    from difflib import get_close_matches

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
    from difflib import get_close_matches

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
