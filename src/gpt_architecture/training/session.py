"""L'assemblage d'un entraînement : des réglages et des données à un `Trainer` prêt à partir."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    GPTConfig,
    LoRAConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from gpt_architecture.core.lora import add_lora_
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.labelled import labels_of
from gpt_architecture.data.mixtures import MixtureTokens, sampler_of
from gpt_architecture.data.sampler import WindowSampler
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizers.marked_text import keep_prompt
from gpt_architecture.errors import ConfigurationError, TrainingError
from gpt_architecture.training.backends import (
    build_backend,
    calculation_of,
    check_calculation,
    same_engine,
)
from gpt_architecture.training.callbacks import (
    Callback,
    EarlyStopping,
    OverfittingNotice,
    Store,
    TrainerConfig,
)
from gpt_architecture.training.checkpoint import Checkpoint, TrainingState, restore_
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.losses import LossEvaluator, evaluation_starts
from gpt_architecture.training.optim import make_schedule
from gpt_architecture.training.preferences import PreferenceObjective
from gpt_architecture.training.starting import StartingPoint, check_same_start
from gpt_architecture.training.step import TextSampler, TokenBatches
from gpt_architecture.training.tasks import (
    evaluation_loss,
    objective_identity,
    objective_of,
    paired,
    references_of,
)
from gpt_architecture.training.trainer import Trainer

if TYPE_CHECKING:
    from gpt_architecture.training.distributed.parallel import ModelSharing, ParallelModel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Tous les réglages d'un entraînement.

    Attributes:
        model: forme du modèle, vocabulaire compris.
        window: longueur de contexte apprise (T).
        device: où calculer.
        prompt: invite des exemples.
        training, optimizer, schedule, checkpoints, compute: voir `config`.
        options: options de la commande, pour que la reprise les retrouve.
        start: modèle dont partent les poids ; None : tirés au hasard.
        lora: adaptateurs, seuls à apprendre ; None : tous les poids apprennent.
        objective: ce qui s'apprend à la place du seul token suivant.
        teacher: le professeur d'une distillation.
    """

    model: GPTConfig
    window: int
    device: torch.device
    prompt: str
    training: TrainingConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    options: Mapping[str, Any] = field(default_factory=dict)
    start: StartingPoint | None = None
    lora: LoRAConfig | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    teacher: StartingPoint | None = None

    @property
    def sequences(self) -> int:
        """Séquences par étape, tous processus compris : le lot effectif."""
        return self.training.batch_size * self.training.accumulate

    @property
    def stride(self) -> int:
        """Décalage entre deux fenêtres, en tokens."""
        return self.window if self.training.stride is None else self.training.stride

    def sampler(self, source: TokenSource) -> WindowSampler:
        """Ce qui distribue les fenêtres d'entraînement."""
        return sampler_of(
            source,
            self.window,
            stride=self.stride,
            batch_size=self.sequences,
            seed=self.training.seed,
        )

    def total_steps(self, sampler: WindowSampler) -> int:
        """Étapes de l'entraînement entier."""
        steps = sampler.steps_in(self.training.epochs)
        limit = self.training.max_steps
        return steps if limit is None else min(steps, limit)

    def identity(self, data: TrainingData) -> dict[str, Any]:
        """Ce qui fait qu'un entraînement est le même qu'un autre, en types simples."""
        return {
            "training": self.training.to_dict(),
            "optimizer": asdict(self.optimizer),
            "schedule": asdict(self.schedule),
            "data": {
                "name": data.name,
                "sha256": data.sha256,
                **({} if data.split is None else {"split": data.split}),
                **_weights(data),
                **({} if data.removal is None else {"removed": data.removal.sha256}),
            },
            "tokenizer_sha256": data.tokenizer_sha256,
            "config": self.model.to_dict(),
            "window": self.window,
            "start": None if self.start is None else {"sha256": self.start.sha256},
            "lora": None if self.lora is None else self.lora.to_dict(),
            **objective_identity(self.objective, self.teacher),
        }


