"""Ce que les commandes partagent : aide en français, configuration, erreurs, codes de sortie.

Codes : 0 réussite, 1 échec (une ligne claire), 2 mauvais usage, 129 terminal fermé,
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tomllib
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict as ConfigDict
from cyclopts.config import Env

from gpt_architecture.cli.help import FrenchFormatter
from gpt_architecture.cli.logs import Translated, configure_logs, in_journal
from gpt_architecture.cli.usage_errors import usage_message, with_options
from gpt_architecture.errors import (
    ConfigurationError,
    GPTArchitectureError,
    is_out_of_memory,
    reason,
)
from gpt_architecture.storage import decode_text, read_text

if TYPE_CHECKING:
    from rich.console import Console

ENV_PREFIX = "GPT_ARCHITECTURE_"
OTHER_VARIABLES = ("API_KEY", "API_KEYS", "DEBUG", "CONFIG", "TEST_DATA")
"""Variables à ce préfixe qu'aucune option ne porte, ou que toutes les commandes lisent."""

MODEL_NAME = "gpt-model.pt"
_MAX_TOML = 1 << 20
_PARENTS_SEARCHED = 3  # de scripts/ : gpt_architecture/, src/, puis la racine du projet


@Parameter(name="*", group=Group("Général", sort_key=9))
@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options communes à toutes les commandes ; `launch` les lit avant les autres."""

    config: Path | None = None
    """Fichier TOML d'options : une table par commande, par exemple [train]."""

    debug: bool = False
    """Montre la pile d'appels complète en cas d'erreur."""


FRENCH_STYLE: dict[str, Any] = {
    "help_formatter": FrenchFormatter(),
    "group_commands": Group("Commandes"),
    "group_parameters": Group("Options"),
    "group_arguments": Group("Arguments"),
    "default_parameter": Parameter(negative=()),
    "help_format": "plaintext",  # le rendu Markdown coûterait un quart du temps de --help
}
"""Réglages de `cyclopts.App` communs à toutes les commandes."""


_command_line: ContextVar[tuple[str, ...]] = ContextVar("command_line", default=())


def command_line() -> tuple[str, ...]:
    """Les arguments donnés à l'application en cours, commande comprise."""
    return _command_line.get()


def launch(app: App, tokens: list[str]) -> None:
    """Exécute l'application et termine le processus avec le bon code."""
    _command_line.set(tuple(tokens))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # une console qui ne sait pas un caractère n'arrête rien
            reconfigure(errors="replace")
    configure_logs(None, Translated(lambda message: with_options(message, app, tokens)))
    debug = "--debug" in tokens or os.environ.get(f"{ENV_PREFIX}DEBUG", "") in ("1", "true")
    try:
        code = _run(app, tokens)
        sys.stdout.flush()
    except CycloptsError as error:
        _complain(usage_message(error))
        code = 2
    except GPTArchitectureError as error:
        if debug:
            raise
        _complain(with_options(str(error), app, tokens))
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("interrompu")
        code = 130
    except BrokenPipeError:  # « … | head » : le lecteur est parti, rien à dire
        silence_stdout()
        code = 1
    except Exception as error:
        if debug:
            raise
        if is_out_of_memory(error):
            _complain(
                "mémoire insuffisante ; réduisez --batch-size, --context-length ou --emb-dim."
            )
        else:
            _complain(f"{reason(error)} (--debug montre la pile d'appels)")
        code = 1
    try:
        sys.stderr.flush()  # ce qui y resterait changerait le code de sortie
    except OSError:
        silence(sys.stderr.fileno())
    raise SystemExit(code)


def _run(app: App, tokens: list[str]) -> int:
    """Exécute la commande ; l'aide d'une commande est écrite sans être d'abord analysée.

    cyclopts assemblerait sinon toutes ses options une fois de plus, pour voir si l'une d'elles
    s'appelle --help.
    """
    if len(tokens) == 2 and tokens[0] in app and tokens[1] in app.help_flags:
        app.help_print(tokens[:1])
        return 0
    if any(token.startswith("--json") for token in tokens):
        from gpt_architecture.cli.results import with_json_file

        tokens = with_json_file(tokens)
    app.config = _configuration(tokens)
    if any(_is_foreign(name) for name in os.environ):
        from gpt_architecture.cli.variables import warn_unknown_variables

        warn_unknown_variables(app, tokens)
    result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return result if isinstance(result, int) else 0


