"""L'entraînement entier, contre la même chose écrite au plus simple.

Question : combien de temps et de mémoire demandent les dix époques de The Verdict, évaluations,
exemples et enregistrement compris ? Et combien de temps pour atteindre la perte publiée, 1,314,
quand tout est permis (préréglage express) ? Chaque candidat est un processus neuf ; ils alternent.

    python benchmarks/train_run.py --data CHEMIN [--quick] [--json FICHIER] [--pairs N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _machine import announce
from _measure import Row, compare, french, write_rows
from torch import Tensor
from torch.nn import functional as F
from train_step import LR, WEIGHT_DECAY, WINDOW, ReferenceGPT

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.loader import create_dataloader_v1, split_text
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.formats.model_file import read_model

GOAL = 1.314  # perte d'entraînement annoncée par le document d'origine
SMALL = {"emb_dim": 96, "n_heads": 4, "n_layers": 2}
OURS, LEAN, EXPRESS, REFERENCE = "ce projet", "--memory lean", "--preset express", "référence"
AUTO = "--precision auto"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Un passage : durée et mémoire du processus, pertes notées avec leur instant."""

    seconds: float
    peak_gb: float
    losses: list[tuple[float, float]]

    def time_to(self, goal: float) -> float | None:
        """Secondes jusqu'à la première perte d'entraînement notée ≤ `goal`."""
        return next((moment for moment, loss in self.losses if loss <= goal), None)


def reference_run(data: str, output: Path, epochs: int, cfg: GPTConfig) -> None:
    """La boucle la plus simple : dix époques, évaluations, exemples sans cache, torch.save."""
    start = time.perf_counter()
    torch.manual_seed(123)
    model = ReferenceGPT(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    tokenizer = get_tokenizer("gpt2")
    train_text, val_text = split_text(load_corpus([data]).text, 0.9)
    options = {"batch_size": 2, "max_length": WINDOW, "stride": WINDOW, "tokenizer": tokenizer}
    train = create_dataloader_v1(train_text, **options, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    val = create_dataloader_v1(val_text, **options, shuffle=False, drop_last=False)  # type: ignore[arg-type]

    def batch_loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    log, step = [], 0
    for _ in range(epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            batch_loss(x, y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 5 == 0:
                model.eval()
                with torch.no_grad():
                    found = [batch_loss(*pair).item() for pair, _ in zip(train, range(5))]  # noqa: B905
                    for pair, _ in zip(val, range(5)):  # noqa: B905
                        batch_loss(*pair)
                model.train()
                log.append((time.perf_counter() - start, statistics.mean(found)))
            step += 1
        model.eval()
        ids = torch.tensor([tokenizer.encode("Every effort moves you")])
        with torch.no_grad():
            for _ in range(50):
                ids = torch.cat([ids, model(ids[:, -WINDOW:])[:, -1:].argmax(-1)], dim=1)
    torch.save(model.state_dict(), output / "reference.pt")
    (output / "pertes.json").write_text(json.dumps(log), encoding="utf-8")


def run(command: list[str], output: Path) -> tuple[float, float]:
    """Lance un processus ; rend (secondes, mémoire résidente maximale en Go)."""
    start = time.perf_counter()
    with (output / "sortie.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        print((output / "sortie.txt").read_text(encoding="utf-8"), file=sys.stderr)
        raise SystemExit(f"échec : {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def measure(name: str, data: str, *, quick: bool) -> Outcome:
    """Un passage d'un candidat, dans un dossier neuf."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        if name == REFERENCE:
            flags = ["--quick"] if quick else []
            command = [sys.executable, __file__, "--reference", folder, "--data", data, *flags]
            seconds, peak = run(command, output)
            losses = json.loads((output / "pertes.json").read_text(encoding="utf-8"))
            return Outcome(seconds=seconds, peak_gb=peak, losses=losses)
        shape = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
        options = {
            OURS: ["--precision", "fp32"],  # comme la référence
            AUTO: [],
            LEAN: ["--precision", "fp32", "--memory", "lean"],
            EXPRESS: ["--precision", "fp32", "--preset", "express"],
        }[name]
        if quick:
            options = [*options, *shape, "--epochs", "2"]
        command = [sys.executable, "-m", "gpt_architecture", "train", "--data", data]
        seconds, peak = run([*command, "--output-dir", folder, *options], output)
        metadata = read_model(output / "gpt-model.pt").metadata
        # L'instant d'une perte est ici la fin du processus : à notre désavantage.
        losses = [(seconds, metadata["train_losses"][-1])]
        return Outcome(seconds=seconds, peak_gb=peak, losses=losses)


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="the-verdict", help="The Verdict : son nom ou son chemin")
    parser.add_argument("--quick", action="store_true", help="petit modèle, deux époques")
    parser.add_argument(
        "--pairs", type=int, default=5, help="passages par candidat (un quart d'heure chacun)"
    )
    parser.add_argument("--only", nargs="*", help="candidats, en plus de la référence")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference is not None:
        cfg = GPTConfig.from_dict(SMALL) if arguments.quick else GPTConfig()
        epochs = 2 if arguments.quick else 10
        reference_run(arguments.data, arguments.reference, epochs, cfg)
        return

    announce()
    names = [REFERENCE, *(arguments.only or (OURS, AUTO, LEAN, EXPRESS))]
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for turn in range(arguments.pairs):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(measure(name, arguments.data, quick=arguments.quick))
            last = found[name][-1]
            print(
                f"… {name} : {french(last.seconds, 0)} s, {french(last.peak_gb)} Go, "
                f"dernière perte notée {french(last.losses[-1][1], 3)}",
                file=sys.stderr,
                flush=True,
            )
    rows: list[Row] = []
    peers = [name for name in names if name != OURS]
    question = "L'entraînement entier sur The Verdict"
    first = OURS if OURS in found else REFERENCE
    views: tuple[tuple[str, str, Callable[[Outcome], float]], ...] = (
        (f"{question}, durée", "s", lambda each: each.seconds),
        (f"{question}, mémoire", "Go", lambda each: each.peak_gb),
        (f"{question}, dernière perte notée", "nats", lambda each: each.losses[-1][1]),
    )
    for title, unit, value in views:
        values = {name: [value(each) for each in outcomes] for name, outcomes in found.items()}
        rows += compare(title, values, unit, first, peers, lower=True)
    reached = {
        name: moments
        for name, outcomes in found.items()
        if all(moments := [each.time_to(GOAL) or 0.0 for each in outcomes])
    }
    for name in (OURS, EXPRESS):
        if name in reached and REFERENCE in reached:
            title = f"Temps jusqu'à une perte de {french(GOAL, 3)}, {name}"
            rows += compare(title, reached, "s", name, [REFERENCE], lower=True)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