def build_trainer(
    settings: Settings,
    data: TrainingData,
    *,
    store: Store | None = None,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callback] = (),
    world: World | None = None,
    sharing: ModelSharing | None = None,
    should_stop: Callable[[], bool] | None = None,
    other_engine: bool = False,
    folder: Path | str | None = None,
    rehearsal: bool = False,
) -> Trainer:
    """Construit le modèle et tout ce qui l'entraîne ; reprend `checkpoint` s'il est donné.

    La reprise garde le moteur du point de reprise, où il convient encore.

    Args:
        world: les processus qui se partagent chaque étape.
        sharing: partage le modèle entre eux ; None : un seul processus.
        other_engine: accepte que les noyaux du point de reprise manquent ici.
        folder: où garder ce qu'un objectif calcule avant la première étape ; None : nulle part.
        rehearsal: ces étapes ne serviront qu'à mesurer leur durée.

    Raises:
        ConfigurationError: précision que le matériel ne calcule pas.
        CheckpointError: les noyaux du point de reprise manquent ici.
        TrainingError: le point de reprise ne correspond pas aux réglages.
    """
    world = World() if world is None else world
    training, device = settings.training, settings.device
    sampler = settings.sampler(data.train)
    total_steps = settings.total_steps(sampler)
    _check_adapters(settings, sharing)
    separator = _separator(settings, data)
    torch.manual_seed(training.seed)
    start = settings.start
    if start is None:
        model = GPTModel(settings.model)
    else:
        model = start.build(settings.model, seed=training.seed)
    if settings.lora is not None:
        add_lora_(model, settings.lora, seed=training.seed)
    model = model.to(device)
    compute = same_engine(settings.compute, checkpoint, device)
    objective = objective_of(
        settings.objective,
        settings.teacher,
        compute,
        device=device,
        window=settings.window,
        labelled=data.labelled,
    )
    backend = build_backend(
        model,
        compute,
        settings.optimizer,
        training,
        sharing=sharing,
        objective=objective,
    )
    calculation = calculation_of(backend, compute, device)
    if checkpoint is not None:
        check_calculation(checkpoint, calculation, accepted=other_engine)
    references = references_of(  # avant de rendre au modèle ce qu'il a appris
        objective,
        data,
        backend.score,
        window=settings.window,
        batch_size=training.batch_size,
        identity={**calculation, "start": "" if start is None else start.sha256},
        folder=None if folder is None else Path(folder),
        world=world,
        rehearsal=rehearsal,
    )
    state = None
    if checkpoint is not None:
        check_same_start(checkpoint, start, adapts=settings.lora is not None)
        state = _restore(checkpoint, model, backend.optimizer, backend.parallel)
    batches = batches_of(settings, data, world=world)
    evaluate: Any = LossEvaluator(
        model,
        measured_sets(settings, data),
        window=settings.window,
        batch_size=training.batch_size,
        loss=evaluation_loss(objective, backend),
        separator=separator,
        world=world,
    )
    if isinstance(objective, PreferenceObjective):
        batches, evaluate = paired(objective, references, batches, evaluate, backend.score)
    notices: list[Callback] = [OverfittingNotice()]
    if training.patience is not None:
        notices.append(EarlyStopping(training.patience))
    saving = settings.checkpoints
    return Trainer(
        model,
        backend.engine,
        backend.optimizer,
        batches,
        config=TrainerConfig(
            total_steps=total_steps,
            clip=settings.optimizer.clip,
            max_bad_steps=settings.optimizer.max_bad_steps,
            eval_freq=training.eval_freq,
            save_every=saving.save_every,
            save_seconds=60 * saving.save_minutes,
            save_best=saving.save_best,
            save_last=saving.save_every is not None or training.max_steps is not None,
            extra={
                **_description(settings, data),
                "total_steps": total_steps,
                "calculation": calculation,
            },
        ),
        schedule=make_schedule(settings.schedule, total_steps),
        callbacks=[*callbacks, *notices],
        evaluate=evaluate,
        sample=None
        if data.labelled is not None
        else TextSampler(
            model,
            data.tokenizer,
            device,
            settings.prompt,
            window=settings.window,
            eos_id=None if data.chat_template is None else data.tokenizer.eos_id,
        ),
        store=store,
        world=world,
        should_stop=should_stop,
        state=state,
        measures=None if objective is None else objective.take,
    )


