"""Plusieurs processus sur cette machine : le lanceur de PyTorch (torchrun), sans son verbiage."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_architecture.config import check_int
from gpt_architecture.errors import TrainingError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SHUTDOWN_S = 300
"""Secondes laissées aux processus pour enregistrer, après un signal, avant SIGKILL."""

_MODULE = "gpt_architecture.scripts.train"


def launched_by_torchrun() -> bool:
    """Vrai dans un processus que torchrun a lancé."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def restarted_by_torchrun() -> bool:
    """Vrai si torchrun, ou Slurm, relance ce travail après un arrêt : il doit reprendre seul."""
    counts = (os.environ.get(name, "") for name in _RESTART_COUNTS)
    return any(count.isdecimal() and int(count) > 0 for count in counts)


_RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


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
        ConfigurationError: un nombre hors bornes.
        TrainingError: un processus a été tué.
    """
    check_int("launch", processes, minimum=1, maximum=4096)
    check_int("max_restarts", max_restarts, minimum=0, maximum=1000)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    # torchrun donnerait un seul fil à chaque processus, quel que soit le nombre de cœurs.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        shutdown_timeout=SHUTDOWN_S,
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
