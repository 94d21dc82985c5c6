"""L'exactitude des paires minimales suit-elle la perte, d'un point de reprise à l'autre ?

Question : ce que mesure `evaluate --francais` croît-il à mesure qu'un modèle apprend le français ?
Un petit modèle apprend un texte, moins sa fin ; chacun de ses points de reprise est mesuré par la
commande : perte sur la fin du texte, exactitude des 6 000 paires. La réponse est la corrélation de
rang (Spearman) entre l'exactitude et la perte changée de signe, sur des étapes en progression
géométrique.

Autre question, avec `--speed` : combien de temps l'épreuve prend-elle à GPT-2 124M, lue en arbre,
et phrase par phrase ? La seconde lecture est mesurée sur une paire de dix.

    python benchmarks/french.py --data CHEMIN [--steps N] [--quick] [--json FICHIER]
    python benchmarks/french.py --speed [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _machine import announce
from _measure import Row, french, lone_row, write_rows

from gpt_architecture import Evaluation, evaluate, train
from gpt_architecture.config import PRESETS
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import GPT2Tokenizer
from gpt_architecture.evaluation.likelihood import score_spans
from gpt_architecture.evaluation.minimal_pairs import pair_spans, read_pairs
from gpt_architecture.evaluation.shared_prefixes import score_tree

QUESTION = "Paires minimales et perte"
HELD_OUT = 0.03
"""Part du texte, la fin, que le modèle n'apprend pas."""
POINTS = 9
"""Points de reprise mesurés."""
MODEL: dict[str, Any] = {
    "tokenizer": "bpe-512",
    "context_length": 48,
    "emb_dim": 96,
    "n_heads": 4,
    "n_layers": 2,
    "qkv_bias": True,
    "tie_weights": True,
    "batch_size": 16,
    "epochs": 100,
    "train_ratio": 0.97,
    "optimizer": "muon",
    "lr": 2e-3,
    "beta2": 0.95,
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 20,
    "final_lr": 0.05,
    "eval_freq": 1000,
    "seed": 123,
}


def ranks(values: Sequence[float]) -> list[float]:
    """Le rang de chaque valeur ; des égales se partagent leur rang moyen."""
    order = sorted(values)
    return [order.index(each) + (order.count(each) - 1) / 2 for each in values]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Corrélation de rang de Spearman : celle de Pearson entre les rangs."""
    one, two = ranks(first), ranks(second)
    middle = (len(one) - 1) / 2
    product = sum((a - middle) * (b - middle) for a, b in zip(one, two, strict=True))
    spread = sum((a - middle) ** 2 for a in one) * sum((b - middle) ** 2 for b in two)
    return float(product / spread**0.5)


def chosen_steps(steps: int, every: int) -> list[int]:
    """Des multiples de `every`, en progression à peu près géométrique, jusqu'à `steps`."""
    ratio = (steps / every) ** (1 / (POINTS - 1))
    return sorted({every * round(ratio**rank) for rank in range(POINTS)})


def measure(
    data: Path, *, steps: int, every: int, limit: int | None
) -> list[tuple[int, Evaluation]]:
    """Entraîne, puis mesure chaque point de reprise choisi."""
    text = data.read_text(encoding="utf-8")
    cut = text.index("\n", int(len(text) * (1 - HELD_OUT)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "appris.txt").write_text(text[:cut], encoding="utf-8")
        (folder / "inedit.txt").write_text(text[cut:], encoding="utf-8")
        train(
            folder / "appris.txt",
            output_dir=folder / "essai",
            max_steps=steps,
            save_every=every,
            keep=steps // every + 1,
            progress=False,
            **MODEL,
        )
        found = []
        for step in chosen_steps(steps, every):
            point = folder / "essai" / "checkpoints" / f"step-{step:06d}"
            result = evaluate(
                *(point, folder / "inedit.txt"),
                french=True,
                limit=limit,
                tokens=10_000,
                progress=False,
            )
            assert result.french is not None
            total = result.french.total
            low, high = total.interval
            print(
                f"{step:>6} {french(result.loss, 3):>14} {french(100 * total.accuracy, 1):>12} %"
                f"   {french(100 * low, 1)} – {french(100 * high, 1)}",
                flush=True,
            )
            found.append((step, result))
    return found


def speed(*, limit: int | None) -> list[Row]:
    """Durée de l'épreuve entière, lue en arbre, et d'une paire de dix lue des deux manières."""
    torch.manual_seed(123)
    model, tokenizer = GPTModel(PRESETS["gpt2-small"]).eval(), GPT2Tokenizer()
    _, pairs = read_pairs(limit=limit)
    spans = pair_spans(tokenizer, pairs, window=model.cfg.context_length)
    some = pair_spans(tokenizer, pairs[::10], window=model.cfg.context_length)
    score_tree(model, some[:64])  # échauffement
    found, rows = {}, []
    for name, score, given in (
        ("en arbre", score_tree, spans),
        ("en arbre, une paire de dix", score_tree, some),
        ("phrase par phrase, une paire de dix", score_spans, some),
    ):
        start = time.perf_counter()
        found[name] = score(model, given)
        seconds = time.perf_counter() - start
        print(f"{name:<36} {len(given):>6} phrases  {french(seconds, 1):>7} s", flush=True)
        rows.append(lone_row("Durée des paires minimales", name, [seconds], "s", lower=True))
    tree, plain = list(found.values())[1:]
    apart = max(abs(a.log_prob - b.log_prob) for a, b in zip(tree, plain, strict=True))
    print(f"plus grand écart entre deux notes : {apart:.1e} nat".replace(".", ","))
    return rows


def main() -> None:
    """Mesure, imprime le tableau et la corrélation, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="texte français, en UTF-8")
    parser.add_argument("--speed", action="store_true", help="mesure la durée de l'épreuve")
    parser.add_argument("--steps", type=int, default=3000, help="étapes de l'entraînement")
    parser.add_argument("--quick", action="store_true", help="cent étapes, dix paires par règle")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    if arguments.speed:
        write_rows(arguments.json, speed(limit=10 if arguments.quick else None))
        return
    if arguments.data is None:
        parser.error("donnez --data, un texte français, ou --speed")
    print("étape  perte (nats)   exactitude   à 95 %")
    steps, every, limit = (100, 5, 10) if arguments.quick else (arguments.steps, 10, None)
    found = measure(arguments.data, steps=steps, every=every, limit=limit)
    losses = [result.loss for _, result in found]
    totals = [result.french.total for _, result in found if result.french is not None]
    value = rank_correlation([-each for each in losses], [each.accuracy for each in totals])
    print(f"\nCorrélation de rang sur {len(found)} points de reprise : {french(value, 3)}")
    rows = [
        lone_row(
            QUESTION,
            f"étape {step}",
            [total.accuracy],
            "part des paires",
            step=step,
            loss=loss,
            low=total.interval[0],
            high=total.interval[1],
        )
        for (step, _), loss, total in zip(found, losses, totals, strict=True)
    ]
    write_rows(arguments.json, [*rows, lone_row(QUESTION, "corrélation de rang", [value], "")])


if __name__ == "__main__":
    main()
