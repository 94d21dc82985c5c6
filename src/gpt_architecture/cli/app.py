"""L'application : ses commandes, son lancement, la configuration de ses options, sa visite guidée.

Codes : 0 réussite, 1 échec (une ligne claire), 2 mauvais usage, 129 terminal fermé,
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict as ConfigDict
from cyclopts.config import Env

from gpt_architecture.cli.command import (
    ENV_PREFIX,
    OTHER_VARIABLES,
    CommonOptions,
    model_here,
    models_below,
    remember_command_line,
    silence_stdout,
)
from gpt_architecture.cli.logs import JsonLines, LogFormat, Translated, configure_logs
from gpt_architecture.cli.usage import (
    EPILOGUE,
    FrenchFormatter,
    memory_message,
    presets_help,
    usage_message,
    warn_unknown_variables,
    with_options,
)
from gpt_architecture.config import VERSION
from gpt_architecture.errors import (
    ConfigurationError,
    GPTArchitectureError,
    is_out_of_memory,
    reason,
)
from gpt_architecture.french import french_size
from gpt_architecture.reports.console import output_console, say_aside, shaped, silence
from gpt_architecture.storage import exists, is_own, json_of, read_text

_MAX_TOML = 1 << 20
_STANDARD_OUTPUT = "-"
_MODEL_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".gguf", ".onnx")

FRENCH_STYLE: dict[str, Any] = {
    "help_formatter": FrenchFormatter(),
    "group_commands": Group("Commandes"),
    "group_parameters": Group("Options"),
    "group_arguments": Group("Arguments", sort_key=-2),
    "default_parameter": Parameter(negative=()),
    "help_format": "plaintext",  # le rendu Markdown coûterait un quart du temps de --help
}
"""Réglages de `cyclopts.App` communs à toutes les commandes."""


COMMANDS = {
    "tokenizer": "Apprend un vocabulaire, en compare plusieurs, en montre le découpage.",
    "prepare": "Prépare des textes : fragments de tokens, entraînement et validation.",
    "plan": "Dit quoi entraîner sur un texte, dans les heures données, et quelle perte attendre.",
    "train": "Entraîne un modèle à écrire ou à classer, et l'écrit avec sa courbe.",
    "merge": "Fond des adaptateurs LoRA, d'un affinage ou de plusieurs, dans leur modèle.",
    "infer": "Continue un texte, et l'affiche à mesure qu'il est généré.",
    "evaluate": "Mesure un modèle, en fait une page : perplexité, épreuves, classes, mémorisation.",
    "quantize": "Écrit un modèle quantifié sur 8 ou 4 bits, et mesure ce qu'il perd.",
    "convert": "Convertit un modèle : Transformers, llama.cpp, Ollama, ONNX, nanoGPT, page HTML.",
    "inspect": "Dit ce qu'est un modèle, sans charger ses poids.",
    "models": "Dit quels modèles il y a ici et dans le cache, sans les charger.",
    "push": "Dépose un modèle, sa fiche et son certificat : dossier partagé, ou Hub.",
    "pull": "Reprend un modèle d'un dossier partagé ou du Hub, empreintes vérifiées.",
    "verify": "Vérifie le certificat d'un entraînement : chaîne, données, étapes rejouées.",
    "forget": "Fait oublier un texte à un modèle : refait l'entraînement sans lui, exactement.",
    "dossier": "Mesure ce qu'un modèle retient de ses textes : canaris, extraction, appartenance.",
    "replay": "Refait une réponse du service de son reçu, ou dit ce qui diffère.",
    "serve": "Sert un modèle à tout client d'OpenAI ou d'Anthropic (HTTP), avec son studio.",
    "chat": "Converse avec un modèle affiné sur des dialogues, ici ou derrière un service.",
    "demo": "Compare six stratégies de décodage côte à côte, avec leurs mesures.",
    "visualize": "Montre l'effet de la température, ou l'intérieur d'un modèle, tête par tête.",
}
"""Nom de chaque commande et sa ligne d'aide ; le module du même nom est chargé à l'appel."""
SUBCOMMANDS = {
    "tokenizer": {
        "train": "Apprend un vocabulaire sur des textes, et l'écrit en tokenizer.json.",
        "compare": "Compare des vocabulaires sur un texte : tokens par mot, octets par token.",
        "view": "Montre le découpage d'un texte, token par token, au terminal ou en HTML.",
    },
}
"""Les commandes de celles qui en ont plusieurs ; chacune est une fonction du même module."""
_ARGUMENTS = {
    "tokenizer train": "SOURCE… ",
    "tokenizer compare": "TEXTE ",
    "tokenizer view": "TEXTE ",
    "prepare": "SOURCE… --out DOSSIER ",
    "plan": "SOURCE… --hours NOMBRE ",
    "merge": "MODÈLE ADAPTATEURS… --out FICHIER ",
    "models": "[DOSSIER…] ",
    "push": "MODÈLE LIEU ",
    "pull": "LIEU [DOSSIER] ",
    "convert": "SOURCE DESTINATION --to FORMAT ",
    **dict.fromkeys(
        (
            "infer",
            "evaluate",
            "quantize",
            "inspect",
            "verify",
            "forget",
            "serve",
            "chat",
            "demo",
            "dossier",
        ),
        "[MODÈLE] ",
    ),
    "replay": "REÇU ",
    "visualize": "[MODÈLE] ",
}


def build_app() -> App:
    """L'application en ligne de commande ; aucune commande n'est importée avant d'être appelée."""
    app = App(
        name="gpt-architecture",
        help="GPT-2 écrit de zéro en PyTorch : du texte brut au modèle qui écrit.",
        version=f"gpt-architecture {VERSION}",
        help_epilogue=EPILOGUE,
        **FRENCH_STYLE,
    )
    app["--help"].help = "Affiche cette aide et quitte."
    app["--version"].help = "Affiche la version et quitte."
    app.default(show_tour)
    for name, summary in COMMANDS.items():
        if name not in SUBCOMMANDS:
            _add_command(app, name, f"{name}:{name}", summary)
            continue
        group = App(name=name, help=summary, version_flags=(), **FRENCH_STYLE)
        group.usage = f"gpt-architecture {name} COMMAND"
        group["--help"].help = "Affiche cette aide et quitte."
        for subcommand, line in SUBCOMMANDS[name].items():
            _add_command(group, f"{name} {subcommand}", f"{name}:{subcommand}", line)
        app.command(group)
    return app


