"""Ce dont chaque commande se sert : dire, lire une entrée, trouver le modèle ou le tokenizer."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.storage import decode_text

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.data.tokenizer import Tokenizer


ENV_PREFIX = "GPT_ARCHITECTURE_"
OTHER_VARIABLES = ("API_KEY", "API_KEYS", "DEBUG", "CONFIG", "TEST_DATA")
"""Variables à ce préfixe qu'aucune option ne porte, ou que toutes les commandes lisent."""

MODEL_NAME = "gpt-model.pt"
_PARENTS_SEARCHED = 3  # de scripts/ : gpt_architecture/, src/, puis la racine du projet


@Parameter(name="*", group=Group("Général", sort_key=9))
@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options communes à toutes les commandes ; `launch` les lit avant les autres."""

    config: Path | None = None
    """Fichier TOML d'options : une table par commande, par exemple [train]."""

    debug: bool = False
    """Montre la pile d'appels complète en cas d'erreur."""


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


def load_tokenizer(name: str) -> Tokenizer:
    """Le tokenizer d'un nom, d'un `tokenizer.json`, d'un dossier qui en a un, ou d'un modèle.

    Raises:
        ConfigurationError: un tokenizer appris, par son nom : son vocabulaire est à faire d'abord.
        TokenizerError: nom inconnu ou fichier illisible.
        ModelFileError: fichier .pt qui n'est pas un modèle.
    """
    from gpt_architecture.data.tokenizer import get_tokenizer, learns_from_text, tokenizer_from_dict

    if learns_from_text(name):
        remedy = "apprenez-le d'abord : gpt-architecture tokenizer train SOURCE… --out FICHIER"
        if name.startswith("simple"):
            remedy = "enregistrez-le avec SimpleTokenizerV2.from_text(…).save(…)"
        raise ConfigurationError(
            f"le vocabulaire du tokenizer {name} vient d'un texte, qui manque ici",
            expected="gpt2 ou le fichier JSON d'un tokenizer enregistré",
            remedy=f"{remedy} et donnez ce fichier",
        )
    if Path(name).suffix == ".pt" or _is_run(Path(name)):
        from gpt_architecture.api import locate
        from gpt_architecture.formats.model_file import read_model

        return tokenizer_from_dict(read_model(locate(name)).tokenizer)
    return get_tokenizer(name)


def _is_run(path: Path) -> bool:
    """Vrai pour un dossier d'entraînement, ou un point de reprise."""
    names = (MODEL_NAME, "checkpoints", "manifest.json")
    return any((path / name).exists() for name in names)


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
    from gpt_architecture.data.tokenizers.marked_text import own_prompt

    chosen = own_prompt(metadata) if prompt is None else read_prompt(prompt)
    if not chosen:
        raise ConfigurationError(
            "aucun début de texte", expected="quelques mots", remedy='donnez --prompt "…"'
        )
    return chosen


class ProgressBar:
    """Une barre, son pourcentage et une allure écrite par la commande ; muette hors d'un terminal.

    Args:
        title: ce qui avance.
        width: caractères de la barre.

    Attributes:
        is_live: vrai si quelqu'un la voit ; sinon, à la commande d'écrire des lignes simples.
    """

    def __init__(self, title: str, *, width: int = 12) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = output_console(stderr=True)
        self.is_live = sys.stderr.isatty() and console.is_interactive
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=width),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not self.is_live,
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
        with suppress(OSError):  # le terminal a pu se fermer
            self._progress.stop()

    def start(self, total: int, done: int) -> None:
        """Fixe la longueur de la barre, et ce qui en est déjà fait."""
        self._progress.update(self._task, total=total, completed=done)

    def update(self, done: int, pace: str) -> None:
        """Avance jusqu'à `done`, et montre `pace` à droite."""
        self._progress.update(self._task, completed=done, pace=pace)

    def say(self, line: str) -> None:
        """Écrit une ligne sur stderr, au-dessus de la barre."""
        if not self.is_live:  # rich quitterait le programme si le lecteur est parti
            say_aside(line)
            return
        with suppress(OSError):
            self._progress.console.print(line, soft_wrap=True)
