"""Apprendre des préférences : DPO, ORPO et SimPO, trois pertes de la même boucle.

Une perte compare, dans chaque paire, la réponse préférée à l'autre. Sa récompense est ce que le
modèle en pense : l'écart de sa log-probabilité à celle de la référence (DPO), sa moyenne par token
(ORPO, SimPO), fois `beta`.

Sources : Rafailov et al., 2023 (DPO) ; Hong et al., 2024 (ORPO) ; Meng et al., 2024 (SimPO) ;
Mitchell, 2023 (étiquettes lissées) ; Schulman, 2020 (l'estimation de la divergence).

Formes : P paires, R = 2·P rangées (préférée, écartée, préférée…), T tokens, n tokens demandés, V
vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.config import ObjectiveConfig, PreferenceLossName
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.preferences import PairTokens
from gpt_architecture.data.sampler import IGNORED, make_batch
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.losses import Losses
from gpt_architecture.training.objectives import Measures, Scorer, learned_positions, log_probs_of
from gpt_architecture.training.reference import ReferenceScores
from gpt_architecture.training.step import Batch, TokenBatches

_LARGEST = -1e-6
"""La plus grande log-probabilité moyenne qu'ORPO distingue de zéro, où la cote est infinie."""


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Ce que le modèle donne à chaque paire, (P,).

    Attributes:
        chosen, rejected: log p de la réponse préférée et de l'autre, en nats.
        chosen_tokens, rejected_tokens: leurs tokens.
        reference_chosen, reference_rejected: les mêmes log p, de la référence ; nulles sans elle.
        sequence: log p de toute la conversation à la réponse préférée, question comprise.
        mean_length: tokens de cette conversation, en moyenne sur l'étape entière.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    sequence: Tensor
    mean_length: float


class PairLosses(NamedTuple):
    """La perte de chaque paire et les récompenses de ses deux réponses, (P,)."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """Une perte de préférence.

    Attributes:
        compute: de ce que le modèle donne aux paires, leurs pertes.
        needs_reference: compare au modèle de départ.
        reads_question: apprend aussi le texte de la conversation préférée, question comprise.
    """

    compute: Callable[[PairScores, ObjectiveConfig], PairLosses]
    needs_reference: bool = False
    reads_question: bool = False


def dpo_loss(scores: PairScores, config: ObjectiveConfig) -> PairLosses:
    """DPO : −log σ de l'écart des récompenses, log p du modèle moins log p de la référence."""
    chosen = config.strength * (scores.chosen - scores.reference_chosen)
    rejected = config.strength * (scores.rejected - scores.reference_rejected)
    return PairLosses(_logistic(chosen - rejected, config.label_smoothing), chosen, rejected)


def simpo_loss(scores: PairScores, config: ObjectiveConfig) -> PairLosses:
    """SimPO : la récompense est la log p moyenne d'un token, et une marge est exigée."""
    chosen = config.strength * scores.chosen / scores.chosen_tokens
    rejected = config.strength * scores.rejected / scores.rejected_tokens
    margin = chosen - rejected - config.margin
    return PairLosses(_logistic(margin, config.label_smoothing), chosen, rejected)


def orpo_loss(scores: PairScores, config: ObjectiveConfig) -> PairLosses:
    """ORPO : la perte du texte préféré, moins beta fois log σ du rapport des cotes.

    La perte du texte est prise sur tous les tokens de l'étape : chaque paire en porte sa part.
    """
    chosen = (scores.chosen / scores.chosen_tokens).clamp(max=_LARGEST)
    rejected = (scores.rejected / scores.rejected_tokens).clamp(max=_LARGEST)
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    loss = -scores.sequence / scores.mean_length - config.strength * F.logsigmoid(odds)
    return PairLosses(loss, config.strength * chosen, config.strength * rejected)


LOSSES: Mapping[PreferenceLossName, PreferenceLoss] = {
    "dpo": PreferenceLoss(compute=dpo_loss, needs_reference=True),
    "orpo": PreferenceLoss(compute=orpo_loss, reads_question=True),
    "simpo": PreferenceLoss(compute=simpo_loss),
}
"""Les pertes de préférence, par nom."""


def _logistic(margin: Tensor, smoothing: float) -> Tensor:
    """−log σ d'une marge ; `smoothing` : part des paires supposées inversées."""
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp x), x < 0, sans perdre de chiffres près de 0 ni loin (Mächler, 2012)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