def _add_command(app: App, path: str, function: str, summary: str) -> None:
    """Ajoute la commande `path`, faite par `module:fonction` de `scripts`."""
    usage = f"gpt-architecture {path} {_ARGUMENTS.get(path, '')}[OPTIONS]"  # sinon recalculé
    module = f"gpt_architecture.scripts.{function}"
    epilogue = {"help_epilogue": presets_help()} if path == "train" else {}
    app.command(module, name=path.rsplit(maxsplit=1)[-1], help=summary, usage=usage, **epilogue)


def launch(app: App, tokens: list[str]) -> None:
    """Exécute l'application et termine le processus avec le bon code."""
    _check_streams()
    remember_command_line(tokens)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # une console qui ne sait pas un caractère n'arrête rien
            reconfigure(errors="replace")
    asked = _option_value(tokens, "--log-format") or os.environ.get(f"{ENV_PREFIX}LOG_FORMAT")
    _configure_journal("json" if asked == "json" else "text", app, tokens)
    debug = "--debug" in tokens or os.environ.get(f"{ENV_PREFIX}DEBUG", "") in ("1", "true")
    try:
        code = _run(app, tokens)
        sys.stdout.flush()
    except CycloptsError as error:
        _complain(usage_message(error, app, tokens))
        code = 2
    except GPTArchitectureError as error:
        if debug:
            raise
        _complain(with_options(error.marked, app, tokens))
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
            _complain(memory_message(app, tokens))
        else:
            _complain(f"{reason(error)} (--debug montre la pile d'appels)")
        code = 1
    try:
        sys.stderr.flush()  # ce qui y resterait changerait le code de sortie
    except OSError:
        silence(sys.stderr.fileno())
    raise SystemExit(code)


