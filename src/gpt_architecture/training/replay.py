"""Rejouer des étapes d'un entraînement, et les comparer à ce que son certificat en dit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor

from gpt_architecture.errors import CheckpointError, GPTArchitectureError
from gpt_architecture.formats.story import Cause, Difference, Story, end_of
from gpt_architecture.french import decimal
from gpt_architecture.training.arithmetic import Tolerance, weights_gap
from gpt_architecture.training.certificate import (
    Span,
    checkpoint_digests,
    code_sha256,
    learned_of,
    state_digests,
)
from gpt_architecture.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    capture,
    read_checkpoint,
)
from gpt_architecture.training.outputs import identity_differences
from gpt_architecture.training.step import TokenBatches
from gpt_architecture.training.trainer import Trainer

_FREE = ("name",)  # un fichier renommé porte le même texte


def setting_differences(facts: Mapping[str, Any], identity: Mapping[str, Any]) -> list[Difference]:
    """En quoi des réglages et des données ne sont pas ceux du certificat.

    Args:
        facts: ce qui vaut, d'après lui.
        identity: ce qui est trouvé (voir `Settings.identity`).
    """
    found = []
    for sentence in identity_differences(facts["identity"], identity, ignored=_FREE):
        name = sentence.split(" : ")[0]
        cause: Cause = "réglages"
        if name.startswith("data."):
            cause = "données"
        elif name.startswith("tokenizer"):
            cause = "tokenizer"
        elif name.startswith("start"):
            cause = "modèle"
        found.append(Difference(cause=cause, step=None, message=sentence.replace("demandé", "ici")))
    return found


def first_other_batch(story: Story, batches_at: Callable[[int], TokenBatches]) -> Difference | None:
    """La première étape dont les lots ne sont pas ceux du certificat, relus des données.

    Args:
        story: ce qu'il raconte.
        batches_at: d'une étape, les lots d'ici, des réglages qui y valaient.
    """
    for link in story.links:
        if link["kind"] != "steps":
            continue
        span = Span(link["first"])
        for step in range(link["first"], link["last"] + 1):
            span.read(batches_at(step), step)
        if span.batches != link["batches"]:
            first, last = link["first"], link["last"]
            where = "" if first == last else f", entre les étapes {first} et {last}"
            return Difference(
                cause="données",
                step=first,
                message=f"d'autres tokens que ceux du certificat{where}",
            )
    return None


def kept_checkpoints(
    store: CheckpointStore, story: Story
) -> tuple[dict[int, Checkpoint], list[Difference]]:
    """Les points de reprise gardés que le certificat connaît, et ceux qui n'en sont pas.

    Un point d'une étape dont il ne dit rien, ou d'une étape plus loin que lui, est laissé.
    """
    kept, differences = dict[int, Checkpoint](), list[Difference]()
    for step in store.steps():
        link = story.weights_at(step)
        if "weights" not in link:
            continue
        checkpoint, why = _read(store, step)
        if checkpoint is not None:
            found = checkpoint_digests(checkpoint)
            trainer = checkpoint.state.get("trainer")
            at = trainer.get("step") if isinstance(trainer, Mapping) else None
            expected = {name: link.get(name, found[name]) for name in found}
            if checkpoint.step != step or at != step:
                why = f"il est de l'étape {at}"
            elif found["weights"] != expected["weights"]:
                why = "ses poids n'ont pas l'empreinte certifiée"
            elif found["moments"] != expected["moments"]:
                why = "ses moments n'ont pas l'empreinte certifiée"
        if why is None and checkpoint is not None:
            kept[step] = checkpoint
        else:
            message = f"le point de reprise de l'étape {step} n'est pas le sien : {why}"
            differences.append(Difference(cause="point de reprise", step=step, message=message))
    return kept, differences


def _read(store: CheckpointStore, step: int) -> tuple[Checkpoint | None, str | None]:
    try:
        return read_checkpoint(store.path_of(step)), None
    except CheckpointError as error:
        return None, error.found


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Des étapes à rejouer : de `first` (comprise) à `stop` (exclue).

    Attributes:
        end: fin de l'intervalle entier, là où un autre commence ; None : `stop`.
    """

    first: int
    stop: int
    end: int | None = None

    @property
    def cut(self) -> str | None:
        """Qu'il n'est pas rejoué jusqu'à sa fin, en une phrase ; None : il l'est."""
        if self.end is None or self.stop == self.end:
            return None
        return (
            f"L'intervalle {self.first} à {self.end - 1} n'est rejoué que jusqu'à l'étape "
            f"{self.stop - 1}, où la part demandée est atteinte."
        )

    def __str__(self) -> str:
        return f"{self.first} à {self.stop - 1}"


def draw(story: Story, anchors: Sequence[int], share: float, seed: int) -> list[Interval]:
    """Les intervalles à rejouer, pris au hasard entre les points d'où l'on peut repartir.

    Ils sont pris entiers, dans un ordre mêlé, jusqu'à la part demandée ; le dernier est écourté au
    bout du maillon qui l'atteint.

    Args:
        story: ce que le certificat raconte.
        anchors: étapes d'où l'on peut repartir.
        share: part des étapes, dans ]0, 1].
        seed: graine de ce choix.
    """
    bounds = [*sorted({each for each in anchors if each < story.last}), story.last]
    intervals = [Interval(first=first, stop=stop) for first, stop in pairwise(bounds)]
    if share >= 1:
        return intervals
    quota = max(1, round(share * (story.last - story.first)))
    random.Random(seed).shuffle(intervals)  # noqa: S311 — se refait
    chosen = []
    ends = sorted(end_of(each) for each in story.links if each["kind"] == "steps")
    for each in intervals:
        stop = next((end for end in ends if end >= each.first + quota), each.stop)
        chosen.append(Interval(first=each.first, stop=min(stop, each.stop), end=each.stop))
        quota -= chosen[-1].stop - each.first
        if quota <= 0:
            break
    return sorted(chosen, key=lambda each: each.first)


