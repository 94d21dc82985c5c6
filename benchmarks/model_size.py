"""Le débit selon la taille : profondeur, largeur, contexte.

Question : comment le coût d'un pas croît-il ? Chaque forme est mesurée sur quelques pas, en
alternance avec les autres ; le tableau donne tokens/s, opérations par seconde et mémoire des
poids et de leurs moments, et la figure les courbes.

    python benchmarks/model_size.py [--quick] [--json FICHIER] [--plot FICHIER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from _machine import announce

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
NAMES = {"layers": "couches", "width": "largeur", "context": "contexte"}


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


def measure(*, quick: bool) -> list[dict[str, float]]:
    """Une ligne par forme : débit et coût."""
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
        speed = TOKENS / statistics.median(seconds)
        flops = flops_per_token(cfg, cfg.context_length)
        rows.append(
            {
                **{key: float(value) for key, value in shape.items()},
                "parameters": float(cfg.num_parameters()),
                "tokens_per_second": speed,
                "gflops": speed * flops / 1e9,
                "megabytes": 16 * cfg.num_parameters() / 1e6,
            }
        )
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Trois courbes de débit, une par axe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for place, axis in enumerate(AXES, start=1):
        axes = figure.add_subplot(1, 3, place)
        others = [key for key in BASE if key != axis]
        line = sorted(
            (row[axis], row["tokens_per_second"])
            for row in rows
            if all(row[key] == BASE[key] for key in others)
        )
        axes.plot([x for x, _ in line], [y for _, y in line], marker="o", color="#1f5fa8")
        axes.set_xlabel(NAMES[axis])
        axes.set_ylabel("tokens/s" if place == 1 else "")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    figure.suptitle("Débit d'entraînement selon la taille (les deux autres à 6, 384 et 256)")
    figure.savefig(path)


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON et la figure demandés."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="trois valeurs par axe, deux pas")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    parser.add_argument("--plot", type=Path, help="figure à écrire (.svg, .pdf, .png)")
    arguments = parser.parse_args()
    announce()
    rows = measure(quick=arguments.quick)
    print(f"Pas de {TOKENS} tokens, vocabulaire de {VOCABULARY}, {torch.get_num_threads()} fils.\n")
    print("couches  largeur  contexte   paramètres   tokens/s   GFLOP/s")
    for row in rows:
        print(
            f"{row['layers']:>7.0f} {row['width']:>8.0f} {row['context']:>9.0f} "
            f"{row['parameters']:>12,.0f} {row['tokens_per_second']:>10.0f} "
            f"{row['gflops']:>9.0f}".replace(",", " ")
        )
    if arguments.json:
        content = [
            {
                "name": f"{row['layers']:.0f} couches × {row['width']:.0f}, "
                f"contexte {row['context']:.0f}",
                "ours": row["tokens_per_second"],
                "peer": None,
                "ratio": None,
                "unit": "tokens/s",
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
    if arguments.plot:
        draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
