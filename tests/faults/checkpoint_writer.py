"""Processus que les tests tuent pendant qu'ils écrivent des points de reprise."""

import os
import signal
import sys

import torch

from gpt_architecture.training.checkpoint import CheckpointStore


def groups(seed):
    """Plusieurs petits fichiers, propres à une graine."""
    draw = torch.Generator().manual_seed(seed)
    names = ("model", "exp_avg", "exp_avg_sq", "rng")
    return {name: {"w": torch.randn(64, 64, generator=draw)} for name in names}


def holds(checkpoint):
    """Le contenu est, bit pour bit, celui que sa version annonce."""
    expected = groups(checkpoint.state["version"])
    return checkpoint.names == tuple(sorted(expected)) and all(
        torch.equal(checkpoint.tensors(name)["w"], tensors["w"])
        for name, tensors in expected.items()
    )


def nursery(pipe, announcements):
    """Lance à la demande des processus qui ont déjà PyTorch, et dit leur numéro puis leur fin."""
    torch.set_num_threads(1)
    tasks = {"save_many": save_many, "save_until": save_until}
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            tasks[name](*arguments, announcements)
            os._exit(0)
        pipe.send(child)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def save_many(root, first, announcements):
    """Enregistre des versions croissantes jusqu'à être tué, en annonçant chacune avant et après.

    Chaque étape est écrite, puis remplacée, puis retirée.
    """
    store = CheckpointStore(root, keep_last=2)
    with store.lock():
        store.sweep()
        for version in range(first, first + 1000):  # borné, si personne ne le tue
            announcements.send(("avant", version))
            store.save(version // 2, groups(version), {"version": version})
            announcements.send(("après", version))


def save_until(root, step, version, events, _announcements):
    """Enregistre une fois, et se tue au n-ième appel que Python fait au système de fichiers."""
    store = CheckpointStore(root, keep_last=1)
    tensors = groups(version)
    left = events

    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    store.save(step, tensors, {"version": version})
