"""L'objectif d'un entraînement, assemblé : sa perte, ses lots, et ce qui le mesure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.config import ComputeConfig, GPTConfig, ObjectiveConfig
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.labelled import LabelledData
from gpt_architecture.data.preferences import PairTokens
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.backends import Backend, scorer_of
from gpt_architecture.training.distillation import DistillationObjective
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.labels import LabelObjective
from gpt_architecture.training.losses import EvaluationLoss, LossEvaluator
from gpt_architecture.training.objectives import Objective, Scorer
from gpt_architecture.training.preferences import (
    MeasuredPairs,
    PreferenceBatches,
    PreferenceEvaluator,
    PreferenceObjective,
)
from gpt_architecture.training.reference import (
    REFERENCE,
    ReferenceScores,
    blank,
    read_or_measure,
)
from gpt_architecture.training.starting import StartingPoint
from gpt_architecture.training.step import TokenBatches

References = Mapping[str, ReferenceScores]
"""Les log p de la référence, par jeu : « train » et « val » ; vide : la perte s'en passe."""


def objective_identity(config: ObjectiveConfig, teacher: StartingPoint | None) -> dict[str, Any]:
    """L'objectif et l'empreinte du professeur, en types simples ; vide : le seul token suivant."""
    found = config.to_dict()
    if teacher is not None:
        found["teacher"] = {"sha256": teacher.sha256}
    return {"objective": found} if found else {}


def check_teacher(teacher: StartingPoint, tokenizer: Tokenizer, model: GPTConfig) -> None:
    """Refuse un professeur dont les tokens ne sont pas ceux de l'élève.

    Raises:
        ConfigurationError: le vocabulaire diffère, ou il classe ou note des textes.
    """
    if teacher.content.config.head is not None:
        raise ConfigurationError(
            f"le professeur {teacher.name} classe ou note des textes : il ne rend pas de token",
            expected="un modèle qui écrit",
            remedy="changez `distill`",
        )
    own = teacher.content.config.vocab_size
    if teacher.tokenizer.to_dict() == tokenizer.to_dict() and own >= model.vocab_size:
        return
    raise ConfigurationError(
        f"le vocabulaire du professeur {teacher.name} ({teacher.tokenizer.name}, {own} tokens) "
        f"n'est pas celui de l'élève ({tokenizer.name}, {model.vocab_size})",
        expected="le même vocabulaire : leurs probabilités se comparent token à token",
        remedy="changez `distill`, ou partez d'un modèle de son vocabulaire",
    )


def objective_of(
    config: ObjectiveConfig,
    teacher: StartingPoint | None,
    compute: ComputeConfig,
    *,
    device: torch.device,
    window: int,
    labelled: LabelledData | None = None,
) -> Objective | None:
    """La perte qui remplace celle du token suivant ; None : aucune.

    Raises:
        ConfigurationError: le professeur ne lit pas un si long contexte.
    """
    if labelled is not None:
        return LabelObjective(labelled)
    if config.preferences is not None:
        return PreferenceObjective(config)
    if teacher is None:
        return None
    positions = teacher.content.config.context_length
    if positions < window:
        raise ConfigurationError(
            f"un professeur à {positions} positions pour un contexte de {window}",
            expected="un professeur qui lit les mêmes fenêtres",
            remedy=f"réduisez `context_length` à {positions}, ou changez `distill`",
        )
    model = teacher.build(teacher.content.config).to(device).eval().requires_grad_(True)
    return DistillationObjective(scorer_of(model, compute), config)


def evaluation_loss(objective: Objective | None, backend: Backend) -> EvaluationLoss:
    """La perte que mesurent les évaluations : d'une distillation, celle du token suivant."""
    if isinstance(objective, LabelObjective):
        return objective.measured(backend.score)
    return backend.loss


def references_of(
    objective: Objective | None,
    data: TrainingData,
    score: Scorer,
    *,
    window: int,
    batch_size: int,
    identity: Mapping[str, str],
    folder: Path | str | None,
    world: World,
    rehearsal: bool,
) -> References:
    """Les log p du modèle de départ, si la perte s'y compare ; voir `reference.read_or_measure`.

    Args:
        objective: la perte.
        data: ses paires.
        score: les logits du modèle, tel qu'au départ.
        window: longueur d'une rangée.
        batch_size: paires par lot.
        identity: le modèle de départ, et le calcul.
        folder: où les garder ; None : nulle part.
        world: les processus qui se partagent la passe.
        rehearsal: des nulles suffisent.
    """
    if not (isinstance(objective, PreferenceObjective) and objective.loss.needs_reference):
        return {}
    sources = _pairs(data)
    if rehearsal:
        return {name: blank(source) for name, source in sources.items()}
    return read_or_measure(
        sources,
        score,
        window=window,
        batch_size=batch_size,
        identity={
            **identity,
            **{name: each.sha256 for name, each in sources.items()},
            "data": data.sha256,
        },
        path=None if folder is None else Path(folder) / REFERENCE,
        world=world,
    )


def paired(
    objective: PreferenceObjective,
    references: References,
    batches: TokenBatches,
    evaluator: LossEvaluator,
    score: Scorer,
) -> tuple[PreferenceBatches, PreferenceEvaluator]:
    """Les lots et les mesures d'une perte de préférence, aux réglages de ceux d'un texte."""
    known = {each.name: getattr(batches, each.name) for each in fields(batches)}
    sets = [
        MeasuredPairs(source=source, starts=starts, reference=references.get(name))
        for name, (source, starts) in zip(("train", "val"), evaluator.sets, strict=True)
        if isinstance(source, PairTokens)
    ]
    return PreferenceBatches(**known, reference=references.get("train")), PreferenceEvaluator(
        model=evaluator.model,
        objective=objective,
        sets=sets,
        window=evaluator.window,
        batch_size=evaluator.batch_size,
        score=score,
        world=evaluator.world,
    )


def _pairs(data: TrainingData) -> dict[str, PairTokens]:
    return {
        name: source
        for name, source in (("train", data.train), ("val", data.val))
        if isinstance(source, PairTokens)
    }
