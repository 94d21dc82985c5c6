"""Ce qu'un plan conclut de ses mesures : la durée de chaque taille, sa perte, et la meilleure.

Tout ici est une fonction pure des mesures : les mêmes mesures donnent le même plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpt_architecture.config import GPTConfig, check_float
from gpt_architecture.training.costs import StepCost, StepWork
from gpt_architecture.training.experiments import (
    LADDER,
    MIN_STEPS,
    TextSize,
    Trial,
    block_weights,
    model_of,
)
from gpt_architecture.training.scaling import FittedLaw
from gpt_architecture.training.trials import EVALUATIONS, Body, Memory, Recipe, StepTime

MAX_HOURS = 24.0 * 365
MINUTES = (4.0, 24.0)
"""Bornes des minutes d'essais, quand elles ne sont pas données : un dixième des heures."""

_FURTHER = 4.0  # une taille n'est proposée qu'à tant de fois la plus grande essayée
_TIE, _CLOSE = 0.001, 0.01
_APPROACHED, _SEEN = 0.05, 0.5  # parts, lues par un essai, de ce qu'une taille lirait
_DURATIONS, _PER_DOUBLING = 25, 10  # durées comparées : tant, et tant par doublement des étapes
_DISK_BYTES = 4 + 3 * 12  # par paramètre : le modèle, deux points de reprise et celui qui s'écrit
_STATE_BYTES = 16, 12  # par paramètre : poids, gradient, moments ; Muon n'en a qu'un
_ACTIVATIONS, _SCORES = 10, 1.1  # nombres gardés par token et par bloc : × largeur, × T têtes
_LOGITS = 0.25  # et par token et mot du vocabulaire : la perte se calcule par morceaux


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Ce que durent une étape, une évaluation et un exemple, sur cette machine.

    Attributes:
        cost: la durée d'une étape, selon ce qu'elle fait.
        evaluated: tokens d'entraînement qui durent autant qu'une évaluation.
        sample: durée d'un exemple, en secondes par bloc.
    """

    cost: StepCost
    evaluated: float
    sample: float

    def of(self, body: Body, recipe: Recipe, vocab_size: int) -> StepTime:
        """Ce que cette forme demande."""
        config = model_of(body, recipe, vocab_size)
        step = self.cost.seconds(
            StepWork.of(config, window=recipe.window, sequences=recipe.batch_size)
        )
        return StepTime(
            step=step,
            evaluation=self.evaluated * step / recipe.step_tokens,
            sample=self.sample * body.n_layers,
        )

    def scaled(self, ratio: float) -> Pace:
        """Celle d'une machine tant de fois plus lente."""
        return replace(self, cost=self.cost.scaled(ratio), sample=ratio * self.sample)


def training_seconds(time: StepTime, recipe: Recipe, steps: int, unique: int) -> float:
    """Durée d'un entraînement entier : ses étapes, ses évaluations, un exemple par époque."""
    epochs = math.ceil(steps * recipe.step_tokens / unique)
    evaluated = (EVALUATIONS + 1) * time.evaluation
    return time.warmup + steps * time.step + evaluated + epochs * time.sample


def steps_within(time: StepTime, recipe: Recipe, seconds: float, unique: int) -> int:
    """Étapes qui tiennent dans cette durée ; 0 : aucune."""
    left = seconds - time.warmup - (EVALUATIONS + 1) * time.evaluation - time.sample
    return max(0, int(left / (time.step + time.sample * recipe.step_tokens / unique)))


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Tout ce dont une décision dépend.

    Attributes:
        recipe: la meilleure recette essayée.
        text: le texte, sous son vocabulaire.
        pace: la machine.
        law: la loi des essais.
        largest: le plus grand modèle essayé, en poids de ses blocs.
        memory: celle que le modèle n'explique pas.
        startup: secondes avant la première étape : lire le texte, apprendre le vocabulaire.
        nats: nats par token que vaut un bit par octet.
    """

    recipe: Recipe
    text: TextSize
    pace: Pace
    law: FittedLaw
    largest: int
    memory: Memory
    startup: float
    nats: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Un entraînement possible dans les heures données.

    Attributes:
        body: forme du modèle.
        recipe: comment l'entraîner.
        parameters: ses paramètres (N).
        steps: étapes.
        tokens: tokens lus (D).
        epochs: époques.
        loss: perte de validation attendue, en bits par octet.
        low, high: bornes de son intervalle à 95 %.
        seconds: durée, de la lecture du texte au modèle écrit.
        memory: octets de mémoire, au plus haut.
        disk: octets du modèle et de ses points de reprise.
        measured: sa durée vient d'étapes mesurées de sa forme, et non de la loi de coût.
    """

    body: Body
    recipe: Recipe
    parameters: int
    steps: int
    tokens: int
    epochs: float
    loss: float
    low: float
    high: float
    seconds: float
    memory: int
    disk: int
    measured: bool = False


def decide(measures: Measures, hours: float) -> tuple[Choice, ...]:
    """Les tailles possibles dans ces heures, chacune à sa meilleure durée ; la meilleure d'abord.

    Deux durées dont les pertes diffèrent de moins d'un millième se valent : la plus courte est
    gardée. Une taille très au-delà de celles essayées n'est pas proposée.
    """
    found = list[Choice]()
    for body in LADDER:
        config = model_of(body, measures.recipe, measures.text.vocab_size)
        if block_weights(body) > _FURTHER * measures.largest and found:
            break
        time = measures.pace.of(body, measures.recipe, measures.text.vocab_size)
        steps = _best_steps(measures, config.num_parameters(), time, hours)
        if steps:
            found.append(choice_of(measures, body, steps, time))
    return tuple(sorted(found, key=lambda each: each.loss))


