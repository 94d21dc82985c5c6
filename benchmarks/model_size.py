"""Le débit selon la taille : profondeur, largeur, contexte.

Question : comment le coût d'un pas croît-il ? Chaque forme est mesurée sur quelques pas, en
alternance avec les autres ; le tableau donne tokens/s, leur étendue, et les opérations par seconde.
« make images » en fait la figure, depuis le JSON.

    python benchmarks/model_size.py [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from _machine import announce
from _measure import Row, lone_row, spread, write_rows

from gpt_architecture.config import ComputeConfig, GPTConfig, OptimizerConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.training.backends import Backend, build_backend
from gpt_architecture.training.preparation import flops_per_token
from gpt_architecture.training.step import Batch

VOCABULARY = 4096
TOKENS = 2048  # par pas, quelle que soit la forme
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


def one_step(backend: Backend, cfg: GPTConfig, first: int) -> float:
    """Durée d'un pas, en secondes."""
    rows = TOKENS // cfg.context_length
    ids = torch.randint(cfg.vocab_size, (rows, cfg.context_length + 1))
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
    candidates: list[tuple[dict[str, int], GPTConfig, Backend, list[float]]] = []
    for shape in shapes(quick=quick):
        torch.manual_seed(123)
        cfg = config_of(shape)
        backend = build_backend(
            GPTModel(cfg).train(),
            ComputeConfig(precision="fp32"),
            OptimizerConfig(),
            TrainingConfig(),
        )
        one_step(backend, cfg, 0)  # échauffement : tampons, moments
        candidates.append((shape, cfg, backend, []))
    for turn in range(2 if quick else 7):
        for _, cfg, backend, seconds in candidates:
            seconds.append(one_step(backend, cfg, turn * TOKENS))
    rows = []
    for shape, cfg, _, seconds in candidates:
        cost = flops_per_token(cfg, cfg.context_length)
        name = f"{shape['layers']} couches × {shape['width']}, contexte {shape['context']}"
        row = lone_row(
            "Débit d'entraînement selon la taille",
            name,
            [TOKENS / each for each in seconds],
            "tokens/s",
            parameters=cfg.num_parameters(),
            gflops=TOKENS / statistics.median(seconds) * cost / 1e9,
        )
        rows.append(row | shape)
    return rows


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON et la figure demandés."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="trois valeurs par axe, deux pas")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    rows = measure(quick=arguments.quick)
    print(f"Pas de {TOKENS} tokens, vocabulaire de {VOCABULARY}, {torch.get_num_threads()} fils.\n")
    print("couches  largeur  contexte   paramètres   tokens/s           étendue   GFLOP/s")
    for row in rows:
        print(
            f"{row['layers']:>7} {row['width']:>8} {row['context']:>9} "
            f"{row['parameters']:>12,} {row['ours']:>10.0f} {spread(row['ours_range'], 0):>17} "
            f"{row['gflops']:>9.0f}".replace(",", " ")
        )
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
