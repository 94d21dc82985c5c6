"""Ce dont dépendent les arrondis : une reprise n'est exacte au bit près que s'il n'a pas changé."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from gpt_architecture.config import ComputeConfig
from gpt_architecture.errors import CheckpointError
from gpt_architecture.training.backends import Backend, kernel_obstacle
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.engine import training_precision

logger = logging.getLogger(__name__)

_NAMES = {"engine": "moteur", "device": "périphérique", "precision": "précision"}


def calculation_of(
    backend: Backend, compute: ComputeConfig, device: torch.device
) -> dict[str, str]:
    """Moteur, périphérique et précision, tels qu'un point de reprise les garde."""
    dtype = training_precision(compute, device)
    precision = "fp32" if backend.name == "fused" or dtype is None else "bf16"
    return {"engine": backend.name, "device": device.type, "precision": precision}


def same_engine(
    compute: ComputeConfig, checkpoint: Checkpoint | None, device: torch.device
) -> ComputeConfig:
    """Les réglages du calcul ; `auto` garde autograd si le point de reprise en vient."""
    before = _saved(checkpoint)
    kept = (before.get("engine"), before.get("device")) == ("autograd", device.type)
    if kept and compute.engine == "auto" and not compute.wants_fused:
        return replace(compute, engine="autograd")
    return compute


def check_calculation(
    checkpoint: Checkpoint, calculation: Mapping[str, str], *, accepted: bool
) -> None:
    """Refuse de finir sans ses noyaux ce qu'ils ont commencé ; annonce tout autre changement.

    Args:
        calculation: celle d'ici (voir `calculation_of`).
        accepted: vrai si la personne accepte l'absence des noyaux.

    Raises:
        CheckpointError: les noyaux du point de reprise manquent ici.
    """
    before = _saved(checkpoint)
    changes = [
        f"{_NAMES[name]} {before[name]} puis {value}"
        for name, value in calculation.items()
        if before.get(name, value) != value
    ]
    if not changes:
        return
    found = f"les arrondis ne seront plus ceux de {checkpoint.path} ({', '.join(changes)})"
    lost = before.get("engine") == "fused" != calculation["engine"]
    obstacle = kernel_obstacle() if lost else None
    if obstacle is not None and not accepted:
        raise CheckpointError(
            f"{found} : {obstacle}",
            expected="le même moteur, sans quoi la reprise n'est plus exacte au bit près",
            remedy="rendez-lui ses noyaux, ou ajoutez `override` pour l'accepter",
        )
    logger.warning("%s", found)


def _saved(checkpoint: Checkpoint | None) -> Mapping[str, Any]:
    """Vide pour un point d'une version qui ne le gardait pas."""
    saved = None if checkpoint is None else checkpoint.state.get("calculation")
    return saved if isinstance(saved, Mapping) else {}