@dataclass(frozen=True, kw_only=True)
class PreferenceBatch(Batch):
    """Un lot de paires : `inputs` et `targets` sont (R, T).

    Attributes:
        reference: (n,) log p de la référence pour chaque token des réponses ; None : sans elle.
        mean_length: voir `PairScores`.
    """

    reference: Tensor | None
    mean_length: float


@dataclass(frozen=True)
class PreferenceBatches(TokenBatches):
    """Les lots de paires d'un entraînement ; voir `TokenBatches`.

    Attributes:
        reference: les log p de la référence ; None : sans elle.
    """

    source: PairTokens
    reference: ReferenceScores | None = None
    rows_per_sequence = 2

    def __call__(self, step: int) -> list[Batch]:
        """Les lots de l'étape, pour ce processus."""
        starts, _ = self.sampler.batch(step, rank=self.world.rank, world_size=self.world.size)
        whole = self.source.numbers(self.sampler.batch(step)[0])
        numbers, found = self.source.numbers(starts), list[Batch]()
        for index, batch in enumerate(super().__call__(step)):
            first = index * self.micro_batch
            own = numbers[first : first + self.micro_batch]
            rows = torch.arange(2)
            found.append(
                PreferenceBatch(
                    inputs=batch.inputs,
                    targets=batch.targets,
                    sequence_ids=(2 * batch.sequence_ids[:, None] + rows).reshape(-1),
                    share=batch.share,
                    is_last=batch.is_last,
                    reference=None if self.reference is None else self.reference.of(own),
                    mean_length=float(self.source.lengths[whole, 0].mean()),
                )
            )
        return found


