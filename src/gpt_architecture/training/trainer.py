"""La boucle d'entraînement : étapes, points de reprise, évaluations, exemples, arrêts.

Elle reçoit tout ce qui varie : moteur, optimiseur, lots, programme, évaluateur, et ceux qui
l'écoutent. Les méthodes sont appelées par tous les processus ; un seul écrit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from gpt_architecture.errors import (
    CheckpointError,
    GPTArchitectureError,
    OutputError,
    TrainingError,
    is_out_of_memory,
)
from gpt_architecture.training.callbacks import (
    Callback,
    Evaluate,
    EvaluationRecord,
    Sample,
    StepRecord,
    StopCheck,
    Store,
    TrainerConfig,
    skip_notice,
)
from gpt_architecture.training.checkpoint import TrainingState, capture
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.losses import Losses
from gpt_architecture.training.optim import Schedule, set_lr_
from gpt_architecture.training.step import Batch, TokenBatches, TrainingEngine


class Trainer:
    """Entraîne `model` ; s'interrompt et reprend sans rien perdre.

    Args:
        model: les poids ; déjà sur le périphérique.
        engine: calcule pertes et gradients.
        optimizer: sur les paramètres de `model` ; chaque groupe porte `initial_lr`.
        batches: les lots de chaque étape.
        config: le rythme.
        schedule: part du taux le plus haut, à chaque étape.
        callbacks: qui écoute, dans l'ordre.
        evaluate: mesure les deux pertes ; None : pas d'évaluation.
        sample: écrit un exemple à la fin de chaque époque ; None : aucun.
        store: où vont les points de reprise ; None : nulle part.
        world: les processus qui se partagent chaque étape.
        should_stop: interrogé souvent ; vrai : enregistre et rend la main.
        state: où reprendre ; None : au début.
        measures: ce que l'objectif a mesuré de l'étape, par nom ; None : rien de plus que la perte.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: TrainingEngine,
        optimizer: torch.optim.Optimizer,
        batches: TokenBatches,
        *,
        config: TrainerConfig,
        schedule: Schedule,
        callbacks: Sequence[Callback] = (),
        evaluate: Evaluate | None = None,
        sample: Sample | None = None,
        store: Store | None = None,
        world: World | None = None,
        should_stop: StopCheck | None = None,
        state: TrainingState | None = None,
        measures: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._measures = measures
        self.model = model
        self.engine = engine
        self.optimizer = optimizer
        self.config = config
        self.state = TrainingState() if state is None else state
        self.batches = batches
        self._schedule = schedule
        self._callbacks = list(callbacks)
        self.evaluate = evaluate
        self.sample = sample
        self._store = store
        self._world = World() if world is None else world
        self._should_stop: StopCheck = (lambda: False) if should_stop is None else should_stop
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._saved_step = self.state.step if self.state.step else -1
        self._clock = self._saved_at = time.perf_counter()
        self._finished = False
        self._interrupted = False

    def listen(self, callback: Callback) -> None:
        """Ajoute quelqu'un qui écoute, après les autres."""
        self._callbacks.append(callback)

    def run(self) -> TrainingState:
        """Entraîne jusqu'au bout, ou jusqu'à l'arrêt demandé ; rend l'état atteint.

        Raises:
            TrainingError: trop d'étapes non finies de suite, ou mémoire insuffisante.
            OutputError: le dernier point de reprise ne peut pas être écrit ; le précédent
                demeure. Les autres refus du disque sont dits, sans arrêter l'entraînement.
        """
        state = self.state
        self.optimizer.zero_grad(set_to_none=True)
        self._clock = self._saved_at = time.perf_counter()
        self._tell(lambda each: each.on_start(state, self.config.total_steps))
        try:
            if state.step > 0:
                self._tell(lambda each: each.on_resume(self))
                self._after_step(state.step - 1)  # ce que l'arrêt avait interrompu
            while not self._done and not self.stopping():
                self._step()
            if not self.complete:
                self._save_last()
            elif self._saves_last:
                self._save_if_possible(last=True)
        finally:
            self._tick()
            self._tell(lambda each: each.on_end(state))
        return state

    @property
    def complete(self) -> bool:
        """Vrai si l'entraînement est allé à son terme, dernière évaluation comprise."""
        return self._done and not self._interrupted

    @property
    def _done(self) -> bool:
        """Vrai si plus aucune étape n'est à faire."""
        return self._finished or self.state.step >= self.config.total_steps

    @property
    def _saves_last(self) -> bool:
        """Vrai si la fin a son point de reprise : c'est demandé, ou d'autres l'ont précédé."""
        return self.config.save_last or self._saved_step >= 0

    def stopping(self) -> bool:
        """Vrai si un processus au moins doit s'arrêter ; appel collectif."""
        return self._world.any(self._should_stop())

    def finish(self, message: str) -> None:
        """Termine l'entraînement après l'étape en cours, en disant pourquoi."""
        self._finished = True
        self.announce(message)

    def announce(self, message: str) -> None:
        """Dit `message` à ceux qui écoutent."""
        self._tell(lambda each: each.on_event(self.state.step, message))

    def save(self) -> None:
        """Écrit un point de reprise, sauf si cette étape en a déjà un."""
        step = self.state.step
        if self._store is None or step == self._saved_step:
            return
        self._tick()
        record = {**self.config.extra, "trainer": self.state.to_dict()}
        self._tell(lambda each: each.before_save(step))
        path = self._store.save(step, capture(self.model, self.optimizer), record)
        self._tell(lambda each: each.on_save(step, str(path)))
        self._saved_step = step
        self._saved_at = time.perf_counter()

    def advance(self) -> StepRecord:
        """Fait une étape ; les poids ne bougent que si la perte et le gradient sont finis.

        Un moteur qui met à jour les poids lui-même en juge paramètre par paramètre.

        Raises:
            TrainingError: voir `run`.
        """
        index = self.state.step
        start = time.perf_counter()
        lr = set_lr_(self.optimizer, self._schedule(index))
        self.model.train()
        batches = self.batches(index)
        try:
            loss_value = float(self._world.mean(self._forward_backward(batches)))
            norm = self._gradient_norm()
            skipped = not (math.isfinite(loss_value) and (norm is None or math.isfinite(norm)))
            if not skipped:
                self._update(norm)  # la première fois, alloue les moments
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                "mémoire insuffisante pour une étape",
                expected="de quoi tenir les poids, leurs moments et les activations d'un lot",
                remedy="réduisez `batch_size` (`accumulate` garde le lot effectif), "
                "`context_length` ou la taille du modèle, ou ajoutez `checkpoint_activations` ou "
                "`memory=lean`",
            ) from error
        self.optimizer.zero_grad(set_to_none=True)  # rend la mémoire avant l'évaluation

        state = self.state
        rows = self.batches.sequences_in(index) * self.batches.rows_per_sequence
        tokens = rows * batches[0].inputs.size(1)
        state.step += 1
        state.tokens += tokens
        state.sequences += self.batches.sequences_in(index)
        record = StepRecord(
            step=index,
            epoch=self.batches.epoch_of(index),
            loss=loss_value,
            lr=lr,
            grad_norm=norm,
            tokens=tokens,
            seconds=time.perf_counter() - start,
            skipped=skipped,
            measures=self._step_measures(),
        )
        self._count_bad_steps(record)
        return record

    def _step_measures(self) -> dict[str, float]:
        """Ce que l'objectif a mesuré de l'étape, moyenne de tous les processus."""
        found = {} if self._measures is None else self._measures()
        return {name: float(self._world.mean(value)) for name, value in found.items()}

    def _step(self) -> None:
        record = self.advance()
        self._tell(lambda each: each.on_step(record))
        self._after_step(record.step)

    def _forward_backward(self, batches: Sequence[Batch]) -> Tensor:
        """Perte moyenne de l'étape sur ce processus ; les gradients sont dans `.grad`."""
        total: Tensor | None = None
        for batch in batches:
            loss = self.engine.forward_backward(batch, scale=batch.share) * batch.share
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("une étape sans lot")
        return total

    def _gradient_norm(self) -> float | None:
        """Norme du gradient entier ; None si le moteur n'en garde pas."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            return None
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(self._world.whole(norm))

    def _update(self, norm: float | None) -> None:
        if self.config.clip is not None and norm is not None and norm > self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(
                self._parameters, self.config.clip, torch.tensor(norm)
            )
        self.optimizer.step()

    def _count_bad_steps(self, record: StepRecord) -> None:
        state = self.state
        if not record.skipped:
            state.bad_in_a_row = 0
            return
        state.skipped += 1
        state.bad_in_a_row += 1
        self.announce(skip_notice(record, self.engine.held_back, len(self._parameters)))
        if state.bad_in_a_row >= self.config.max_bad_steps:
            raise TrainingError(
                f"la perte ou le gradient n'est pas fini depuis {state.bad_in_a_row} étapes "
                f"(jusqu'à l'étape {record.step})",
                expected="des nombres finis",
                remedy="réduisez le taux d'apprentissage (`lr`) ou le gradient (`clip`), puis "
                "reprenez au dernier point de reprise s'il y en a un",
            )

    def _after_step(self, index: int) -> None:
        """Point de reprise, puis évaluation, puis exemple : ce qui peut échouer vient après."""
        state = self.state
        if self._must_save():
            self._save_if_possible()
        is_due = index % self.config.eval_freq == 0 or self._done  # la perte finale, mesurée
        if self.evaluate is not None and is_due and index not in state.eval_steps[-1:]:
            losses = self.evaluate(self.stopping)
            if losses is None:
                self._interrupted = True
                return
            found = losses if isinstance(losses, Losses) else Losses(*losses)
            self._note_evaluation(index, found)
        is_due = self.batches.ends_epoch(index) or self._done
        if self.sample is not None and is_due and state.sampled < index:
            text = self.sample(self.stopping)
            if text is None:
                self._interrupted = True
                return
            state.sampled = index
            epoch = self.batches.epoch_of(index)
            self._tell(lambda each: each.on_sample(index, epoch, text))

    def _must_save(self) -> bool:
        if self.state.bad_in_a_row:  # n'évince pas les bons points avec des poids douteux
            return False
        every = self.config.save_every
        if every is not None and self.state.step % every == 0:
            return True
        if self._done and self._saves_last:
            return True
        return self._world.any(time.perf_counter() - self._saved_at >= self.config.save_seconds)

    def _save_last(self) -> None:
        """Écrit le point de reprise de la fin, et attend qu'il soit publié.

        Celui qui s'écrivait encore est d'abord achevé : refusé, il est à refaire.
        """
        if self._store is None:
            return
        try:
            self._store.flush()
        except OutputError as error:
            self._note_refusal("Point de reprise non écrit", error)
        self.save()
        self._store.flush()

    def _save_if_possible(self, *, last: bool = False) -> None:
        """Écrit un point de reprise ; un disque qui refuse est dit, l'entraînement continue."""
        try:
            self._save_last() if last else self.save()
        except OutputError as error:
            self._saved_at = time.perf_counter()
            self._note_refusal("Point de reprise non écrit", error)

    def _note_refusal(self, what: str, error: GPTArchitectureError) -> None:
        """Dit un refus du disque ; l'étape n'est plus tenue pour enregistrée."""
        self._saved_step = min(self._saved_step, 0)  # les points d'avant, eux, l'ont été
        self.announce(f"{what} : {error}")

    def _note_evaluation(self, index: int, losses: Losses) -> None:
        state, (train_loss, val_loss, by_source, measures) = self.state, losses
        is_best = val_loss < (math.inf if state.best_loss is None else state.best_loss)
        state.eval_steps.append(index)
        state.train_losses.append(train_loss)
        state.val_losses.append(val_loss)
        state.tokens_seen.append(state.tokens)
        if is_best:
            state.best_loss, state.best_step = val_loss, index
            if self.config.save_best:
                self._save_if_possible()
            if self._store is not None and self._saved_step == state.step:
                try:
                    self._store.mark_best(state.step)
                except (OutputError, CheckpointError) as error:
                    self._note_refusal("Meilleur point de reprise non désigné", error)
        record = EvaluationRecord(
            step=index,
            epoch=self.batches.epoch_of(index),
            train_loss=train_loss,
            val_loss=val_loss,
            is_best=is_best,
            sources={
                name: asdict(use) | ({"val_loss": by_source[name]} if name in by_source else {})
                for name, use in self.batches.mixture_after(state.sequences).items()
            },
            measures=measures,
        )
        self._tell(lambda each: each.on_evaluation(record, self))

    def _tick(self) -> None:
        """Ajoute à l'état le temps passé depuis la dernière fois."""
        now = time.perf_counter()
        self.state.seconds += now - self._clock
        self._clock = now

    def _tell(self, event: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            event(callback)
