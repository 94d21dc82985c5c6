"""Refait l'entraînement de référence et écrit son tableau dans docs/mesures/resultats.md.

Lance la vraie commande, `gpt-architecture train`, avec ses valeurs par défaut (GPT-124M sur
The Verdict, dix époques), puis met ses pertes à côté du journal publié du livre de Raschka.
L'égalité bit à bit n'est pas attendue d'une machine à l'autre ; l'allure, si.

    python benchmarks/reproduce.py [--data CHEMIN] [--json FICHIER] [--output-dir DOSSIER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from _machine import announce

from gpt_architecture.config import GPTConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.loader import create_train_val_loaders
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.texts.recipes import RECIPES, VERDICT
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.simple import evaluate_model

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "mesures" / "resultats.md"
WINDOW = 256  # défaut de --context-length
SMALL = ("--emb-dim", "96", "--n-heads", "4", "--n-layers", "2", "--epochs", "2")
BEGIN, END = "<!-- reproduce : début -->", "<!-- reproduce : fin -->"

# Journal publié avec le livre : (étape, perte d'entraînement, perte de validation).
BOOK_LOG = (
    (0, 9.817, 9.924), (5, 8.066, 8.332), (10, 6.619, 7.042), (15, 6.046, 6.596),
    (20, 5.524, 6.508), (25, 5.369, 6.378), (30, 4.830, 6.263), (35, 4.586, 6.285),
    (40, 3.879, 6.130), (45, 3.530, 6.183), (50, 2.960, 6.123), (55, 2.832, 6.150),
    (60, 2.104, 6.133), (65, 1.691, 6.186), (70, 1.391, 6.230), (75, 1.059, 6.251),
    (80, 0.800, 6.278), (85, 0.569, 6.373),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Target:
    """Un chiffre promis : sa valeur mesurée et la condition qu'il doit remplir."""

    name: str
    measured: float
    condition: str
    met: bool
    unit: str = "nats par token"


def untrained_loss(data: str) -> float:
    """Perte d'entraînement du modèle neuf, sur tout le jeu."""
    training = TrainingConfig()
    corpus = load_corpus([data])
    loaders = create_train_val_loaders(
        corpus.text, get_tokenizer(), context_length=WINDOW, training=training
    )
    torch.manual_seed(training.seed)
    train_loss, _ = evaluate_model(GPTModel(GPTConfig()), *loaders, "cpu", None)
    return train_loss


def run_training(data: str, output_dir: Path, *options: str) -> tuple[float, float]:
    """Lance la commande ; rend (secondes, mémoire résidente maximale en Go)."""
    command = [sys.executable, "-m", "gpt_architecture", "train", "--data", data, *options]
    command += ["--precision", "fp32"]  # celle du document d'origine
    start = time.perf_counter()
    subprocess.run([*command, "--output-dir", str(output_dir), "--force"], check=True)
    seconds = time.perf_counter() - start
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return seconds, peak_kib * 1024 / 1e9


def targets(
    initial: float, losses: list[float], val: list[float], size: float, peak: float
) -> list[Target]:
    """Les chiffres à atteindre."""
    return [
        Target(
            name="perte du modèle neuf",
            measured=initial,
            condition="10,988 ± 0,05",
            met=abs(initial - 10.988) <= 0.05,
        ),
        Target(
            name="première perte d'entraînement notée",
            measured=losses[0],
            condition="9,787 ± 0,25",
            met=abs(losses[0] - 9.787) <= 0.25,
        ),
        Target(
            name="perte d'entraînement finale",
            measured=losses[-1],
            condition="≤ 1,314",
            met=losses[-1] <= 1.314,
        ),
        Target(
            name="perte de validation finale",
            measured=val[-1],
            condition="vers 6,2 à 6,4 (de 6,0 à 6,6)",
            met=6.0 <= val[-1] <= 6.6,
        ),
        Target(
            name="fichier du modèle",
            measured=size,
            condition="de 621 à 623 Mio",
            met=621 <= size <= 623,
            unit="Mio",
        ),
        Target(
            name="mémoire maximale de l'entraînement",
            measured=peak,
            condition="≤ 3,5 Go",
            met=peak <= 3.5,
            unit="Go",
        ),
    ]


def report(rows: list[Target], own: dict[int, tuple[float, float]], seconds: float) -> str:
    """Le passage de resultats.md, en Markdown ; `own` : étape → (entraînement, validation)."""
    lines = [
        f"Durée de la commande : {seconds:.0f} s ({processor()}, {os.cpu_count()} cœurs, "
        f"PyTorch {torch.__version__}, fp32).",
        "",
        "| chiffre | mesuré | attendu | atteint |",
        "|---|---|---|---|",
    ]
    for row in rows:
        verdict = "oui" if row.met else "**non**"
        lines.append(
            f"| {row.name} | {french(row.measured)} {row.unit} | {row.condition} | {verdict} |"
        )
    lines += [
        "",
        "| étape | entraînement, ici | entraînement, livre | validation, ici | validation, livre |",
        "|---|---|---|---|---|",
    ]
    for step, book_train, book_val in BOOK_LOG:
        own_train, own_val = own[step]
        cells = (own_train, book_train, own_val, book_val)
        lines.append(f"| {step} | {' | '.join(french(cell) for cell in cells)} |")
    return "\n".join(lines)


def write_report(text: str) -> None:
    """Remplace le passage entre les deux repères."""
    page = REPORT.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    REPORT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def french(value: float) -> str:
    """Trois décimales, virgule."""
    return f"{value:.3f}".replace(".", ",")


def processor() -> str:
    """Nom du processeur, au mieux."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Mesure, compare, écrit ; code 1 si un chiffre n'est pas atteint."""
    parser = argparse.ArgumentParser(description="Refait l'entraînement de référence.")
    parser.add_argument("--data", default=VERDICT, help="The Verdict : son nom ou son chemin")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs" / "reproduce")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    parser.add_argument(
        "--quick", action="store_true", help="petit modèle, deux époques : essaie la chaîne seule"
    )
    arguments = parser.parse_args()
    announce()

    if load_corpus([arguments.data]).sha256 != RECIPES[VERDICT].sha256:
        parser.error("The Verdict est introuvable ; donnez --data CHEMIN/the-verdict.txt")
    if arguments.quick:
        seconds, peak = run_training(arguments.data, arguments.output_dir / "quick", *SMALL)
        print(f"\nChaîne complète en {seconds:.0f} s, {french(peak)} Go ; rien n'est comparé.")
        return
    initial = untrained_loss(arguments.data)
    print(f"Perte du modèle neuf : {french(initial)}\n", flush=True)
    seconds, peak = run_training(arguments.data, arguments.output_dir)
    path = arguments.output_dir / "gpt-model.pt"
    metadata = read_model(path).metadata
    losses, val = metadata["train_losses"], metadata["val_losses"]
    rows = targets(initial, losses, val, path.stat().st_size / 2**20, peak)
    own = dict(zip(metadata["eval_steps"], zip(losses, val, strict=True), strict=True))
    text = report(rows, own, seconds)
    write_report(text)
    print(f"\n{text}\n\nÉcrit dans {REPORT.relative_to(ROOT)}.")
    if arguments.json:
        content = [
            {
                "name": row.name,
                "ours": row.measured,
                "peer": None,
                "ratio": None,
                "unit": row.unit,
                "target": row.condition,
                "met": row.met,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
    sys.exit(0 if all(row.met for row in rows) else 1)


if __name__ == "__main__":
    main()
