"""Un rang meurt ou se fige : tous s'arrêtent, en échec, dans un délai connu."""

import sys
import time

from cli_helpers import run_process
from distributed_helpers import HERE, run_in_session, torchrun_command

WORKER = HERE / "faults" / "failing_worker.py"
TIMEOUT_S = 3
LIMIT_S = 60
"""Démarrage compris ; sans garde, un rang figé retiendrait les autres une demi-heure."""


def paths():
    folders = (HERE / "faults", HERE, HERE / "_sans_reseau")
    return {"PYTHONPATH": ":".join(str(folder) for folder in folders)}


def test_a_frozen_rank_stops_every_rank():
    """Celui qui attend dit qui manque ; celui qui est figé s'arrête seul, et dit où."""
    start = time.monotonic()
    outcome = run_in_session(
        torchrun_command(WORKER, "fige", TIMEOUT_S), timeout=LIMIT_S, env=paths()
    )
    assert outcome.code != 0
    assert f"n'a pas répondu en {TIMEOUT_S} s" in outcome.err
    assert "le processus 1 (sur 2) n'avance plus depuis 4,5 s" in outcome.err
    assert "in misbehave" in outcome.err
    assert time.monotonic() - start < LIMIT_S


def test_a_killed_rank_stops_every_rank_with_one_line():
    """Le lanceur du projet dit en une phrase ce qui est arrivé, sans la pile de PyTorch."""
    code = (
        "import sys\n"
        "from gpt_architecture.errors import TrainingError\n"
        "from gpt_architecture.cli.launch import launch_processes\n"
        "try:\n"
        f"    launch_processes(['tue', '{LIMIT_S}'], processes=2, module='failing_worker')\n"
        "except TrainingError as error:\n"
        "    sys.exit(f'erreur : {error}')\n"
    )
    outcome = run_process(sys.executable, "-c", code, env=paths(), timeout=LIMIT_S)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("erreur : le processus 1 a été tué (SIGKILL)")
    assert "Traceback" not in outcome.err
