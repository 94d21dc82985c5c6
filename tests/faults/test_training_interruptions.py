"""Interrompre « train » : à chaque phase, tuer net, disque plein, deux entraînements, reprise."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import run_process, tiny
from conftest import FRENCH_TEXT

from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.checkpoint import CheckpointStore

WORKER = Path(__file__).with_name("training_worker.py")
PHASES = ("données", "modèle", "échauffement", "étape", "évaluation", "exemple", "sauvegarde")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signaux POSIX")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texte.txt"
    path.write_text(FRENCH_TEXT, encoding="utf-8")
    return path


def options(text, out, **changes):
    """Dropout, accumulation, cosinus, plusieurs époques, évaluations et points fréquents."""
    settings = {
        "epochs": 3,
        "context_length": 16,
        "drop_rate": 0.2,
        "accumulate": 2,
        "schedule": "cosine",
        "warmup_steps": 3,
        "eval_freq": 3,
        "save_every": 5,
        "data": text,
        "prompt": "Le passeur",
        "output_dir": out,
    }
    return tiny(**{**settings, **changes})


def result(out):
    """Pertes et poids du modèle final."""
    model = read_model(out / "gpt-model.pt")
    losses = {
        key: model.metadata[key] for key in ("train_losses", "val_losses", "tokens_seen", "steps")
    }
    return losses, {name: tensor.clone() for name, tensor in model.state_dict.items()}


def rates(out):
    """Taux d'apprentissage de chaque étape notée."""
    lines = (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [r["lr"] for r in map(json.loads, lines) if r["kind"] == "step"]


def check_same(first, second):
    assert first[0] == second[0]
    assert all(torch.equal(first[1][name], tensor) for name, tensor in second[1].items())


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory):
    """Le même entraînement, d'une traite."""
    out = tmp_path_factory.mktemp("traite") / "m"
    command = [sys.executable, "-m", "gpt_architecture", "train", *options(text, out)]
    outcome = run_process(*command)
    assert outcome.code == 0, outcome.err
    return result(out)


def resume(cli, out, straight):
    outcome = cli("train", "--resume", out)
    assert outcome.code == 0, outcome.err
    check_same(result(out), straight)


@pytest.mark.process
@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_each_phase_loses_nothing(cli, text, straight, tmp_path, phase):
    """Un signal, où qu'il tombe : un point de reprise, le code 143, puis les mêmes poids."""
    out = tmp_path / "m"
    outcome = run_process(sys.executable, WORKER, phase, 1, *options(text, out))
    assert f"PHASE {phase}" in outcome.out
    assert outcome.code == 143, outcome.err
    assert "Traceback" not in outcome.err
    assert "Pour reprendre" in outcome.out
    assert not (out / "gpt-model.pt").exists()
    if phase == "échauffement":  # le taux montait encore : 2 étapes sur 3, vers 4e-4
        assert rates(out) == pytest.approx([1e-4, 2e-4])
    resume(cli, out, straight)


@pytest.mark.process
@pytest.mark.parametrize("phase", ["évaluation", "sauvegarde"])
def test_the_second_signal_quits_at_once(cli, text, straight, tmp_path, phase):
    """Rien de plus n'est écrit, le code le dit, et le point précédent se reprend."""
    out = tmp_path / "m"
    outcome = run_process(sys.executable, WORKER, phase, 2, *options(text, out, save_every=2))
    assert outcome.code == 143, outcome.err
    assert "Traceback" not in outcome.err
    assert "Pour reprendre" not in outcome.out
    command = options(text, out, save_every=2)
    assert cli("train", *command).code == 1  # un entraînement inachevé est là : rien n'est effacé
    resume(cli, out, straight)


@pytest.mark.process
def test_killed_twice_then_resumed(cli, text, straight, tmp_path):
    """SIGKILL n'importe où, deux fois : les derniers points reprennent, les poids sont ceux-là."""
    out = tmp_path / "m"
    first = [sys.executable, "-u", "-m", "gpt_architecture", "train"]
    for command, saves in (
        ([*first, *options(text, out)], 2),
        ([*first, "--resume", str(out)], 1),
    ):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        ) as process:
            lines = (line for line in process.stderr if line.startswith("Point de reprise"))
            for _ in range(saves):
                next(lines)
            process.kill()
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert CheckpointStore(out / "checkpoints").steps()
    resume(cli, out, straight)


@pytest.mark.process
def test_two_trainings_in_one_directory(cli, text, tmp_path):
    """Le second est refusé en une ligne ; le premier n'en sait rien."""
    out = tmp_path / "m"
    command = [
        *(sys.executable, "-u", "-m", "gpt_architecture", "train"),
        *options(text, out, epochs=100_000, save_every=100_000),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        for line in process.stdout:
            if line.startswith("Époque"):
                break
        second = cli("train", *options(text, out))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    second.check_one_line_error(1, "déjà utilisé", str(process.pid), "--output-dir")
    assert process.returncode == 143
    assert CheckpointStore(out / "checkpoints").latest() is not None


@pytest.fixture
def small_disk(tmp_path):
    """Un disque de 2 Mo."""
    disk = tmp_path / "disque"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or run_process(*mount).code != 0:
        pytest.skip("monter un tmpfs demande les droits de l'administrateur")
    yield disk
    run_process("umount", disk)


@pytest.mark.process
def test_a_disk_that_fills_up(cli, text, straight, tmp_path, small_disk, monkeypatch):
    """Le disque se remplit en chemin : c'est dit, l'entraînement finit, les points demeurent."""
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)  # la place disparaît après le contrôle
        outcome = cli(*("train", *options(text, small_disk, save_every=1, keep=50)))
    assert outcome.code == 0, outcome.err
    assert "Point de reprise non écrit" in outcome.out
    assert "disque plein" in outcome.out
    check_same(result(small_disk), straight)
    store = CheckpointStore(small_disk / "checkpoints")
    assert store.latest() is not None
    store.sweep()
    assert [path.name for path in store.root.glob("step-*.*")] == []


@pytest.mark.process
def test_no_room_is_said_before_training(cli, text, small_disk):
    """La place manque d'emblée : dit avant la première étape, rien n'est écrit."""
    outcome = cli("train", *options(text, small_disk / "m", emb_dim=256))
    outcome.check_one_line_error(1, "il reste", "points de reprise")
    assert "Époque" not in outcome.out