class PreferenceObjective:
    """La perte de préférence d'un lot de paires ; voir `objectives.Objective`.

    Args:
        config: quelle perte, et ses réglages.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config
        self.loss = LOSSES[config.preference_loss]
        self._measures = Measures()

    def positions(self, batch: PreferenceBatch) -> Tensor:
        """Les tokens des réponses, et ceux de la question si la perte les apprend."""
        return learned_positions(self._wanted(batch))

    def __call__(self, logits: Tensor, batch: PreferenceBatch) -> Tensor:
        """Logits (n, V) → perte moyenne d'une paire."""
        scores, divergence = self.scores(logits, batch)
        found = self.loss.compute(scores, self.config)
        self._measures.add(batch.share, _averages(found, divergence))
        return found.loss.mean()

    def take(self) -> dict[str, Tensor]:
        """Voir `Objective.take` : récompenses, marge, exactitude, et divergence s'il y a lieu."""
        return self._measures.take()

    def scores(self, logits: Tensor, batch: PreferenceBatch) -> tuple[PairScores, Tensor | None]:
        """Ce que le modèle donne à chaque paire, et sa divergence de la référence."""
        wanted, places = self._wanted(batch).flatten(), self.positions(batch)
        rows = (places // batch.inputs.size(1)).to(logits.device)
        log_probs = log_probs_of(logits, wanted[places])  # (n,)
        answers = (batch.targets.flatten()[places] != IGNORED).to(logits.device)
        count = batch.inputs.size(0)

        def by_row(values: Tensor, owners: Tensor) -> Tensor:
            return values.new_zeros(count).index_add(0, owners, values)

        answer = by_row(log_probs * answers, rows)
        tokens = by_row(answers.to(answer.dtype), rows)
        reference, divergence = torch.zeros_like(answer), None
        if batch.reference is not None:
            kept = batch.reference.to(answer)
            reference = by_row(kept, rows[answers])
            # k2 : k3 explose pour un token que la référence jugeait presque impossible
            divergence = (log_probs[answers] - kept).detach().square() / 2
        return PairScores(
            chosen=answer[::2],
            rejected=answer[1::2],
            chosen_tokens=tokens[::2],
            rejected_tokens=tokens[1::2],
            reference_chosen=reference[::2],
            reference_rejected=reference[1::2],
            sequence=by_row(log_probs, rows)[::2],
            mean_length=batch.mean_length,
        ), divergence

    def _wanted(self, batch: PreferenceBatch) -> Tensor:
        """Les cibles (R, T) dont la perte veut la log p, `IGNORED` ailleurs."""
        if not self.loss.reads_question:
            return batch.targets
        inputs, targets = batch.inputs, batch.targets
        places = torch.arange(inputs.size(1))
        last = torch.where(targets != IGNORED, places, -1).amax(dim=1, keepdim=True)
        chosen = torch.arange(inputs.size(0))[:, None] % 2 == 0
        following = torch.cat([inputs[:, 1:], inputs[:, :1]], dim=1)
        unread = (targets == IGNORED) & (places < last) & chosen
        return torch.where(unread, following, targets)


def _averages(found: PairLosses, divergence: Tensor | None) -> dict[str, Tensor]:
    """Les mesures d'un lot, moyennes de ses paires."""
    margin = found.chosen - found.rejected
    values = {
        "reward_chosen": found.chosen.mean(),
        "reward_rejected": found.rejected.mean(),
        "reward_margin": margin.mean(),
        "reward_accuracy": (margin > 0).double().mean() + (margin == 0).double().mean() / 2,
    }
    return values if divergence is None else {**values, "kl": divergence.mean()}


@dataclass(frozen=True, kw_only=True)
class MeasuredPairs:
    """Des paires à mesurer : toujours les mêmes.

    Attributes:
        source: d'où elles viennent.
        starts: leurs premiers tokens, (P,).
        reference: les log p de la référence ; None : sans elle.
    """

    source: PairTokens
    starts: NDArray[np.int64]
    reference: ReferenceScores | None


@dataclass(frozen=True)
class PreferenceEvaluator:
    """Mesure la perte et les récompenses sur des paires fixes de chaque jeu.

    Attributes:
        model: mis en évaluation le temps de la mesure.
        objective: la perte.
        sets: l'entraînement, puis la validation.
        window: longueur d'une rangée (T).
        batch_size: paires par lot.
        score: les logits du modèle.
        world: les processus qui se partagent les lots ; les mesures sont celles d'un seul.
    """

    model: nn.Module
    objective: PreferenceObjective
    sets: Sequence[MeasuredPairs]
    window: int
    batch_size: int
    score: Scorer
    world: World

    def __call__(self, should_stop: Callable[[], bool]) -> Losses | None:
        """Les deux pertes et les mesures de la validation, ou None si l'arrêt l'a interrompu."""
        losses, measures = [], dict[str, float]()
        with evaluation_mode(self.model), torch.no_grad():
            for each in self.sets:
                found = self._measured(each, should_stop)
                if found is None:
                    return None
                pairs, divergence = found
                losses.append(float(pairs.loss.mean()))
                averages = _averages(pairs, divergence)
                measures = {name: float(value) for name, value in averages.items()}
        return Losses(losses[0], losses[1], measures=measures)

    def _measured(
        self, pairs: MeasuredPairs, should_stop: Callable[[], bool]
    ) -> tuple[PairLosses, Tensor | None] | None:
        """Les pertes de toutes les paires, et leur divergence moyenne.

        À chaque tour, chaque processus lit un lot ; celui qui n'en a plus en relit un, qui ne
        compte pas : FSDP demande autant de passes à chacun.
        """
        size, world, count = self.batch_size, self.world, len(pairs.starts)
        table = torch.zeros(9, count, dtype=torch.float64)
        firsts = range(0, count, size)
        numbers = pairs.source.numbers(pairs.starts)
        mean_length = float(pairs.source.lengths[numbers, 0].mean())
        for turn in range(0, len(firsts), world.size):
            if should_stop():
                return None
            mine = turn + world.rank
            first = firsts[min(mine, len(firsts) - 1)]
            chosen = slice(first, first + size)
            inputs, targets = make_batch(pairs.source, pairs.starts[chosen], self.window)
            reference = pairs.reference
            batch = PreferenceBatch(
                inputs=inputs,
                targets=targets,
                sequence_ids=torch.zeros(len(inputs), dtype=torch.int64),
                reference=None if reference is None else reference.of(numbers[chosen]),
                mean_length=mean_length,
            )
            logits = self.score(inputs, self.objective.positions(batch))
            scores, divergence = self.objective.scores(logits, batch)
            if mine < len(firsts):
                table[:7, chosen] = torch.stack([getattr(scores, n) for n in _COLUMNS]).double()
                if divergence is not None:
                    table[7, first] = divergence.double().sum()
                    table[8, first] = divergence.numel()
        table = world.sum(table)
        known = dict(zip(_COLUMNS, table, strict=False))
        found = self.objective.loss.compute(
            PairScores(**known, mean_length=mean_length), self.objective.config
        )
        tokens = table[8].sum()
        return found, None if tokens == 0 else table[7].sum() / tokens


_COLUMNS = (
    *("chosen", "rejected", "chosen_tokens", "rejected_tokens"),
    *("reference_chosen", "reference_rejected", "sequence"),
)
