"""Les erreurs d'usage de cyclopts, traduites en une phrase."""

from __future__ import annotations

import re

import cyclopts
from cyclopts import App, CycloptsError

from gpt_architecture.errors import reason

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

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        flag = f"--{name.replace('_', '-')}"
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
    from difflib import get_close_matches

    close = get_close_matches(name.replace("_", "-"), candidates, n=1, cutoff=0.6)
    return f"essayez {close[0]}" if close else None
