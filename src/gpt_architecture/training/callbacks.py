"""Ce que la boucle reçoit de qui l'assemble, ce qu'elle raconte, et ceux qui l'écoutent.

Parmi eux : l'arrêt anticipé et l'annonce du surapprentissage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gpt_architecture.french import counted, decimal
from gpt_architecture.training.checkpoint import TrainingState
from gpt_architecture.training.losses import Losses

_NAMED = 3  # paramètres nommés, au plus, quand une étape en laisse tels quels

StopCheck = Callable[[], bool]

Evaluate = Callable[[StopCheck], Losses | tuple[float, float] | None]
"""Rend les pertes d'entraînement et de validation ; None si l'arrêt demandé l'a interrompu."""
Sample = Callable[[StopCheck], str | None]
"""Rend un exemple de texte ; None si l'arrêt demandé l'a interrompu."""


class Store(Protocol):
    """Où vont les points de reprise (voir `training.checkpoint.CheckpointStore`).

    Tous les processus l'appellent ensemble ; à plusieurs, `DistributedStore` s'en charge.
    """

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Écrit le point de reprise de `step` étapes ; rend son dossier."""
        ...

    def mark_best(self, step: int) -> None:
        """Retient que ce point est le meilleur."""
        ...

    def flush(self) -> None:
        """Attend que ce qui s'écrit en arrière-plan soit publié ; lève ce qui l'a empêché."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Le rythme de la boucle.

    Attributes:
        total_steps: étapes de l'entraînement entier.
        clip: norme au-delà de laquelle le gradient est réduit ; None : jamais.
        max_bad_steps: étapes non finies de suite avant d'abandonner.
        eval_freq: étapes entre deux évaluations ; la première suit l'étape 0, et une dernière
            la dernière étape.
        save_every: étapes entre deux points de reprise ; None : le temps seul en décide.
        save_seconds: secondes entre deux points de reprise, au plus.
        save_best: écrit un point de reprise à chaque meilleure validation.
        save_last: écrit un point de reprise à la fin, même si aucun ne l'a été avant.
        extra: ce que chaque `state.json` porte en plus (options, identité, tokenizer…).
    """

    total_steps: int
    clip: float | None = None
    max_bad_steps: int = 5
    eval_freq: int = 5
    save_every: int | None = None
    save_seconds: float = math.inf
    save_best: bool = False
    save_last: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Une étape.

    Attributes:
        step: son numéro, depuis 0.
        epoch: son époque, depuis 1.
        loss: perte moyenne du lot, avec dropout (nats par token).
        lr: taux d'apprentissage le plus haut des groupes.
        grad_norm: norme du gradient avant réduction ; None : gradient non gardé.
        tokens: tokens lus par l'étape, tous processus compris.
        seconds: durée de l'étape seule.
        skipped: vrai si la perte ou le gradient n'était pas fini : les poids n'ont pas bougé, hors
            ceux que le mode économe met à jour chacun de son côté.
        measures: ce que l'objectif mesure de plus, par nom.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens: int
    seconds: float
    skipped: bool
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Les deux pertes (nats par token), mesurées après l'étape `step`.

    D'un mélange, `sources` dit par nom ce qui a été lu de chaque source (`share`, `tokens`,
    `epochs`), et sa perte de validation (`val_loss`). `measures` : ce que l'objectif mesure de plus
    sur la validation.
    """

    step: int
    epoch: int
    train_loss: float
    val_loss: float
    is_best: bool
    sources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)


class OngoingTraining(Protocol):
    """L'entraînement en cours, tel que le voient ceux qui l'écoutent."""

    @property
    def state(self) -> TrainingState:
        """Où il en est."""
        ...

    @property
    def config(self) -> TrainerConfig:
        """Son rythme."""
        ...

    def announce(self, message: str) -> None:
        """Dit `message` à tous ceux qui écoutent."""
        ...

    def finish(self, message: str) -> None:
        """Termine après l'étape en cours, en disant pourquoi."""
        ...


