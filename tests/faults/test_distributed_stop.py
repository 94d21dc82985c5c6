"""`train` à plusieurs processus, interrompu, tué : rien n'est perdu."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from cli_helpers import run_process, tiny
from distributed_helpers import HERE

from gpt_architecture.training.checkpoint import CheckpointStore, read_checkpoint

OPTIONS = {
    "engine": "autograd",
    "precision": "fp32",
    "drop_rate": 0.0,
    "batch_size": 4,
    "eval_freq": 1000,
}


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


def launch_failing(manner, folder, arguments, *, max_restarts=0):
    """`train --launch 2`, dont le rang 1 fait défaut ; rend l'issue et les rangs encore là."""
    code = (
        "from gpt_architecture.errors import TrainingError\n"
        "from gpt_architecture.cli.launch import launch_processes\n"
        "try:\n"
        f"    code = launch_processes({arguments!r}, processes=2, max_restarts={max_restarts}, "
        "module='rank_failure_worker')\n"
        "except TrainingError as error:\n"
        "    raise SystemExit(f'erreur : {error}')\n"
        "raise SystemExit(code)"
    )
    paths = (HERE / "faults", HERE, HERE / "_sans_reseau")
    numbers = folder.with_name("numeros")
    numbers.mkdir()
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "MANIERE": manner,
        "NUMEROS": str(numbers),
    }
    outcome = run_process(sys.executable, "-c", code, env=environment, timeout=120)
    ranks = [int(path.read_text(encoding="utf-8")) for path in numbers.iterdir()]
    assert len(ranks) == 2
    return outcome, [pid for pid in ranks if Path(f"/proc/{pid}").exists()]


def test_a_killed_rank_is_restarted_and_training_resumes(cli, tmp_path):
    """Tué à l'étape 5, le rang est relancé avec les autres : ils reprennent à l'étape 4."""
    straight, folder = tmp_path / "droit", tmp_path / "relance"
    options = {**OPTIONS, "max_steps": 8, "save_every": 4, "epochs": 5, "dist_timeout": 30}
    assert cli("train", *tiny(output_dir=straight, **options)).code == 0
    arguments = tiny(output_dir=folder, **options)
    outcome, left = launch_failing("tue", folder, arguments, max_restarts=1)
    assert outcome.code == 0, outcome.err
    assert left == []
    assert "Reprise à l'étape 4" in outcome.out
    found, expected = ([e["loss"] for e in entries(place, "step")] for place in (folder, straight))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_a_frozen_rank_ends_every_rank(cli, tmp_path):
    """Figé à l'étape 5 : celui qui attend le dit au bout du délai, le figé s'arrête seul."""
    folder = tmp_path / "fige"
    options = {**OPTIONS, "max_steps": 8, "save_every": 4, "epochs": 5, "dist_timeout": 12}
    outcome, left = launch_failing("fige", folder, tiny(output_dir=folder, **options))
    assert outcome.code == 1, outcome.err
    assert left == []
    assert "n'a pas répondu en 12 s" in outcome.err
    assert "Traceback" not in outcome.err
    assert CheckpointStore(folder / "checkpoints").latest().step == 4
    assert cli("train", "--resume", folder).code == 0


def test_a_killed_rank_ends_the_training_with_one_line(cli, tmp_path):
    """`train --launch 2`, un rang tué du dehors, aucune relance permise : échec, rien de perdu."""
    folder = tmp_path / "tue"
    options = tiny(output_dir=folder, **OPTIONS, epochs=100_000, save_every=3, dist_timeout=20)
    command = [sys.executable, "-m", "gpt_architecture", "train", "--launch", "2", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        for line in process.stderr:
            if "Point de reprise" in line:
                break
        ranks = ranks_of(process.pid)
        os.kill(ranks[1], signal.SIGKILL)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 1, err
    assert err.splitlines()[-1].startswith("erreur : le processus 1 a été tué (SIGKILL)")
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert [pid for pid in ranks.values() if Path(f"/proc/{pid}").exists()] == []
    saved = CheckpointStore(folder / "checkpoints").latest()
    outcome = cli("train", "--resume", folder, "--max-steps", saved.step + 1)
    assert outcome.code == 0, outcome.err


def ranks_of(launcher):
    """Rang → numéro de processus, des processus que ce lanceur a créés."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:  # il vient de finir
            continue
        if parent == launcher:
            ranks = [value[5:] for value in variables if value.startswith(b"RANK=")]
            found |= {int(rank): int(place.name) for rank in ranks}
    return found