@dataclass(kw_only=True)
class Outcome:
    """Ce qu'un rejeu a trouvé.

    Attributes:
        steps: étapes rejouées.
        exact: vrai tant que tout est égal au bit près.
        gap: plus grand écart relatif entre deux pertes moyennes.
        weights_gap: plus grand écart relatif, en norme, entre deux tenseurs de poids.
        compared: après combien d'étapes des poids l'ont été.
        difference: ce qui l'a arrêté ; None : rien.
    """

    steps: int = 0
    exact: bool = True
    gap: float = 0.0
    weights_gap: float = 0.0
    compared: set[int] = field(default_factory=set)
    difference: Difference | None = None


def replay(
    story: Story,
    interval: Interval,
    trainer: Trainer,
    *,
    tolerance: Tolerance | None,
    reason: Callable[[int, Cause], Difference],
    weights_at: Callable[[int], Mapping[str, Tensor] | None],
    on_step: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Rejoue un intervalle, et compare chaque maillon ; s'arrête à la première différence.

    Args:
        story: ce que le certificat raconte.
        interval: ce qu'il faut rejouer.
        trainer: l'entraînement, à la première étape de l'intervalle.
        tolerance: écarts relatifs admis ; None : aucun, les bits sont comparés.
        reason: d'une étape et de ce qui y diffère, fait la différence à dire.
        weights_at: d'un nombre d'étapes, les poids gardés ; None : il n'y en a pas.
        on_step: reçoit, après chaque étape, leur nombre.
    """
    outcome = Outcome()
    for link in story.links:
        at, end = int(link["first"] if link["kind"] == "steps" else link["step"]), end_of(link)
        if at < interval.first or end > interval.stop:
            continue
        if link["kind"] == "steps":
            span = Span(at)
            for step in range(at, end):
                span.read(trainer.batches, step)
                try:
                    span.note(trainer.advance())
                except GPTArchitectureError as error:
                    message = f"l'étape {step} ne se rejoue pas : {error.found}"
                    outcome.difference = Difference(cause="pertes", step=step, message=message)
                    return outcome
                outcome.steps += 1
                on_step(outcome.steps)
            if span.losses != link["losses"]:
                _judge(outcome, link, span.loss, tolerance, reason(at, "pertes"))
            elif span.loss != link.get("loss"):
                message = "la perte moyenne écrite n'est pas celle des étapes"
                outcome.difference = Difference(cause="pertes", step=at, message=message)
        elif link.get("weights") is not None:
            groups = capture(trainer.model, trainer.optimizer)
            found = state_digests(groups)
            if all(found[name] == link.get(name, found[name]) for name in found):
                outcome.compared.add(at)
            elif tolerance is None:
                outcome.exact, outcome.difference = False, reason(at, "poids")
            else:
                outcome.exact = False
                _judge_weights(outcome, learned_of(groups), weights_at(at), tolerance, at)
        if outcome.difference is not None:
            return outcome
    return outcome


def _judge(
    outcome: Outcome,
    link: Mapping[str, Any],
    loss: float | None,
    tolerance: Tolerance | None,
    found: Difference,
) -> None:
    """Deux maillons aux bits différents : la tolérance, s'il y en a une, en juge."""
    outcome.exact = False
    expected = link.get("loss")
    if tolerance is not None and expected is None and loss is None:
        return  # aucune des deux n'est finie
    if tolerance is None or expected is None or loss is None:
        outcome.difference = found
        return
    gap = abs(loss - expected) / max(abs(expected), 1e-12)
    outcome.gap = max(outcome.gap, gap)
    if gap > tolerance.losses:
        message = (
            f"{found.message} ; perte {decimal(loss, 6)}, certifiée {decimal(expected, 6)}, "
            f"écart admis {decimal(100 * tolerance.losses, 2)} %"
        )
        outcome.difference = Difference(cause=found.cause, step=found.step, message=message)


def _judge_weights(
    outcome: Outcome,
    found: Mapping[str, Tensor],
    kept: Mapping[str, Tensor] | None,
    tolerance: Tolerance,
    step: int,
) -> None:
    """Des poids rejoués, aux bits différents : leur écart à ceux qui sont gardés, s'il y en a."""
    if kept is None:
        return
    gap, name = weights_gap(found, kept)
    outcome.compared.add(step)
    outcome.weights_gap = max(outcome.weights_gap, gap)
    if gap > tolerance.weights:
        far = f"à {decimal(100 * gap, 2)} % près" if math.isfinite(gap) else "sans mesure commune"
        message = (
            f"les poids rejoués ne sont pas ceux qui sont gardés : {name}, {far}, "
            f"écart admis {decimal(100 * tolerance.weights, 0)} %"
        )
        outcome.difference = Difference(cause="poids", step=step, message=message)


def explained(facts: Mapping[str, Any], step: int, cause: Cause) -> Difference:
    """Pourquoi une étape rejouée ne donne pas ce que le certificat dit.

    Args:
        facts: ce qui y vaut.
        step: l'étape, depuis 0.
        cause: ce qui diffère.
    """
    what = "les pertes ou les gradients" if cause == "pertes" else "les poids obtenus"
    if facts["code"]["sha256"] != code_sha256():
        cause, what = "code", f"le code a changé, et {what}"
    elif step == 0 and cause == "poids":
        what = "les poids de départ"
    return Difference(cause=cause, step=step, message=f"{what} ne sont pas ceux du certificat")
