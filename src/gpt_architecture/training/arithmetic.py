"""L'arithmétique d'un entraînement : ce dont dépendent ses arrondis, et ce que d'autres permettent.

Entre deux arithmétiques égales, un entraînement rejoué donne les mêmes bits. Entre deux autres, les
pertes moyennes s'écartent peu ; `benchmarks/verify.py` mesure de combien.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.core.machine import describe_device, instructions, processor
from gpt_architecture.kernels.runtime.matmul import prefers_onednn
from gpt_architecture.training.step import has_bf16

_THREADS_PER_CORE = 4


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Ce qui est admis entre deux arithmétiques, en écarts relatifs.

    Attributes:
        losses: entre deux pertes moyennes.
        weights: entre deux tenseurs de poids, en norme.
    """

    losses: float
    weights: float


TOLERANCES = {
    "fp32": Tolerance(losses=1e-3, weights=0.01),
    "bf16": Tolerance(losses=2e-2, weights=0.1),
}
"""Ce qu'admet chaque précision."""

_NAMES = {
    "engine": "moteur",
    "device": "périphérique",
    "precision": "précision",
    "instructions": "jeu d'instructions",
    "matrices": "bibliothèque de produits",
    "processes": "nombre de processus",
    "processor": "processeur",
    "threads": "nombre de threads",
    "torch": "version de PyTorch",
    "numpy": "version de NumPy",
    "accelerator": "carte",
}


def arithmetic(
    calculation: Mapping[str, str], device: torch.device, *, processes: int = 1
) -> dict[str, Any]:
    """Ce dont dépendent les arrondis : entre deux arithmétiques égales, les bits sont les mêmes.

    Args:
        calculation: moteur, périphérique et précision (voir `backends.calculation_of`).
        device: où calculer.
        processes: combien se partagent chaque étape.
    """
    found = {
        **calculation,
        "instructions": [
            torch.backends.cpu.get_cpu_capability(),
            *sorted(instructions()),
        ],
        "matrices": "oneDNN" if prefers_onednn() else "PyTorch",
        "processes": processes,
        "processor": " ".join(map(str, processor())),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if device.type != "cpu":
        found["accelerator"] = describe_device(device)
    return found


def arithmetic_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Ce qui change d'une arithmétique à l'autre, en français ; vide : les bits sont les mêmes.

    Une carte et plusieurs processus ne promettent pas les mêmes bits, même à l'identique.
    """
    changes = [
        f"{_NAMES.get(name, name)} : {_shown(before.get(name))} puis {_shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if not changes and before.get("device") != "cpu":
        return ["une carte ne promet pas les mêmes bits"]
    return changes


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def tolerance(before: Mapping[str, Any], now: Mapping[str, Any]) -> Tolerance:
    """Ce qui est admis entre ces deux arithmétiques : les écarts de la moins précise."""
    known = [
        TOLERANCES.get(str(each.get("precision")), TOLERANCES["bf16"]) for each in (before, now)
    ]
    return max(known, key=lambda each: each.losses)


def weights_gap(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """Le plus grand écart relatif, en norme, entre deux tenseurs du même nom ; et ce nom.

    Le biais des clés est laissé : le softmax l'annule, son gradient n'est que des arrondis.

    Returns:
        L'infini si les noms ou les formes ne sont pas les mêmes, ou si un nombre n'est pas fini
        d'un seul côté.
    """
    worst = (0.0, "")
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected or found[name].shape != expected[name].shape:
            return math.inf, name
        if name.endswith("W_key.bias"):
            continue
        one, two = (each[name].detach().cpu().double() for each in (found, expected))
        if torch.equal(one, two):
            continue
        gap = float((one - two).norm()) / max(float(two.norm()), 1e-12)
        worst = max(worst, (gap if math.isfinite(gap) else math.inf, name))
    return worst


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """N'autorise, le temps du contexte, que les algorithmes au résultat toujours identique.

    Sur CUDA, cuBLAS demande en plus la variable CUBLAS_WORKSPACE_CONFIG, lue à son réveil.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def same_threads(count: int) -> Iterator[None]:
    """Le temps du contexte, PyTorch calcule à ce nombre de threads, dont dépendent les arrondis.

    Un certificat peut en nommer bien plus que la machine n'en tient : au-delà de quelques-uns par
    cœur, l'arithmétique est une autre, ce que `arithmetic_changes` voit.
    """
    before = torch.get_num_threads()
    most = _THREADS_PER_CORE * (os.cpu_count() or 1)
    torch.set_num_threads(max(1, min(count, most)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_calculation(before: Mapping[str, Any]) -> dict[str, Any]:
    """Les réglages qui refont un calcul, là où la machine le permet.

    Une machine peut ne pas avoir le moteur fusionné, ni bf16 : elle calcule alors autrement.
    """
    kind = str(before.get("device", "cpu"))
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen: dict[str, Any] = {"device": kind if present.get(kind) else "cpu"}
    chosen["engine"] = "autograd" if before.get("engine") == "autograd" else "auto"
    chosen["precision"] = "fp32"
    if before.get("precision") == "bf16" and has_bf16(torch.device(chosen["device"])):
        chosen["precision"] = "bf16"
    return chosen
