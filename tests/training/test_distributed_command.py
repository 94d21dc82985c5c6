"""`train` à un puis à deux processus : mêmes pertes, mêmes poids, mêmes points de reprise."""

import json
import shutil
import sys

import pytest
import torch
from cli_helpers import run_process, tiny
from distributed_helpers import torchrun_command

from gpt_architecture.formats.model_file import read_model

FIRST, STEPS = 4, 8
OPTIONS = {
    "n_layers": 2,
    "drop_rate": 0.1,
    "batch_size": 4,
    "accumulate": 2,
    "clip": 0.5,
    "schedule": "cosine",
    "epochs": 3,
    "max_steps": STEPS,
    "save_every": FIRST,
    "precision": "fp32",  # un pas fusionné prendrait bf16, autograd réparti non
}


def losses(folder):
    """Perte, norme et rang de chaque étape du journal."""
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [entry for entry in map(json.loads, lines) if entry["kind"] == "step"]
    assert [entry["step"] for entry in steps] == list(range(len(steps)))
    return torch.tensor([[entry["loss"], entry["grad_norm"]] for entry in steps])


def weights(folder):
    return read_model(folder / "gpt-model.pt").state_dict


def assert_same(folder, reference):
    torch.testing.assert_close(losses(folder), losses(reference), rtol=1e-5, atol=1e-5)
    expected = weights(reference)
    found = weights(folder)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def several(*arguments):
    """Le lanceur du projet, sur deux processus."""
    command = [sys.executable, "-m", "gpt_architecture", "train", "--launch", "2"]
    return run_process(*command, *arguments, timeout=90)


def torchrun(*arguments):
    """Celui de PyTorch ; ses avertissements vont sur stderr."""
    return run_process(
        *torchrun_command("-m", "gpt_architecture.scripts.train", *arguments), timeout=90
    )


@pytest.fixture
def alone(cli, tmp_path):
    """L'entraînement d'un seul processus, d'une traite."""
    folder = tmp_path / "seul"
    outcome = cli("train", *tiny(output_dir=folder, **OPTIONS))
    assert outcome.code == 0, outcome.err
    return folder


def test_two_processes_then_one(cli, alone, tmp_path):
    """Répété d'une traite donne les mêmes pertes ; son point de reprise se poursuit seul."""
    folder = tmp_path / "deux"
    outcome = torchrun(*tiny(output_dir=folder, **OPTIONS))
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("Modèle : ") == 1
    assert "2 processus (ddp)" in outcome.out
    assert_same(folder, alone)

    for place in (folder, alone):
        (place / "gpt-model.pt").unlink()
        shutil.rmtree(place / "checkpoints" / f"step-{STEPS:06d}")
        outcome = cli("train", "--resume", place)
        assert outcome.code == 0, outcome.err
        assert f"Reprise à l'étape {FIRST}" in outcome.out
    assert_same(folder, alone)


def test_one_process_then_two_sharded_then_one(cli, alone, tmp_path):
    """Un point de reprise d'un seul se répartit (FSDP) ; le sien se relit seul."""
    folder = tmp_path / "reparti"
    shutil.copytree(alone, folder)
    (folder / "gpt-model.pt").unlink()
    shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:06d}")
    outcome = several("--resume", folder, "--parallel", "fsdp")
    assert outcome.code == 0, outcome.err
    assert "2 processus (fsdp)" in outcome.out
    assert_same(folder, alone)
    names = {path.name for path in (folder / "checkpoints" / f"step-{STEPS:06d}").iterdir()}
    assert names == {
        *("manifest.json", "state.json"),
        *("model.safetensors", "optimizer.safetensors", "rng.safetensors"),
    }
    assert not list((folder / "checkpoints").glob("*.shards"))

    for place in (folder, alone):
        outcome = cli("train", "--resume", place, "--max-steps", STEPS + 2)
        assert outcome.code == 0, outcome.err
    assert_same(folder, alone)


def test_an_estimate_is_for_one_process(tmp_path):
    """--estimate mesure un processus : à plusieurs, une phrase le dit avant tout travail."""
    outcome = several(*tiny(output_dir=tmp_path / "sortie"), "--estimate")
    outcome.check_one_line_error(2, "--estimate avec 2 processus", "--launch")
    assert "Mesure" not in outcome.out


def test_a_batch_that_cannot_be_shared_is_one_error(tmp_path):
    """Deux processus, une phrase, le code de sortie de la commande."""
    outcome = several(*tiny(output_dir=tmp_path / "sortie", batch_size=3))
    outcome.check_one_line_error(2, "3 séquences par étape", "2 processus")
    assert not (tmp_path / "sortie" / "gpt-model.pt").exists()
