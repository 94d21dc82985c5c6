"""L'état d'un entraînement : où il en est, et ce qu'il faut pour le reprendre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.errors import TrainingError
from gpt_architecture.formats.adapter_file import ADAPTER_GROUP
from gpt_architecture.training.optim import load_optimizer_, optimizer_tensors

_LOSSES = ("train_losses", "val_losses")


@dataclass(kw_only=True)
class TrainingState:
    """Où en est l'entraînement, en types simples.

    Attributes:
        step: étapes faites, sautées comprises : la position dans les données.
        tokens: tokens lus.
        sequences: séquences lues.
        skipped: étapes sautées ou incomplètes, perte ou gradient non finis.
        bad_in_a_row: celles-là, de suite.
        seconds: durée cumulée, reprises comprises.
        eval_steps: étape (depuis 0) de chaque évaluation.
        train_losses: perte d'entraînement à chaque évaluation (nats par token).
        val_losses: perte de validation à chaque évaluation.
        tokens_seen: tokens lus à chaque évaluation.
        best_loss: plus basse perte de validation ; None : aucune encore.
        best_step: étape (depuis 0) de cette perte.
        sampled: dernière étape suivie d'un exemple ; −1 : aucune.
        overfit_said: le surapprentissage a été annoncé.
    """

    step: int = 0
    tokens: int = 0
    sequences: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    seconds: float = 0.0
    eval_steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    tokens_seen: list[int] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = -1
    sampled: int = -1
    overfit_said: bool = False

    @property
    def evaluations_without_progress(self) -> int:
        """Évaluations faites depuis la meilleure."""
        return sum(step > self.best_step for step in self.eval_steps)

    def to_dict(self) -> dict[str, Any]:
        """Pour state.json, qui n'a ni NaN ni infini : une perte non finie y est un texte."""
        values = asdict(self)
        for name in _LOSSES:
            values[name] = [x if math.isfinite(x) else str(x) for x in values[name]]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingState:
        """Relit `to_dict`.

        Raises:
            TrainingError: des champs manquent ou sont inconnus.
        """
        expected = {f.name for f in fields(cls)}
        if set(values) != expected:
            odd = ", ".join(sorted(expected ^ set(values)))
            raise TrainingError(
                f"point de reprise d'une autre version (champs : {odd})",
                expected="un point de reprise de cette version",
                remedy="reprenez avec la version qui l'a écrit, ou recommencez avec `force`",
            )
        return cls(**{**values, **{name: [float(x) for x in values[name]] for name in _LOSSES}})


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Les tenseurs à enregistrer, sans copie : poids qui apprennent, optimiseur, générateurs.

    Un poids partagé n'y est qu'une fois, sous son premier nom. Les poids gelés n'y sont pas : ils
    restent ceux du modèle de départ.
    """
    device = next(model.parameters()).device
    rng = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(device)
    group, parameters = _learned(model)
    tensors = {group: {name: p.detach() for name, p in parameters.items()}, "rng": rng}
    moments = optimizer_tensors(optimizer, model)
    if moments:
        tensors["optimizer"] = moments
    return tensors


@torch.no_grad()
def restore_(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Rend à `model`, à `optimizer` et aux générateurs l'état de `capture`.

    Raises:
        TrainingError: les noms ou les formes ne sont pas ceux du modèle.
    """
    group, parameters = _learned(model)
    stored = tensors.get(group, {})
    same_shapes = parameters.keys() == stored.keys() and all(
        parameters[name].shape == tensor.shape for name, tensor in stored.items()
    )
    if not same_shapes:
        raise TrainingError(
            "les poids du point de reprise ne sont pas ceux de ce modèle",
            expected="la forme enregistrée",
            remedy="reprenez sans changer la forme du modèle",
        )
    for name, tensor in stored.items():
        parameters[name].copy_(tensor)
    load_optimizer_(optimizer, model, tensors.get("optimizer", {}))
    torch.set_rng_state(tensors["rng"]["cpu"])
    if "cuda" in tensors["rng"] and torch.cuda.is_available():
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng"]["cuda"], device)


def _learned(model: nn.Module) -> tuple[str, dict[str, nn.Parameter]]:
    """Le nom du groupe des poids qui apprennent, et ces poids : tous, ou des adaptateurs."""
    named = dict(model.named_parameters())
    learned = {name: p for name, p in named.items() if p.requires_grad}
    return ("model" if len(learned) == len(named) else ADAPTER_GROUP), learned
