"""Ce dont chaque commande se sert : dire, lire une entrée, trouver le modèle ou le tokenizer."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.logs import LogFormat
from gpt_architecture.errors import DataError, ModelFileError
from gpt_architecture.reports.console import silence
from gpt_architecture.storage import decode_text, read_text

ENV_PREFIX = "GPT_ARCHITECTURE_"
OTHER_VARIABLES = ("API_KEY", "API_KEYS", "DEBUG", "CONFIG", "TEST_DATA")
"""Variables à ce préfixe qu'aucune option ne porte, ou que toutes les commandes lisent."""

MODEL_NAME = "gpt-model.pt"
_MAX_PROMPTS = 100_000
_PARENTS_SEARCHED = 3  # de scripts/ : gpt_architecture/, src/, puis la racine du projet


@Parameter(name="*", group=Group("Général", sort_key=9))
@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options communes à toutes les commandes ; `launch` les lit avant les autres."""

    config: Path | None = None
    """Fichier TOML d'options : une table par commande, par exemple [train]."""

    debug: bool = False
    """Montre la pile d'appels complète en cas d'erreur."""

    log_format: LogFormat = "text"
    """Forme de ce qui est dit sur stderr : text, ou json (un objet par ligne, sans barre)."""


_command_line: ContextVar[tuple[str, ...]] = ContextVar("command_line", default=())


def remember_command_line(tokens: Sequence[str]) -> None:
    """Retient les arguments de l'application qui commence."""
    _command_line.set(tuple(tokens))


def command_line() -> tuple[str, ...]:
    """Les arguments donnés à l'application en cours, commande comprise."""
    return _command_line.get()


def say(line: str = "") -> None:
    """Écrit une ligne sur stdout ; si le lecteur est parti, se tait désormais sans s'arrêter."""
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # EIO : le terminal s'est fermé
            raise
        silence_stdout()


def silence_stdout() -> None:
    """Jette tout ce qui reste à écrire sur stdout."""
    silence(sys.stdout.fileno())


def find_model(path: Path | None) -> Path:
    """Le modèle demandé ; sinon `gpt-model.pt` dans le dossier courant ou l'un de ses parents.

    Raises:
        ModelFileError: il n'y est pas, mais l'un des dossiers d'ici en a un.
    """
    found = model_here() if path is None else path
    if found is None and (below := models_below()):
        raise ModelFileError.missing(
            MODEL_NAME,
            expected="un modèle ici, ou dans un dossier parent",
            remedy=f"ajoutez `model={shlex.quote(str(below[0]))}`",
        )
    return Path(MODEL_NAME) if found is None else found


def model_here() -> Path | None:
    """`gpt-model.pt` dans le dossier courant ou l'un de ses parents ; None : il n'y est pas."""
    here = Path.cwd()
    candidates = (each / MODEL_NAME for each in (here, *here.parents[:_PARENTS_SEARCHED]))
    return next((each for each in candidates if each.is_file()), None)


def models_below() -> list[Path]:
    """Les modèles des dossiers d'ici, le dernier écrit d'abord ; un dossier fermé n'en a pas."""
    found = [each for each in Path().glob(f"*/{MODEL_NAME}") if each.is_file()]
    return sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)


def read_prompt(prompt: str) -> str:
    """L'invite ; « - » la lit sur l'entrée standard.

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


def default_prompt(prompt: str | None, metadata: Mapping[str, Any]) -> str:
    """L'invite demandée, « - » la lisant sur l'entrée standard, sinon celle de l'entraînement.

    Raises:
        ConfigurationError: aucun des deux.
    """
    from gpt_architecture.data.tokenizers.marked_text import chosen_prompt

    return chosen_prompt(None if prompt is None else read_prompt(prompt), metadata)


def starts(
    prompt: str | None, path: Path | None, metadata: Mapping[str, Any], *, parse_special: bool
) -> list[str]:
    """Les invites : celles d'un fichier, une par ligne, ou une seule.

    Args:
        prompt: l'invite ; « - » la lit sur l'entrée standard ; None : celle de l'entraînement.
        path: le fichier.
        metadata: ce que le modèle dit de son entraînement.
        parse_special: y lit les noms de tokens spéciaux.

    Raises:
        DataError: ce fichier n'a pas d'invite, en a trop, ou ne se lit pas.
    """
    from gpt_architecture.data.tokenizers.marked_text import written

    found = [default_prompt(prompt, metadata)] if path is None else _read_prompts(path)
    return [written(each) for each in found] if parse_special else found


def _read_prompts(path: Path) -> list[str]:
    lines = read_text(
        path, expected="un texte UTF-8, une invite par ligne", remedy="corrigez --prompts"
    ).split("\n")
    prompts = [line for line in lines if line.strip()]
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise DataError(
            f"{path} contient {len(prompts)} invites",
            expected=f"de 1 à {_MAX_PROMPTS} lignes non vides",
            remedy="corrigez ce fichier",
        )
    return prompts
