"""Le terminal se ferme : l'entraînement s'enregistre et s'arrête ; sous nohup, il continue."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import run_process, tiny

from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.checkpoint import CheckpointStore

LIMIT_S = 60
COMMAND = (sys.executable, "-m", "gpt_architecture", "train")


def train_in_a_terminal(folder):
    """Lance un entraînement sans fin dans son propre terminal, et attend son premier point."""
    options = tiny(epochs=100_000, output_dir=folder, eval_freq=5, save_every=3)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*COMMAND, *options])  # noqa: S606
    deadline = time.monotonic() + LIMIT_S
    screen = b""
    while b"Point de reprise" not in screen and time.monotonic() < deadline:
        screen += os.read(terminal, 65536)
    return pid, terminal


def end_of(pid):
    """Le code de sortie d'un processus, attendu un temps borné."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"toujours là après {LIMIT_S} s")


@pytest.mark.process
@pytest.mark.parametrize("signals", [0, 1])
def test_a_closed_terminal_saves(cli, tmp_path, signals):
    """Le noyau envoie SIGHUP, le shell souvent un second : un point de reprise, le code 129."""
    pid, terminal = train_in_a_terminal(tmp_path)
    os.close(terminal)
    for _ in range(signals):
        os.kill(pid, signal.SIGHUP)
    assert end_of(pid) == 129
    saved = CheckpointStore(tmp_path / "checkpoints").latest()
    lines = (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert saved.step == sum('"kind": "step"' in line for line in lines)
    outcome = cli("train", "--resume", tmp_path, "--max-steps", saved.step + 1)
    assert outcome.code == 0, outcome.err


@pytest.mark.process
def test_nohup_is_respected(tmp_path):
    """SIGHUP déjà ignoré au départ : il le reste, et l'entraînement va au bout."""
    options = tiny(epochs=3, output_dir=tmp_path, eval_freq=1)
    with subprocess.Popen(
        ["nohup", *COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        for line in process.stdout:
            if line.startswith("Époque"):
                process.send_signal(signal.SIGHUP)
                break
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert "Arrêt demandé" not in err
    assert read_model(tmp_path / "gpt-model.pt").metadata["complete"] is True


@pytest.mark.process
def test_nohup_is_respected_by_the_launcher(tmp_path):
    """Le lanceur de PyTorch écouterait SIGHUP : il est prié de ne pas le faire."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from gpt_architecture.cli.launch import launch_processes\n"
        "code = launch_processes(['--help'], processes=1)\n"
        "sys.exit(0 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 9)\n"
    )
    assert run_process(sys.executable, "-c", code, cwd=tmp_path).code == 0
