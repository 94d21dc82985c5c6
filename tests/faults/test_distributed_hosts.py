"""Deux hôtes, faits d'espaces de noms réseau reliés par une paire veth."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_helpers import HERE, small_model
from training.parallel_worker import optimizer_of, train

from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.step import AutogradEngine

WORKER = HERE / "training" / "parallel_worker.py"
ADDRESSES = ("10.203.77.1", "10.203.77.2")
PORT = 29401
LIMIT_S = 60


def ip(*arguments):
    subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, encoding="utf-8", timeout=10
    )


@pytest.fixture
def hosts():
    """Deux espaces de noms reliés ; détruits ensuite, avec leurs interfaces."""
    if shutil.which("ip") is None:
        pytest.skip("la commande ip (iproute2) est absente")
    names = [f"gpt-hote-{os.getpid()}-{side}" for side in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(
                *("link", "add", "veth-gpt", "netns", names[0], "type", "veth"),
                *("peer", "name", "veth-gpt", "netns", names[1]),
            )
            for name, address in zip(names, ADDRESSES, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth-gpt")
                ip("-n", name, "link", "set", "veth-gpt", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"espaces de noms réseau refusés : {error.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def start(host, address, *arguments):
    """Un agent torchrun dans l'espace de noms `host`, avec un seul rang."""
    command = [
        *("ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"),
        *("--rdzv-id", "deux-hotes", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}"),
        # Le nom de la machine ne mène pas à ces adresses : qui tient le rendez-vous se dit.
        *("--rdzv-conf", f"is_host={int(address == ADDRESSES[0])}", "--local-addr", address),
        *(str(WORKER), *map(str, arguments)),
    ]
    # Ces processus ne voient que le lien entre eux : la garde du réseau n'a rien à garder.
    env = {**os.environ, "PYTHONPATH": str(HERE), "GLOO_SOCKET_IFNAME": "veth-gpt"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


@pytest.fixture
def agents(hosts):
    """Lance un agent par hôte ; ceux qui restent à la fin sont tués."""
    started = []

    def run(*arguments):
        started.extend(
            start(host, address, *arguments) for host, address in zip(hosts, ADDRESSES, strict=True)
        )
        return started

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_over(pid):
    """Vrai si le processus a disparu, ou n'attend plus que d'être enterré."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"rien après {LIMIT_S} s"
        time.sleep(0.1)


def test_two_hosts_learn_as_one_process(agents, tmp_path):
    """Rendez-vous c10d à travers le lien, un rang par hôte, les pertes d'un processus seul."""
    for agent in agents("hosts", tmp_path):
        _, err = agent.communicate(timeout=LIMIT_S)
        assert agent.returncode == 0, err
    model = small_model()
    expected = train(AutogradEngine(model, "cpu"), model, optimizer_of(model), World(), steps=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"hote-{rank}.json").read_text(encoding="utf-8"))
        assert found["place"] == [rank, 2, 0, 1]
        torch.testing.assert_close(
            torch.tensor(found["curve"]), torch.tensor(expected), rtol=1e-5, atol=1e-6
        )


def test_a_cut_link_stops_both_ranks(hosts, agents, tmp_path):
    """Le lien coupé, personne n'est prévenu : seuls les délais arrêtent les deux rangs.

    L'hôte du rendez-vous sort en échec ; l'agent de l'autre, que PyTorch ne borne pas, est ce
    que Slurm ou Kubernetes termine.
    """
    holder, _ = agents("endless", tmp_path)
    started = [tmp_path / f"rang-{rank}.pid" for rank in range(2)]
    wait_until(lambda: all(path.exists() and path.read_text() for path in started))
    pids = [int(path.read_text()) for path in started]
    assert not any(is_over(pid) for pid in pids)
    ip("-n", hosts[0], "link", "set", "veth-gpt", "down")
    wait_until(lambda: all(is_over(pid) for pid in pids))
    _, err = holder.communicate(timeout=LIMIT_S)
    assert holder.returncode not in (0, None)
    assert "erreur : " in err
