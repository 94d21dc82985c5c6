"""Plusieurs processus, et l'arrêt en douceur : options, lanceur de PyTorch (torchrun), signaux."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import silence_stdout
from gpt_architecture.config import check_float, check_int
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError, TrainingError
from gpt_architecture.reports.console import say_aside, shaped, silence

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from gpt_architecture.training.distributed.world import World


SHUTDOWN_S = 300
"""Secondes laissées aux processus pour enregistrer, après un signal, avant SIGKILL."""

_MODULE = "gpt_architecture.scripts.train"
_RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


@Parameter(name="*", group=Group("Avancé : plusieurs processus", sort_key=8))
@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Sur combien de processus, et comment ils se partagent le travail."""

    launch: int | None = None
    """Nombre de processus à lancer sur cette machine ; torchrun fait de même sur plusieurs."""

    max_restarts: int = 0
    """Nombre de fois où --launch relance tous les processus si l'un échoue ; ils reprennent
    d'eux-mêmes."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Partage : ddp répète les poids dans chaque processus, fsdp les répartit."""

    dist_timeout: float = 600.0
    """Nombre de secondes sans nouvelles d'un processus avant que tous s'arrêtent."""

    auto_resume: bool = False
    """Reprend l'entraînement du dossier de sortie s'il y en a un, commence sinon."""

    def __post_init__(self) -> None:
        if self.launch is not None:
            check_int("launch", self.launch, minimum=1, maximum=4096)
        check_int("max_restarts", self.max_restarts, minimum=0, maximum=1000)
        check_float("dist_timeout", self.dist_timeout, above=0.0)

    @property
    def resumes_alone(self) -> bool:
        """Vrai s'il faut reprendre sans qu'on le demande : torchrun ou Slurm ont relancé."""
        counts = (os.environ.get(name, "") for name in _RESTART_COUNTS)
        return self.auto_resume or any(c.isdecimal() and int(c) > 0 for c in counts)


def launched_by_torchrun() -> bool:
    """Vrai dans un processus que torchrun a lancé."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def speaks() -> bool:
    """Vrai pour le processus qui parle : le seul, ou le premier."""
    return not launched_by_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def joined_world(timeout_s: float, device: str) -> Iterator[World]:
    """Le groupe que torchrun décrit, ou ce seul processus.

    Hors du premier, rien n'est écrit que les erreurs, sur une ligne qui dit de quel processus :
    celle-là peut être la seule à dire pourquoi tous s'arrêtent.

    Args:
        timeout_s: voir `distributed_world`, comme `device`.
    """
    if not launched_by_torchrun():
        from gpt_architecture.training.distributed.world import World

        yield World()
        return
    from gpt_architecture.training.distributed.group import distributed_world

    if not speaks():
        silence_stdout()
        logging.getLogger("gpt_architecture").setLevel(logging.ERROR)
    with distributed_world(timeout_s, device=device) as world:
        try:
            yield world
        except GPTArchitectureError as error:
            if world.is_main:
                raise
            say_aside(f"processus {world.rank} : {error}")
            raise SystemExit(error.exit_code) from None


def check_alone(world: World, options: Mapping[str, bool]) -> None:
    """Refuse à plusieurs les options qui n'ont de sens que pour un processus.

    Raises:
        ConfigurationError: l'une d'elles est donnée à plusieurs processus.
    """
    given = [name for name, is_given in options.items() if is_given]
    if given and world.size > 1:
        raise ConfigurationError(
            f"{given[0]} avec {world.size} processus",
            expected="un seul processus",
            remedy=f"retirez {given[0]} ou --launch",
        )


def launch_processes(
    arguments: Sequence[str], *, processes: int, max_restarts: int = 0, module: str = _MODULE
) -> int:
    """Exécute `python -m module arguments` dans plusieurs processus qui forment un groupe.

    Chacun a sa session : un signal reçu ici leur est transmis une fois, puis leur fin attendue.

    Args:
        arguments: ceux de la commande.
        processes: processus de cette machine.
        max_restarts: fois où tous sont relancés si l'un d'eux échoue.
        module: module à exécuter.

    Returns:
        Code de sortie : 0, celui du premier processus en échec, ou 128 + signal reçu.

    Raises:
        TrainingError: un processus a été tué.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:  # PyTorch règle chacun à part
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Gardé d'une relance à l'autre, le rendez-vous de PyTorch 2.13 donne des adresses périmées.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # torchrun donnerait un seul thread à chaque processus, quel que soit le nombre de cœurs.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=os.urandom(16).hex(),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        shutdown_timeout=SHUTDOWN_S,
        signals_to_handle="SIGTERM,SIGINT,SIGQUIT" + (",SIGHUP" if _hangup() else ""),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        return _exit_code(error.failures)
    return 0


def _exit_code(failures: dict[int, ProcessFailure]) -> int:
    """Le code du premier processus en échec, qui a déjà dit pourquoi.

    Raises:
        TrainingError: il n'a rien pu dire, un signal l'a tué.
    """
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and -failure.exitcode not in (signal.SIGTERM, signal.SIGINT):
            raise TrainingError(
                f"le processus {rank} a été tué ({signal.Signals(-failure.exitcode).name})",
                expected="des processus qui vont au bout",
                remedy="vérifiez la mémoire de la machine, puis reprenez avec --resume",
            )
    first = min(failures.values(), key=lambda failure: failure.timestamp)
    return first.exitcode if first.exitcode > 0 else 128 - first.exitcode


_NOTICE = (
    "Arrêt demandé : le travail en cours se termine, puis un point de reprise est écrit "
    "(de nouveau pour quitter sans attendre)."
)


class StopRequest:
    """Retient le signal reçu ; appelable, il répond à « faut-il s'arrêter ? »."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Faut-il s'arrêter ?"""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + numéro du signal : 129 terminal fermé, 130 pour Ctrl-C, 143 pour SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Ctrl-C, SIGTERM et SIGHUP demandent un arrêt ; les deux premiers, répétés, l'imposent.

    Un terminal qui se ferme envoie SIGHUP, souvent deux fois : du noyau, puis du shell. Sous
    `nohup`, il reste sans effet.
    """
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal = number
            if speaks():
                _say(_NOTICE)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif number == signal.SIGTERM:
            raise SystemExit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM, *_hangup())
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _hangup() -> tuple[int, ...]:
    """SIGHUP, là où il existe (pas sous Windows) et n'est pas ignoré (nohup)."""
    number = getattr(signal, "SIGHUP", None)
    return () if number is None or signal.getsignal(number) is signal.SIG_IGN else (number,)


def _say(text: str) -> None:
    """Écrit sur stderr sans passer par `print`, que le signal a pu interrompre."""
    try:
        line = shaped(text) or "\n" * os.isatty(2) + text  # sous la barre
        os.write(2, f"{line}\n".encode())
    except OSError:  # terminal fermé ; « 2>&1 | tee » : Ctrl-C a emporté le lecteur aussi
        silence(2)