class Callback:
    """Écoute l'entraînement ; chaque méthode est facultative."""

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """L'entraînement commence, ou reprend, à `state.step`."""

    def on_resume(self, trainer: OngoingTraining) -> None:
        """L'entraînement reprend, avant sa première étape."""

    def on_step(self, record: StepRecord) -> None:
        """Une étape est faite."""

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Les pertes viennent d'être mesurées."""

    def on_sample(self, step: int, epoch: int, text: str) -> None:
        """Un exemple vient d'être écrit."""

    def before_save(self, step: int) -> None:
        """Un point de reprise de `step` étapes va être écrit."""

    def on_save(self, step: int, path: str) -> None:
        """Un point de reprise de `step` étapes est sur le disque."""

    def on_event(self, step: int, message: str) -> None:
        """Quelque chose mérite d'être dit."""

    def on_end(self, state: TrainingState) -> None:
        """L'entraînement rend la main."""


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Arrête l'entraînement après `patience` évaluations sans meilleure validation."""

    patience: int

    def on_resume(self, trainer: OngoingTraining) -> None:
        """Juge la dernière évaluation, que la reprise ne refait pas."""
        self._judge(trainer)

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Compte les évaluations depuis la meilleure."""
        self._judge(trainer)

    def _judge(self, trainer: OngoingTraining) -> None:
        state = trainer.state
        is_over = state.step >= trainer.config.total_steps  # rien à écourter
        if state.evaluations_without_progress >= self.patience and not is_over:
            trainer.finish(
                f"Arrêt anticipé : {counted(self.patience, 'évaluation')} sans progrès de la "
                f"validation, la meilleure reste celle de l'étape {state.best_step:06d}."
            )


@dataclass(frozen=True)
class OverfittingNotice(Callback):
    """Dit, une fois, que la validation remonte pendant que l'entraînement descend encore.

    Attributes:
        evaluations: évaluations de suite au-dessus de la meilleure avant de le dire.
        margin: écart avec la meilleure, en part de celle-ci, sous lequel ce n'est que du bruit.
    """

    evaluations: int = 3
    margin: float = 0.01

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Compare les dernières pertes à celles de la meilleure évaluation."""
        state = trainer.state
        if state.overfit_said or state.best_loss is None:
            return
        recent = state.val_losses[-self.evaluations :]
        best_index = state.eval_steps.index(state.best_step)
        turned = (
            state.evaluations_without_progress >= self.evaluations
            and min(recent) > state.best_loss * (1 + self.margin)
            and state.train_losses[-1] < state.train_losses[best_index]
        )
        if turned:
            state.overfit_said = True
            trainer.announce(
                "Surapprentissage : la perte de validation remonte depuis l'étape "
                f"{state.best_step:06d} ({decimal(state.best_loss, 3)}, ici "
                f"{decimal(record.val_loss, 3)}) alors que celle d'entraînement descend encore ; "
                "le modèle apprend le texte par cœur."
            )


def skip_notice(record: StepRecord, held_back: Sequence[str], parameters: int) -> str:
    """Ce qu'une étape non finie a laissé tel quel : tous les poids, ou quelques paramètres.

    Args:
        record: l'étape.
        held_back: paramètres laissés tels quels par un moteur qui met à jour chacun à mesure.
        parameters: nombre de paramètres du modèle.
    """
    step = f"Étape {record.step:06d}"
    if 0 < len(held_back) < parameters:
        named = ", ".join(held_back[:_NAMED])
        more = ", …" if len(held_back) > _NAMED else ""
        return (
            f"{step} incomplète : le gradient de {counted(len(held_back), 'paramètre')} sur "
            f"{parameters} n'est pas fini ; rien n'y change ({named}{more})."
        )
    if held_back:
        culprit = "la perte ou le gradient"
    else:
        culprit = "le gradient" if math.isfinite(record.loss) else "la perte"
    return f"{step} sautée : {culprit} n'est pas un nombre fini."