def _check_streams() -> None:
    """Refuse une sortie standard fermée (`>&-`) : le premier fichier ouvert y prendrait sa place.

    Si c'est la sortie d'erreur, ce qui s'y dirait est jeté.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        say_aside(
            "erreur : la sortie standard est fermée (attendu : un terminal, un fichier ou un "
            "tube) ; redirigez-la, par exemple vers /dev/null."
        )
        raise SystemExit(1)


def _run(app: App, tokens: list[str]) -> int:
    """Exécute la commande ; l'aide d'une commande est écrite sans être d'abord analysée.

    cyclopts assemblerait sinon toutes ses options une fois de plus, pour voir si l'une d'elles
    s'appelle --help.
    """
    if _asks_only_help(app, tokens):
        from gpt_architecture.cli.field_help import modules_read_once

        with modules_read_once():
            app.help_print(tokens[:-1])
        return 0
    if any(token.startswith("--json") for token in tokens):
        tokens = with_json_file(tokens)
    app.config = _configuration(tokens)
    injected: dict[str, Any] = {}
    if tokens[:1] == ["train"]:
        from gpt_architecture.cli.train.options import TrainingDefaults

        injected["defaults"] = TrainingDefaults()
        app.config = (*app.config, injected["defaults"])
    if any(_is_foreign(name) for name in os.environ):
        warn_unknown_variables(app, tokens)
    command, bound, unparsed = app.parse_args(tokens, exit_on_error=False, print_error=False)
    common = bound.arguments.get("common")
    if isinstance(common, CommonOptions):  # aussi d'un fichier, ou de la variable d'une commande
        _configure_journal(common.log_format, app, tokens)
    result = command(
        *bound.args,
        **bound.kwargs,
        **{name: injected[name] for name in unparsed if name in injected},
    )
    return result if isinstance(result, int) else 0


def _configure_journal(form: LogFormat, app: App, tokens: list[str]) -> None:
    """Donne sa forme au journal ; ses phrases nomment les options de la commande en cours."""
    named = Translated(lambda message: with_options(message, app, tokens))
    configure_logs(JsonLines() if form == "json" else None, named)


def _asks_only_help(app: App, tokens: list[str]) -> bool:
    """Vrai pour le nom d'une commande suivi de --help, ou pour --help seul."""
    for name in tokens[:-1]:
        if name.startswith("-") or name not in app:
            return False
        app = app[name]
    return tokens[-1:] != [] and tokens[-1] in app.help_flags


def with_json_file(tokens: Sequence[str]) -> list[str]:
    """Les arguments, où l'ancienne forme `--json FICHIER` devient `--json-file FICHIER`.

    `--json` suivi d'un fichier qui existe n'est qu'un drapeau devant un argument, sauf devant le
    JSON d'une mesure passée. `evaluate` seule avait cette forme.
    """
    found = list[str]()
    for token in tokens:
        name, is_joined, value = token.partition("=")
        follows = tokens[0] == "evaluate" and found[-1:] == ["--json"]
        if name == "--json" and is_joined and value.lower() not in ("true", "false"):
            found += ["--json"] if value == _STANDARD_OUTPUT else ["--json-file", value]
        elif follows and token == _STANDARD_OUTPUT:
            continue
        elif follows and _is_old_value(token):
            found[-1:] = ["--json-file", token]
        else:
            found.append(token)
    return found


def _is_old_value(token: str) -> bool:
    path = Path(token)
    if token.startswith(("-", "hub:")) or path.suffix in _MODEL_SUFFIXES:
        return False
    if path.suffix == ".json" or not exists(path):
        return True  # un .json d'autrui sera refusé sous son nom, et non pris pour le modèle
    return path.is_file() and is_own(path, json_of("evaluate"))


def _is_foreign(name: str) -> bool:
    """Vrai pour une variable à notre préfixe qui n'est pas l'une de celles de toujours."""
    return name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX) not in OTHER_VARIABLES


def _configuration(tokens: list[str]) -> tuple[Any, ...]:
    """Sources des options, la plus forte d'abord : environnement, fichier TOML, préréglage."""
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
    return tuple(sources)


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

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
    is_shaped = shaped(message) is not None
    say_aside(message if is_shaped else f"erreur : {message}", logging.ERROR)


def show_tour() -> None:
    """GPT-2 écrit de zéro en PyTorch : du texte brut au modèle qui écrit."""
    from rich.table import Table
    from rich.text import Text

    console = output_console()
    console.print(Text("gpt-architecture", "bold") + Text(" — GPT-2 écrit de zéro en PyTorch\n"))
    console.print(
        "Un texte devient des tokens, les tokens des fenêtres ; douze blocs d'attention\n"
        "apprennent à prédire le token suivant ; une stratégie de décodage en fait du texte.\n"
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, summary in COMMANDS.items():
        table.add_row(Text("gpt-architecture ") + Text(name, "bold"), summary)
    console.print(table)
    console.print()
    model, named = model_here(), ""
    if model is None and (below := models_below()):
        model, named = below[0], f" {shlex.quote(str(below[0]))}"
    if model is not None:
        size = french_size(model.stat().st_size)
        print(f"Modèle trouvé : {model} ({size}). Et maintenant :\n", flush=True)
        print(f"  gpt-architecture infer{named} --strategy top_p --p 0.9")
        print(f"  gpt-architecture demo{named}")
        print(f"  gpt-architecture visualize{named}", flush=True)
    else:
        console.print("Aucun modèle ici. Les premiers mots, en moins d'une minute :\n")
        console.print("  gpt-architecture train --preset eclair")
        console.print("\nGPT-2 sur The Verdict, quelques minutes sur un portable :\n")
        console.print("  gpt-architecture train")
        console.print("\nSur votre propre texte :\n")
        console.print("  gpt-architecture train --data mon-texte.txt --output-dir mon-modele")
    console.print("\nL'aide d'une commande : gpt-architecture COMMANDE --help")
