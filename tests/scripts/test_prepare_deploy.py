"""Les fichiers de deploy/ qui partagent une préparation, lus puis lancés pour de bon.

`sbatch` et `srun` sont remplacés par des scripts qui notent l'appel ou l'exécutent ici.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_architecture.cli.app import build_app
from gpt_architecture.data.texts.shares import Share

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SBATCH, CHAIN = DEPLOY / "slurm" / "prepare.sbatch", DEPLOY / "slurm" / "prepare.sh"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Un dossier dont `bin` passe avant les vraies commandes, et un petit corpus."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys.executable)
    lines = [json.dumps({"text": f"Le passeur leva {n} fois la lampe."}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def put(folder, name, body):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def run(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", [SBATCH, CHAIN], ids=lambda path: path.name)
def test_scripts_are_valid_bash(path):
    run("bash", "-n", path)


@pytest.mark.process
def test_the_chain_waits_for_what_it_needs(place):
    """Les tâches, la réunion, les tâches, la réunion : chacune après la réussite d'avant."""
    number = 'echo "$(wc -l < "$JOURNAL");federe"'  # ce que dit un Slurm fédéré
    put(place, "sbatch", f'echo "${{MERGE:-0}} $*" >> "$JOURNAL"; {number}')
    journal = place / "journal"
    out = run("bash", CHAIN, "a.jsonl", "--out", "d", TASKS="7", JOURNAL=str(journal))
    assert out.splitlines() == ["La dernière réunion : 4"]
    calls = journal.read_text(encoding="utf-8").splitlines()
    assert [call[0] for call in calls] == ["0", "1", "0", "1"]
    assert all(call.endswith("prepare.sbatch a.jsonl --out d") for call in calls)
    assert ["--array=1-7" in call for call in calls] == [True, False, True, False]
    waits = [re.findall(r"--dependency=(\S+)", call) for call in calls]
    assert waits == [[], ["afterok:1"], ["afterok:2"], ["afterok:3"]]


@pytest.mark.slow
@pytest.mark.process
def test_the_array_job_prepares(place, cli):
    """Deux tâches et leur réunion, telles que Slurm les lancerait : les octets d'une machine."""
    put(place, "srun", 'exec "$@"')
    source, out = place / "a.jsonl", place / "d"
    command = ("bash", SBATCH, source, "--out", out)
    for number in "12":
        array = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"}
        assert "Tâche finie" in run(*command, SLURM_CPUS_PER_TASK="1", **array)
    assert "Préparé en" in run(*command, MERGE="1")
    assert cli("prepare", source, "--out", place / "un").code == 0
    for path in (place / "un").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_kubernetes_jobs_share_the_same_command():
    """Un Job indexé et sa réunion : mêmes arguments, et `auto/N` pour N tâches."""
    yaml = pytest.importorskip("yaml", reason="PyYAML est absent")
    folder = DEPLOY / "kubernetes"
    volume, job = yaml.safe_load_all((folder / "prepare.yaml").read_text(encoding="utf-8"))
    merge = yaml.safe_load((folder / "merge.yaml").read_text(encoding="utf-8"))
    assert job["spec"]["completionMode"] == "Indexed"
    found = []
    for each in (job, merge):
        spec = each["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["command"] == ["python", "-m", "gpt_architecture", "prepare"]
        (claimed,) = spec["volumes"]
        assert claimed["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
        arguments = ["prepare", *container["args"]]
        _, bound, *_ = build_app().parse_args(arguments, exit_on_error=False, print_error=False)
        found.append(bound.arguments)
    task = found[0]["options"].task
    count = job["spec"]["completions"]
    assert Share.parse(task, {"JOB_COMPLETION_INDEX": "0"}) == Share(1, count)
    assert found[1]["options"].merge
    apart = {"--merge", f"--task={task}"}
    lists = [each["spec"]["template"]["spec"]["containers"][0]["args"] for each in (job, merge)]
    assert {*lists[0]} ^ {*lists[1]} == apart
    assert found[0]["cleaning"] == found[1]["cleaning"]
