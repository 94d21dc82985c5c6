"""Ce que chaque rang exécute pour test_distributed.py : `parallel_worker.py ACTION DOSSIER`."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_helpers import STEPS, small_model, step_batches
from safetensors.torch import load_file

from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.training.distributed.group import distributed_world
from gpt_architecture.training.distributed.parallel import (
    ModelSharing,
    whole_model,
)
from gpt_architecture.training.distributed.store import save_shards, split_groups, whole_tensors
from gpt_architecture.training.optim import load_optimizer_, optimizer_tensors
from gpt_architecture.training.step import AutogradEngine


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def train(engine, model, optimizer, world, *, first=0, steps=STEPS):
    """Pertes et normes de quelques étapes, communes à tous les rangs."""
    curve = []
    for step in range(first, first + steps):
        batches = step_batches(step, rank=world.rank, size=world.size)
        scale = 1 / len(batches)
        loss = sum(engine.forward_backward(batch, scale=scale) * scale for batch in batches)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        curve.append((float(world.mean(loss)), float(norm)))
    return curve


def shared(strategy, world, *, tied=False, autograd=True):
    model = small_model(tied=tied)
    parallel = ModelSharing(world=world, strategy=strategy)(model, autograd=autograd)
    engine = parallel.wrap(AutogradEngine(parallel.module, "cpu"))
    return parallel, engine, optimizer_of(model)


def groups_of(model, optimizer):
    return {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer, model)}


def check_exchanges(world):
    """Moyenne, drapeau et diffusion, sans toucher aux arguments."""
    own = torch.tensor([world.rank + 1.0, 3.0])
    return {
        "mean": world.mean(own).tolist(),
        "kept": own.tolist(),
        "any": [world.any(world.rank == 1), world.any(False)],
        "broadcast": world.broadcast(own, source=1).tolist(),
        "place": [world.rank, world.size, world.place.local_rank, str(world.device)],
    }


def count_exchanges(world):
    """Rétropropagations suivies d'un échange de gradients, pour deux lots accumulés."""
    parallel, engine, _ = shared("ddp", world)
    exchanged = []

    def hook(state, bucket):
        exchanged.append(1)
        return (
            dist.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda future: future.value()[0])
        )

    parallel.module.register_comm_hook(None, hook)
    counts = []
    for batch in step_batches(0, rank=world.rank, size=world.size):
        engine.forward_backward(batch, scale=0.5)
        counts.append(len(exchanged))
    return counts


def save(folder):
    with distributed_world(30, device="cpu") as world:
        results = {"exchanges": check_exchanges(world), "reductions": count_exchanges(world)}
        background = dist.new_group(backend="gloo")
        parallel, engine, optimizer = shared("ddp", world, autograd=False)
        results["moyenne"] = train(engine, parallel.model, optimizer, world)
        for strategy in ("ddp", "fsdp"):
            for tied in (False, True):
                parallel, engine, optimizer = shared(strategy, world, tied=tied)
                model = parallel.model
                key = f"{strategy}-{'lié' if tied else 'livre'}"
                results[key] = train(engine, model, optimizer, world)
                whole = whole_model(model)
                if world.is_main:
                    torch.save(whole.state_dict(), folder / f"{key}.pt")
                if strategy == "fsdp":
                    shards = folder / f"{key}-morceaux"
                    sharded, rest = split_groups(groups_of(model, optimizer))
                    if world.is_main:
                        torch.save(rest, folder / f"{key}-reste.pt")
                    pending = save_shards(sharded, shards, process_group=background)
                    # L'entraînement continue pendant l'écriture ; elle n'en voit rien.
                    results[f"{key}-suite"] = train(
                        engine, model, optimizer, world, first=STEPS, steps=2
                    )
                    pending.result()
        (folder / f"rang-{world.rank}.json").write_text(json.dumps(results), encoding="utf-8")


def objectives(folder):
    """Classer, préférer et distiller, les poids répliqués puis répartis."""
    from objective_helpers import courses

    with distributed_world(60, device="cpu") as world:
        results = {
            strategy: courses(
                folder, world=world, sharing=ModelSharing(world=world, strategy=strategy)
            )
            for strategy in ("ddp", "fsdp")
        }
        (folder / f"objectifs-{world.rank}.json").write_text(json.dumps(results), encoding="utf-8")


def resume(folder):
    """Reprend, à deux, ce qu'un processus seul a relu puis récrit en morceaux et entier."""
    with distributed_world(30, device="cpu") as world:
        results = {}
        for source in ("morceaux", "entier"):
            parallel, engine, optimizer = shared("fsdp", world, tied=True)
            model = parallel.model
            place = folder / f"fsdp-lié-{source}"
            if source == "morceaux":
                groups = whole_tensors(place)
                rest = torch.load(folder / "fsdp-lié-reste.pt", weights_only=True)
                weights, state = groups["model"], {**groups["optimizer"], **rest["optimizer"]}
            else:
                weights = load_file(place / "model.safetensors")
                state = torch.load(folder / "optimiseur.pt", weights_only=True)
            model.load_state_dict(parallel.place(weights))
            load_optimizer_(optimizer, model, parallel.place(state))
            results[source] = train(engine, model, optimizer, world, first=STEPS, steps=2)
        (folder / f"reprise-{world.rank}.json").write_text(json.dumps(results), encoding="utf-8")


def hosts(folder):
    """Deux étapes avec DDP, un rang par hôte."""
    with distributed_world(20, device="cpu") as world:
        parallel, engine, optimizer = shared("ddp", world)
        place = world.place
        results = {
            "place": [place.rank, place.size, place.local_rank, place.local_size],
            "curve": train(engine, parallel.model, optimizer, world, steps=2),
        }
        (folder / f"hote-{world.rank}.json").write_text(json.dumps(results), encoding="utf-8")
        # Rendu aussitôt, DDP attend, verrou de Python en main, un fil de gloo qui le veut pour
        # oublier son dernier échange (PyTorch 2.13) : il en a fini d'ici là.
        time.sleep(0.5)


def endless(folder):
    """Échange sans fin ; dépose son numéro de processus après le premier échange."""
    with distributed_world(3, device="cpu") as world:
        world.barrier()
        (folder / f"rang-{world.rank}.pid").write_text(str(os.getpid()), encoding="utf-8")
        while not world.any(False):
            pass


ACTIONS = {
    **{"save": save, "resume": resume, "hosts": hosts, "endless": endless},
    "objectives": objectives,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        ACTIONS[sys.argv[1]](Path(sys.argv[2]))
    except GPTArchitectureError as error:
        print(f"erreur : {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