def measured_sets(
    settings: Settings, data: TrainingData
) -> list[tuple[TokenSource, NDArray[np.int64]]]:
    """Ce que les évaluations lisent de l'entraînement et de la validation : les fenêtres, (N,).

    Raises:
        DataError: rien n'y est à mesurer.
    """
    count = settings.training.eval_iter * settings.training.batch_size
    return [
        (
            source,
            evaluation_starts(
                source, settings.window, stride=settings.stride, count=count, shuffle=shuffle
            ),
        )
        for source, shuffle in ((data.train, True), (data.val, False))
    ]


def batches_of(
    settings: Settings, data: TrainingData, *, world: World | None = None
) -> TokenBatches:
    """Les lots d'un entraînement, étape par étape : de ces réglages et de ces données seuls."""
    return TokenBatches(
        data.train,
        settings.sampler(data.train),
        micro_batch=settings.training.batch_size,
        separator=_separator(settings, data),
        world=World() if world is None else world,
    )


def _separator(settings: Settings, data: TrainingData) -> int | None:
    """Le token qui commence chaque document, si l'attention doit s'y tenir."""
    if not settings.training.document_mask:
        return None
    if data.tokenizer.eos_id is None:
        raise ConfigurationError(
            f"`document_mask` avec le tokenizer {data.tokenizer.name}, qui n'a pas de fin de texte",
            expected="un tokenizer qui en a une : elle commence chaque document",
            remedy="changez `tokenizer`, ou retirez `document_mask`",
        )
    return data.tokenizer.eos_id


def _weights(data: TrainingData) -> dict[str, Any]:
    """Les poids d'un mélange, par source ; rien pour un texte seul."""
    if not isinstance(data.train, MixtureTokens):
        return {}
    return {"mixture": {each.name: each.measure for each in data.train.sources}}


def _check_adapters(settings: Settings, sharing: ModelSharing | None) -> None:
    """Refuse ce que des poids gelés ne permettent pas."""
    if settings.lora is None:
        return
    problems = {
        "sans modèle de départ": settings.start is None,
        "avec `optimizer=muon`": settings.optimizer.optimizer == "muon",
        "avec `parallel=fsdp`": sharing is not None and not sharing.replicates,
    }
    for problem, found in problems.items():
        if found:
            raise ConfigurationError(
                f"`lora_rank` {problem}",
                expected="un modèle de départ, AdamW et des poids entiers dans chaque processus",
                remedy="changez l'un ou l'autre",
            )


def _restore(
    checkpoint: Checkpoint,
    model: GPTModel,
    optimizer: torch.optim.Optimizer,
    parallel: ParallelModel | None,
) -> TrainingState:
    tensors = {name: checkpoint.tensors(name) for name in checkpoint.names}
    if parallel is not None:
        tensors = {name: parallel.place(group) for name, group in tensors.items()}
    restore_(model, optimizer, tensors)
    stored = checkpoint.state.get("trainer")
    if not isinstance(stored, Mapping):
        raise TrainingError(
            f"{checkpoint.path} ne dit pas où en est l'entraînement",
            expected="un point de reprise écrit par « gpt-architecture train »",
            remedy="reprenez un autre point, ou recommencez avec `force`",
        )
    return TrainingState.from_dict(stored)


def _description(settings: Settings, data: TrainingData) -> dict[str, Any]:
    """Ce que chaque point de reprise porte : de quoi reprendre, et de quoi générer."""
    template = {} if data.chat_template is None else {CHAT_TEMPLATE: data.chat_template}
    return {
        **template,
        "options": dict(settings.options),
        "identity": settings.identity(data),
        "config": settings.model.to_dict(),
        "tokenizer": data.tokenizer.to_dict(),
        "window": settings.window,
        **(keep_prompt(settings.prompt, data.tokenizer) if data.labelled is None else {}),
        **labels_of(data.labelled, settings.training),
    }
