"""L'arithmétique d'un entraînement : ce dont dépendent ses arrondis, et ce que d'autres permettent.

Entre deux arithmétiques égales, un entraînement rejoué donne les mêmes bits. Entre deux autres, les
pertes moyennes s'écartent peu ; `benchmarks/verify.py` mesure de combien.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gpt_architecture.core.machine import describe_device, processor
from gpt_architecture.kernels.runtime.matmul import prefers_onednn
from gpt_architecture.training.step import has_bf16

TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2}
"""Écart relatif, au plus, entre deux pertes moyennes que deux arithmétiques calculent."""

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
    known = torch.cpu.get_capabilities()
    found = {
        **calculation,
        "instructions": [
            torch.backends.cpu.get_cpu_capability(),
            *sorted(name for name, value in known.items() if value is True),
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


def tolerance(before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """L'écart admis entre ces deux arithmétiques : celui de la moins précise."""
    return max(TOLERANCES.get(str(each.get("precision")), 2e-2) for each in (before, now))


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
