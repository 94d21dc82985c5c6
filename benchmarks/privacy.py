"""Ce que valent les mesures d'un dossier de confidentialité, sur de petits entraînements.

Trois questions. Les fausses alarmes : combien de canaris sont « retrouvés » dans des modèles qui
n'en ont lu aucun, et leur exposition moyenne est-elle celle du hasard ? La dose : la part de
canaris retrouvés dans une moitié des entraînements prédit-elle, par le nombre de répétitions, celle
de l'autre ? L'appartenance : que donnent les attaques sur un modèle qui apprend par cœur et sur un
modèle qui apprend peu, et leurs contrôles sont-ils bons ?

    python benchmarks/privacy.py [--quick] [--only QUESTION] [--json FICHIER]
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Row, ask_all, french

from gpt_architecture import Run, dossier, train
from gpt_architecture.data.canaries import REPETITIONS, draw_canaries
from gpt_architecture.evaluation.canaries import EXPECTED, ExposureReport, measure_exposure
from gpt_architecture.evaluation.likelihood import wilson_interval

CANARIES = len(REPETITIONS)  # un de chaque dose
SMALL: dict[str, Any] = {
    "data": "la-lampe-du-passeur",
    "tokenizer": "bpe-1024",
    "context_length": 64,
    "positions": 64,
    "emb_dim": 48,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": True,
    "tie_weights": True,
    "batch_size": 8,
    "lr": 3e-3,
    "clip": 1.0,
    "epochs": 99,
    "max_steps": 120,
    "eval_freq": 10_000,
    "eval_iter": 1,
    "engine": "autograd",
    "device": "cpu",
    "progress": False,
}


def trained(folder: Path, **changes: Any) -> Run:
    """Un petit entraînement, dans un dossier à lui."""
    return train(**{**SMALL, **changes}, output_dir=folder)


def exposed(run: Run, seed: int) -> ExposureReport:
    """L'exposition des canaris de cette graine, plantés ou non."""
    drawn = draw_canaries(run.model.tokenizer, CANARIES, seed)
    return measure_exposure(run.model.model, drawn, window=run.model.window)


def false_alarms(quick: bool) -> list[Row]:
    """Des entraînements propres, où l'on cherche des canaris qui n'y sont pas."""
    count, found, bits, bad = (2 if quick else 20), 0, list[float](), 0
    with tempfile.TemporaryDirectory() as base:
        for seed in range(count):
            report = exposed(trained(Path(base) / str(seed), seed=seed), seed)
            found += report.found + report.false_positives
            bits += [each.bits for each in (*report.planted, *report.controls)]
            bad += not report.controls_good
    mean, margin = float(np.mean(bits)), 1.96 * EXPECTED / math.sqrt(len(bits))
    print(
        f"{count} entraînements propres, {len(bits)} secrets jamais lus : {found} retrouvés ; "
        f"exposition moyenne {french(mean)} bits ({french(EXPECTED)} ± {french(margin)} attendus)"
        f" ; contrôles mauvais : {bad}"
    )
    return [
        {"name": "fausses alarmes", "ours": found, "unit": f"sur {len(bits)} secrets"},
        {"name": "exposition des secrets jamais lus", "ours": mean, "unit": "bits"},
    ]


def fitted(doses: np.ndarray, found: np.ndarray, total: np.ndarray) -> np.ndarray:
    """La part prédite à chaque dose : une courbe logistique de log₂ de la dose, par Newton."""
    x = np.stack([np.ones(len(doses)), np.log2(doses)], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        share = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (found - total * share) - 0.01 * weights
        curve = (x * (total * share * (1 - share))[:, None]).T @ x + 0.01 * np.eye(2)
        weights = weights + np.clip(np.linalg.solve(curve, slope), -2, 2)
    return 1 / (1 + np.exp(-x @ weights))


def dose(quick: bool) -> list[Row]:
    """La part de canaris retrouvés par nombre de répétitions, prédite puis observée."""
    count = 2 if quick else 24
    found = np.zeros((2, len(REPETITIONS)))
    bits = np.zeros((2, len(REPETITIONS)))
    with tempfile.TemporaryDirectory() as base:
        for seed in range(count):
            report = exposed(trained(Path(base) / str(seed), seed=seed, canaries=CANARIES), seed)
            found[seed % 2] += [row.found for row in report.rows]
            bits[seed % 2] += [row.bits * row.total for row in report.rows]
    total = np.full(len(REPETITIONS), count / 2 * CANARIES / len(REPETITIONS))
    predicted = fitted(np.array(REPETITIONS, float), found[0], total)
    rows, held = list[Row](), 0
    for place, times in enumerate(REPETITIONS):
        low, high = wilson_interval(found[1, place], int(total[place]))
        inside = low <= predicted[place] <= high
        held += inside
        print(
            f"planté {times} fois : prédit {french(100 * predicted[place], 0)} %, observé "
            f"{int(found[1, place])} sur {int(total[place])} ({french(100 * low, 0)} à "
            f"{french(100 * high, 0)} %){'' if inside else ' : hors de l’intervalle'} ; exposition "
            f"moyenne {french(bits[1, place] / total[place], 1)} bits"
        )
        rows.append(
            {
                "name": f"retrouvés, plantés {times} fois",
                "ours": found[1, place] / total[place],
                "peer": predicted[place],
                "unit": "part (pair : prédite)",
            }
        )
    print(f"prédictions dans l'intervalle observé : {held} sur {len(REPETITIONS)}")
    return rows


def membership(quick: bool) -> list[Row]:
    """Les attaques sur un modèle qui apprend par cœur, et sur un modèle qui apprend peu."""
    rows = list[Row]()
    shadow = 2 if quick else 8
    for name, steps in (("par cœur", 300), ("à peine", 15)):
        with tempfile.TemporaryDirectory() as base:
            run = trained(Path(base) / "m", max_steps=steps, train_ratio=0.7)
            report = dossier(run, SMALL["data"], shadow=shadow, progress=False).membership
        assert report is not None
        for each in report.attacks:
            low, high = each.area.interval
            print(
                f"{name}, {each.name} : AUC {french(each.area.value)} ({french(low)} à "
                f"{french(high)}), reconnus à 1 % d'erreur {french(100 * each.reached, 0)} %, "
                f"contrôles {'bons' if each.good else 'mauvais'}"
            )
            rows.append({"name": f"{name}, {each.name}", "ours": each.area.value, "unit": "AUC"})
    return rows


QUESTIONS = {"fausses alarmes": false_alarms, "dose": dose, "appartenance": membership}


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    torch.set_num_threads(1)  # de si petits produits ne se partagent pas
    ask_all(__doc__, QUESTIONS)


if __name__ == "__main__":
    main()
