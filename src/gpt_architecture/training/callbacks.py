"""Ce que l'entraînement raconte, et ceux qui l'écoutent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt_architecture.training.state import TrainingState

if TYPE_CHECKING:
    from gpt_architecture.training.trainer import Trainer


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
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens: int
    seconds: float
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Les deux pertes (nats par token), mesurées après l'étape `step`."""

    step: int
    epoch: int
    train_loss: float
    val_loss: float
    is_best: bool


class Callback:
    """Écoute l'entraînement ; chaque méthode est facultative."""

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """L'entraînement commence, ou reprend, à `state.step`."""

    def on_resume(self, trainer: Trainer) -> None:
        """L'entraînement reprend, avant sa première étape."""

    def on_step(self, record: StepRecord) -> None:
        """Une étape est faite."""

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Les pertes viennent d'être mesurées."""

    def on_sample(self, step: int, epoch: int, text: str) -> None:
        """Un exemple vient d'être écrit."""

    def on_save(self, step: int, path: str) -> None:
        """Un point de reprise de `step` étapes est sur le disque."""

    def on_event(self, step: int, message: str) -> None:
        """Quelque chose mérite d'être dit."""

    def on_end(self, state: TrainingState) -> None:
        """L'entraînement rend la main."""


class EarlyStopping(Callback):
    """Arrête l'entraînement après `patience` évaluations sans meilleure validation."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_resume(self, trainer: Trainer) -> None:
        """Juge la dernière évaluation, que la reprise ne refait pas."""
        self._judge(trainer)

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Compte les évaluations depuis la meilleure."""
        self._judge(trainer)

    def _judge(self, trainer: Trainer) -> None:
        state = trainer.state
        is_over = state.step >= trainer.config.total_steps  # rien à écourter
        if state.evaluations_without_progress >= self._patience and not is_over:
            trainer.finish(
                f"Arrêt anticipé : {self._patience} évaluation(s) sans progrès de la validation, "
                f"la meilleure reste celle de l'étape {state.best_step:06d}."
            )


class OverfittingNotice(Callback):
    """Dit, une fois, que la validation remonte pendant que l'entraînement descend encore.

    Args:
        evaluations: évaluations de suite au-dessus de la meilleure avant de le dire.
        margin: écart avec la meilleure, en part de celle-ci, sous lequel ce n'est que du bruit.
    """

    def __init__(self, evaluations: int = 3, margin: float = 0.01) -> None:
        self._evaluations = evaluations
        self._margin = margin

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Compare les dernières pertes à celles de la meilleure évaluation."""
        state = trainer.state
        if state.overfit_said or state.best_loss is None:
            return
        recent = state.val_losses[-self._evaluations :]
        best_index = state.eval_steps.index(state.best_step)
        turned = (
            state.evaluations_without_progress >= self._evaluations
            and min(recent) > state.best_loss * (1 + self._margin)
            and state.train_losses[-1] < state.train_losses[best_index]
        )
        if turned:
            state.overfit_said = True
            trainer.announce(
                "Surapprentissage : la perte de validation remonte depuis l'étape "
                f"{state.best_step:06d} ({_french(state.best_loss)}, ici "
                f"{_french(record.val_loss)}) alors que celle d'entraînement descend encore ; "
                "le modèle apprend le texte par cœur."
            )


def _french(value: float) -> str:
    return f"{value:.3f}".replace(".", ",")