def _is_foreign(name: str) -> bool:
    """Vrai pour une variable à notre préfixe qui n'est pas l'une de celles de toujours."""
    return name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX) not in OTHER_VARIABLES


def say(line: str = "") -> None:
    """Écrit une ligne sur stdout ; si le lecteur est parti, se tait désormais sans s'arrêter."""
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # EIO : le terminal s'est fermé
            raise
        silence_stdout()


def say_aside(line: str) -> None:
    """Écrit une ligne sur stderr ; si elle ne s'écrit plus, se tait désormais sans s'arrêter."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr.fileno())


def silence_stdout() -> None:
    """Jette tout ce qui reste à écrire sur stdout."""
    silence(sys.stdout.fileno())


def silence(descriptor: int) -> None:
    """Jette tout ce qui reste à écrire sur ce descripteur."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def find_model(path: Path | None) -> Path:
    """Le modèle demandé ; sinon `gpt-model.pt` dans le dossier courant ou l'un de ses parents."""
    if path is not None:
        return path
    here = Path.cwd()
    for folder in (here, *here.parents[:_PARENTS_SEARCHED]):
        candidate = folder / MODEL_NAME
        if candidate.is_file():
            return candidate
    return Path(MODEL_NAME)


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


def read_prompt(prompt: str) -> str:
    """Le début de texte ; « - » le lit sur l'entrée standard.

    Raises:
        DataError: l'entrée standard n'est pas du texte UTF-8.
    """
    return read_stdin().rstrip("\n") if prompt == "-" else prompt


def read_stdin(*, line: bool = False) -> str:
    """L'entrée standard, ou sa ligne suivante, quels que soient le système et sa langue.

    Raises:
        DataError: ce n'est pas du texte UTF-8.
    """
    source = getattr(sys.stdin, "buffer", None)
    if source is None or (line and sys.stdin.isatty()):  # au terminal, la ligne s'édite
        return sys.stdin.readline() if line else sys.stdin.read()
    data = source.readline() if line else source.read()
    return decode_text(data, origin="l'entrée standard")


def default_prompt(prompt: str | None, metadata: Any) -> str:
    """Le début demandé, sinon celui des exemples de l'entraînement.

    Raises:
        ConfigurationError: aucun des deux.
    """
    from gpt_architecture.data.texts.chat import own_prompt

    chosen = own_prompt(metadata) if prompt is None else read_prompt(prompt)
    if not chosen:
        raise ConfigurationError(
            "aucun début de texte", expected="quelques mots", remedy='donnez --prompt "…"'
        )
    return chosen


def _configuration(tokens: list[str]) -> tuple[Any, ...]:
    """Sources des options, la plus forte d'abord : environnement, fichier TOML, préréglage."""
    from gpt_architecture.cli.train_options import training_defaults

    sources: list[Any] = [Env(ENV_PREFIX, show=False), Env(ENV_PREFIX, command=False, show=False)]
    asked = _option_value(tokens, "--config")
    path = asked or os.environ.get(f"{ENV_PREFIX}CONFIG")
    if path and not {"--help", "-h", "--version"} & set(tokens):
        content = _read_toml(Path(path))
        command = tokens[0] if tokens else ""
        if asked and not isinstance(content.get(command), dict):
            raise ConfigurationError(
                f"{path} n'a pas de table [{command}]",
                expected=f"les options de {command} sous [{command}]",
                remedy="ajoutez cette table",
            )
        sources.append(ConfigDict(content, source=path))
    return (*sources, training_defaults)


def _read_toml(path: Path) -> dict[str, Any]:
    text = read_text(
        path,
        expected="un fichier TOML",
        remedy="corrigez --config",
        limit=_MAX_TOML,
        error=ConfigurationError,
    )
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} n'est pas un TOML valide : {reason(error)}",
            expected="un fichier TOML",
            remedy="corrigez ce fichier",
        ) from None


def _option_value(tokens: list[str], name: str) -> str | None:
    for index, token in enumerate(tokens):
        if token == name and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{name}="):
            return token.split("=", 1)[1]
    return None


def _complain(message: str) -> None:
    say_aside(in_journal(message, logging.ERROR) or f"erreur : {message}")
