"""`train` à plusieurs processus, interrompu, tué : rien n'est perdu."""

import json
import os
import signal
import subprocess
import sys

import torch
from cli_helpers import run_process, tiny
from distributed_helpers import HERE

from gpt_architecture.training.checkpoint import read_checkpoint

OPTIONS = {"engine": "autograd", "drop_rate": 0.0, "batch_size": 4, "eval_freq": 1000}


def entries(folder, kind):
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def test_a_signal_saves_once_and_ends_every_process(tmp_path):
    """Le lanceur transmet le signal ; un point de reprise, une phrase, le bon code."""
    folder = tmp_path / "sortie"
    options = tiny(output_dir=folder, **OPTIONS, epochs=100000, save_every=3)
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt_architecture", "train", "--launch", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        for line in process.stderr:  # le premier point de reprise est annoncé là
            if "Point de reprise" in line:
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 143, err
    assert err.count("Arrêt demandé") == 1
    assert "Traceback" not in err
    assert out.count("rien n'est perdu") == 1
    step = int(out.split("Interrompu à l'étape ")[1].split()[0])
    assert read_checkpoint(folder / "checkpoints" / f"step-{step:06d}").step == step
    assert len(entries(folder, "step")) == step


def test_a_killed_rank_is_restarted_and_training_resumes(cli, tmp_path):
    """Tué à l'étape 5, le rang est relancé avec les autres : ils reprennent à l'étape 4."""
    straight, folder = tmp_path / "droit", tmp_path / "relance"
    options = {**OPTIONS, "max_steps": 8, "save_every": 4, "epochs": 5, "dist_timeout": 30}
    assert cli("train", *tiny(output_dir=straight, **options)).code == 0
    arguments = tiny(output_dir=folder, **options)
    code = (
        "from gpt_architecture.scripts._launch import launch_processes\n"
        f"raise SystemExit(launch_processes({arguments!r}, processes=2, max_restarts=1, "
        "module='restarting_worker'))"
    )
    paths = (HERE / "faults", HERE, HERE / "_sans_reseau")
    outcome = run_process(
        *(sys.executable, "-c", code),
        env={"PYTHONPATH": os.pathsep.join(map(str, paths))},
        timeout=120,
    )
    assert outcome.code == 0, outcome.err
    assert "Reprise à l'étape 4" in outcome.out
    found, expected = ([e["loss"] for e in entries(place, "step")] for place in (folder, straight))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-5)