def supported(choices: Sequence[Choice], law: FittedLaw) -> tuple[Choice, ...]:
    """Les mêmes, de la meilleure à la moins bonne ; mais d'abord, à égalité, la plus grande.

    À un centième près, deux pertes se valent. Une grande taille accélère parfois, passé ce que ses
    essais en ont vu : elle passe devant, si le plus long n'a pas lu la moitié de ce qu'elle lirait.
    S'il n'en a pas lu le vingtième, la loi n'en sait pas tant, et elle ne passe devant rien.
    """
    ordered = sorted(choices, key=lambda each: each.loss)
    close = [each for each in ordered if each.loss <= ordered[0].loss * (1 + _CLOSE)]
    near = [each for each in close if approach(each, law) >= _APPROACHED]
    known = [each for each in near[1:] if approach(each, law) >= _SEEN]
    first = max((e for e in near if e not in known), key=lambda e: e.parameters, default=None)
    return tuple(sorted(ordered, key=lambda each: each is not first))


def approach(choice: Choice, law: FittedLaw) -> float:
    """La part de ses tokens qu'a lue le plus long essai de cette taille, sur tout le texte."""
    unique = max((run.unique for run in law.runs), default=0.0)
    whole = (choice.parameters, unique)
    tried = [run.tokens for run in law.runs if (run.parameters, run.unique) == whole]
    return max(tried, default=0.0) / choice.tokens


def _best_steps(measures: Measures, parameters: int, time: StepTime, hours: float) -> int:
    recipe, unique = measures.recipe, measures.text.unique
    seconds = 3600 * hours - measures.startup
    most = steps_within(time, recipe, seconds, unique)
    if most < MIN_STEPS:
        return 0
    count = _DURATIONS + int(_PER_DOUBLING * math.log2(most / MIN_STEPS))
    scale = math.log(MIN_STEPS / most)
    tried = {round(most * math.exp(scale * index / count)) for index in range(count + 1)}
    losses = {
        steps: measures.law.loss(parameters, steps * recipe.step_tokens, unique)
        for steps in sorted(tried)
    }
    lowest = min(losses.values())
    return next(steps for steps, loss in losses.items() if loss <= lowest * (1 + _TIE))


def choice_of(measures: Measures, body: Body, steps: int, time: StepTime) -> Choice:
    """Ce que promet et demande cet entraînement."""
    recipe, text = measures.recipe, measures.text
    config = model_of(body, recipe, text.vocab_size)
    parameters, tokens = config.num_parameters(), steps * recipe.step_tokens
    loss, low, high = measures.law.expected(parameters, tokens, text.unique)
    return Choice(
        body=body,
        recipe=recipe,
        parameters=parameters,
        steps=steps,
        tokens=tokens,
        epochs=tokens / text.unique,
        loss=loss,
        low=low,
        high=high,
        seconds=measures.startup + training_seconds(time, recipe, steps, text.unique),
        memory=max(
            measures.memory.peak, measures.memory.resident + memory_of(body, recipe, config)
        ),
        disk=_DISK_BYTES * parameters,
    )


def memory_of(body: Body, recipe: Recipe, config: GPTConfig) -> int:
    """Octets que demande un entraînement, sur le processeur, en plus de ceux d'avant.

    Ce qu'un bloc garde pour le gradient, les scores d'attention et les logits comptés à part ; les
    facteurs sont ceux de mémoires mesurées, avec nos noyaux (docs/mesures/journal.md) : sans eux,
    autograd en garde davantage.
    """
    widths = body.n_layers * (_ACTIVATIONS * body.emb_dim + _SCORES * body.n_heads * recipe.window)
    kept = recipe.step_tokens * (widths + _LOGITS * config.vocab_size)
    blocks = block_weights(body)
    embeddings, matrices = _STATE_BYTES
    states = embeddings * (config.num_parameters() - blocks) + matrices * blocks
    return states + int(4 * kept)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Ce qu'un plan propose.

    Attributes:
        best: l'entraînement proposé.
        alternatives: les autres tailles, de la meilleure à la moins bonne ; la perte d'une plus
            petite, ou d'une qu'aucun essai n'approche, peut y être jusqu'à un centième plus basse
            que celle de `best`.
        trials: les essais faits.
        measures: ce dont la décision dépend.
        hours: les heures données.
    """

    best: Choice
    alternatives: tuple[Choice, ...]
    trials: tuple[Trial, ...]
    measures: Measures
    hours: float


def check_budget(hours: float, minutes: float | None) -> float:
    """Les minutes d'essais, après avoir refusé des durées qui n'ont pas de sens.

    Raises:
        ConfigurationError: durée négative, nulle, démesurée, ou qui n'est pas un nombre.
    """
    check_float("`hours`", hours, above=0.0, maximum=MAX_HOURS)
    if minutes is None:
        return min(max(6 * hours, MINUTES[0]), MINUTES[1])
    check_float("`minutes`", minutes, above=0.0, maximum=60 * MAX_HOURS)
    return minutes
