"""Le débit selon la taille : profondeur, largeur, contexte.

Question : comment le coût d'une étape croît-il ? Chaque forme est mesurée sur quelques étapes, en
alternance avec les autres ; une mesure que d'autres processus ont troublée est refaite. Le tableau
donne les tokens/s, leur étendue, et les opérations par seconde. « make images » en fait la figure,
depuis le JSON.

    python benchmarks/model_size.py [--quick] [--json FICHIER]
    python benchmarks/model_size.py --json docs/figures/donnees/taille.json
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from _machine import announce
from _measure import Row, alternate, lone_row, spread, write_rows

from gpt_architecture.config import ComputeConfig, GPTConfig, OptimizerConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.french import decimal, thousands
from gpt_architecture.training.backends import Backend, build_backend
from gpt_architecture.training.preparation import flops_per_token
from gpt_architecture.training.step import Batch

QUESTION = "Débit d'entraînement selon la taille"
VOCABULARY = 4096
TOKENS = 2048  # par étape, quelle que soit la forme
TURNS = 7
RETRIES = 3
BASE = {"layers": 6, "width": 384, "context": 256}
AXES = {
    "layers": (2, 4, 6, 8, 12),
    "width": (128, 256, 384, 512, 768),
    "context": (64, 128, 256, 512, 1024),
}


def shapes(*, quick: bool) -> list[dict[str, int]]:
    """Les formes à mesurer : chaque axe à son tour, les autres à leur valeur de base."""
    found = []
    for axis, values in AXES.items():
        for value in values[:3] if quick else values:
            shape = {**BASE, axis: value}
            if shape not in found:
                found.append(shape)
    return found


def name_of(shape: dict[str, int]) -> str:
    """« 6 couches × 384, contexte 256 »."""
    return f"{shape['layers']} couches × {shape['width']}, contexte {shape['context']}"


def config_of(shape: dict[str, int]) -> GPTConfig:
    """Mode GPT-2, têtes de 64 (32 pour les petites largeurs)."""
    return GPTConfig(
        vocab_size=VOCABULARY,
        context_length=shape["context"],
        emb_dim=shape["width"],
        n_heads=max(shape["width"] // 64, 4),
        n_layers=shape["layers"],
        drop_rate=0.1,
        qkv_bias=True,
        tie_weights=True,
    )


def backend_of(cfg: GPTConfig) -> Backend:
    """Le moteur d'un modèle neuf, en fp32."""
    torch.manual_seed(123)
    return build_backend(
        GPTModel(cfg).train(), ComputeConfig(precision="fp32"), OptimizerConfig(), TrainingConfig()
    )


def one_step(backend: Backend, cfg: GPTConfig, steps: Iterator[int]) -> float:
    """Durée d'une étape, en secondes."""
    rows = TOKENS // cfg.context_length
    ids = torch.randint(cfg.vocab_size, (rows, cfg.context_length + 1))
    first = next(steps) * rows
    batch = Batch(
        inputs=ids[:, :-1].contiguous(),
        targets=ids[:, 1:].contiguous(),
        sequence_ids=torch.arange(first, first + rows),
    )
    start = time.perf_counter()
    backend.engine.forward_backward(batch, scale=1.0)
    backend.optimizer.step()
    backend.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def measure(*, quick: bool) -> list[Row]:
    """Une ligne par forme : son débit, l'étendue des passages, et ce qu'elle coûte."""
    found = {name_of(shape): shape for shape in shapes(quick=quick)}
    configs = {name: config_of(shape) for name, shape in found.items()}
    backends = {name: backend_of(cfg) for name, cfg in configs.items()}
    steps = itertools.count()
    seconds = alternate(
        {
            name: partial(one_step, backend, configs[name], steps)
            for name, backend in backends.items()
        },
        2 if quick else TURNS,
        retries=0 if quick else RETRIES,
    )
    rows = []
    for name, shape in found.items():
        speeds = [TOKENS / each for each in seconds[name]]
        cost = flops_per_token(configs[name], configs[name].context_length)
        row = lone_row(
            QUESTION,
            name,
            speeds,
            "tokens/s",
            parameters=configs[name].num_parameters(),
            gflops=statistics.median(speeds) * cost / 1e9,
        )
        rows.append(row | shape | {"name": name})
    return rows


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="trois valeurs par axe, deux passages")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    rows = measure(quick=arguments.quick)
    print(
        f"Étapes de {thousands(TOKENS)} tokens, vocabulaire de {thousands(VOCABULARY)}, "
        f"{torch.get_num_threads()} threads.\n"
    )
    print("| couches | largeur | contexte | paramètres | tokens/s | étendue | GFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = (
            *(thousands(row[axis]) for axis in AXES),
            thousands(row["parameters"]),
            thousands(round(row["ours"])),
            spread(row["ours_range"], 0),
            decimal(row["gflops"], 0),
        )
        print(f"| {' | '.join(cells)} |")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
