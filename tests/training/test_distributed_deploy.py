"""Les fichiers de deploy/ : syntaxe, objets, et chaque ligne de commande lue par la vraie CLI."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args as parse_torchrun

from gpt_architecture.cli.app import build_app
from gpt_architecture.cli.launch import ScaleOptions

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SLURM = DEPLOY / "slurm" / "train.sbatch"
MODULE = "gpt_architecture.scripts.train"


@pytest.fixture(scope="module")
def documents():
    yaml = pytest.importorskip("yaml", reason="PyYAML est absent")
    content = (DEPLOY / "kubernetes" / "trainjob.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(content)}


def check_torchrun(arguments):
    """torchrun lit la ligne, et `train` lit la sienne ; rend les options de partage."""
    launched = parse_torchrun(arguments)
    assert launched.module
    assert launched.training_script == MODULE
    _, bound, *_ = build_app().parse_args(
        ["train", *launched.training_script_args], exit_on_error=False, print_error=False
    )
    return launched, bound.arguments.get("scale", ScaleOptions())


def test_slurm_script_is_valid_bash():
    done = subprocess.run(["bash", "-n", SLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_slurm_command_is_read_by_torchrun_and_train():
    """Les variables prennent les valeurs qu'elles auraient sur le deuxième de deux nœuds."""
    text = SLURM.read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.search(r"torch\.distributed\.run(.+)$", text, re.MULTILINE)[1]
    command = command.replace("$((SLURM_NODEID == 0))", "0").replace('"$@"', "--batch-size 8")
    values = {"SLURM_NNODES": "2", "PROCESSES": "4", "HEAD_NODE": "n1", "PORT": "29000"}
    values |= {"SLURM_JOB_ID": "7", "OUTPUT_DIR": "/travail/sortie"}
    command = re.sub(r"\$(\w+)", lambda name: values[name[1]], command)
    launched, scale = check_torchrun(shlex.split(command))
    assert (launched.nnodes, launched.nproc_per_node) == ("2", "4")
    assert launched.rdzv_endpoint == "n1:29000"
    assert launched.rdzv_conf == "is_host=0"
    assert scale.auto_resume


def test_slurm_job_saves_before_its_end():
    """Prévenu assez tôt, remis en file, et torchrun n'est pas plus patient que Slurm."""
    text = SLURM.read_text(encoding="utf-8")
    assert "#SBATCH --requeue" in text
    notice = int(re.search(r"--signal=B:TERM@(\d+)", text)[1])
    assert int(re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)[1]) < notice


def test_kubernetes_objects_refer_to_each_other(documents):
    assert set(documents) == {"PersistentVolumeClaim", "TrainingRuntime", "TrainJob"}
    runtime, job = documents["TrainingRuntime"], documents["TrainJob"]
    assert runtime["apiVersion"] == job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (
        "TrainingRuntime",
        runtime["metadata"]["name"],
    )
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels = node["template"]["metadata"]["labels"]
    assert labels["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod = node["template"]["spec"]["template"]["spec"]
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if len(v) == 2 and "persistentVolumeClaim" in v
    ]
    assert claims == [documents["PersistentVolumeClaim"]["metadata"]["name"]]
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_kubernetes_command_is_read_by_torchrun_and_train(documents):
    trainer = documents["TrainJob"]["spec"]["trainer"]
    python, dash_m, launcher, *arguments = [*trainer["command"], *trainer["args"]]
    assert (python, dash_m, launcher) == ("python", "-m", "torch.distributed.run")
    launched, scale = check_torchrun(arguments)
    assert int(launched.max_restarts) == 3
    assert (scale.parallel, scale.auto_resume) == ("fsdp", True)


def test_no_secret_is_asked_for():
    for path in DEPLOY.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"secretref|secretkeyref|password|\btoken:", text), path
