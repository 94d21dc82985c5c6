"""Ce qu'un plan d'entraînement décide, sans rien mesurer : quels essais faire, et qu'en conclure.

Tout ici est une fonction pure des mesures : les mêmes mesures donnent le même plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gpt_architecture.config import GPTConfig
from gpt_architecture.training.costs import StepCost, StepWork
from gpt_architecture.training.scaling import FittedLaw
from gpt_architecture.training.trials import EVALUATIONS, Body, Recipe, StepTime

LADDER = tuple(
    Body(emb_dim=width, n_heads=heads, n_layers=layers)
    for width, heads, layers in (
        *((32, 1, 2), (64, 2, 2), (96, 3, 3), (128, 4, 4), (192, 6, 4), (256, 4, 4)),
        *((256, 4, 8), (384, 6, 6), (512, 8, 8), (640, 10, 10), (768, 12, 12)),
    )
)
"""Les tailles proposées, de la plus petite à GPT-2 « small » ; chacune pèse environ le double."""

LONGEST = 3
"""Durées d'une chaîne d'essais, chacune le double de la précédente."""

MIN_STEPS = 40
"""Étapes de l'essai le plus court."""

_FEW_STEPS = 160  # le plus long essai de la plus grande taille, au moins
_SPREAD = 2  # crans d'échelle entre deux tailles essayées
_FURTHER = 16.0  # une taille n'est proposée qu'à tant de fois la plus grande essayée
_REREAD, _DROPOUT = 3.0, 0.1  # au-delà de tant d'époques, du dropout
_EPOCHS = 16.0  # époques des essais qui relisent, au plus
_TIE, _DURATIONS = 0.001, 25
_CLOSE = 0.004  # deux recettes aussi proches se valent
_SPOILT = 1.08  # perte, en part de la plus basse de sa chaîne, au-delà de laquelle un essai est ôté
_SHORTEST = 0.02  # plus courte durée proposée, en part des heures
_DISK_BYTES = 4 + 3 * 12  # par paramètre : le modèle, deux points de reprise et celui qui s'écrit
_STATE_BYTES = 16  # par paramètre : poids, gradient, moments
_ACTIVATIONS = 40  # nombres gardés par token, par bloc et par unité de largeur

Option = TypeVar("Option")


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """Un texte sous un vocabulaire.

    Attributes:
        vocab_size: tokens du vocabulaire (V).
        unique: tokens d'entraînement (U).
    """

    vocab_size: int
    unique: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Un essai fait.

    Attributes:
        recipe, body: ce qui a été entraîné.
        steps: étapes.
        unique: tokens différents lus.
        loss: perte de validation, en bits par octet.
    """

    recipe: Recipe
    body: Body
    steps: int
    unique: int
    loss: float


def model_of(body: Body, recipe: Recipe, vocab_size: int) -> GPTConfig:
    """La forme du modèle, telle que `train` la construira."""
    return GPTConfig(
        vocab_size=vocab_size,
        context_length=recipe.window,
        emb_dim=body.emb_dim,
        n_heads=body.n_heads,
        n_layers=body.n_layers,
        drop_rate=recipe.drop_rate,
        qkv_bias=True,
        tie_weights=True,
    )


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


def training_seconds(time: StepTime, recipe: Recipe, steps: int, unique: int) -> float:
    """Durée d'un entraînement entier : ses étapes, ses évaluations, un exemple par époque."""
    epochs = steps * recipe.step_tokens / unique
    return steps * time.step + (EVALUATIONS + 1) * time.evaluation + math.ceil(epochs) * time.sample


def steps_within(time: StepTime, recipe: Recipe, seconds: float, unique: int) -> int:
    """Étapes qui tiennent dans cette durée ; 0 : aucune."""
    left = seconds - (EVALUATIONS + 1) * time.evaluation - time.sample
    return max(0, int(left / (time.step + time.sample * recipe.step_tokens / unique)))


def vocabulary_names(octets: int) -> tuple[str, ...]:
    """Les vocabulaires à comparer, pour un texte de tant d'octets.

    Ils s'étendent autour de la racine de la taille du texte, en octets.
    """
    middle = 2 ** round(math.log2(max(1, octets)) / 2)
    middle = min(max(middle, 1024), 16384)
    return tuple(f"bpe-{size}" for size in (middle // 2, middle, 2 * middle))


def first_recipe(tokenizer: str, text: TextSize, *, epochs: float) -> Recipe:
    """La recette d'où partent les comparaisons.

    Args:
        tokenizer: le vocabulaire.
        text: le texte, sous ce vocabulaire.
        epochs: relectures auxquelles s'attendre.
    """
    window = 128 if text.unique >= 1 << 16 else 64
    batch = 2 ** round(math.log2(max(1, text.unique / 32 / window)))
    return Recipe(
        tokenizer=tokenizer,
        window=window,
        batch_size=min(max(batch, 4), 16),
        drop_rate=_DROPOUT if epochs > _REREAD else 0.0,
    )


def chain_lengths(steps: int) -> tuple[int, ...]:
    """Les durées d'une chaîne dont la plus longue a `steps` étapes."""
    found = [steps >> shift for shift in range(LONGEST)]
    return tuple(each for each in reversed(found) if each >= MIN_STEPS) or (max(1, steps),)


def trial_bodies(steps: Sequence[int]) -> tuple[Body, ...]:
    """Les trois tailles à essayer.

    Args:
        steps: pour chaque taille de `LADDER`, les étapes que le temps d'une chaîne permet.
    """
    largest = max((index for index, each in enumerate(steps) if each >= _FEW_STEPS), default=2)
    top = max(2, largest)
    return LADDER[max(0, top - 2 * _SPREAD)], LADDER[top - min(_SPREAD, top - 1)], LADDER[top]


def reread_tokens(tokens: int, epochs: float, unique: int, recipe: Recipe) -> int | None:
    """La part du texte à relire, pour voir en un essai ce que font les relectures du plan.

    Args:
        tokens: tokens que lira l'essai.
        epochs: époques que ferait, dans les heures données, cette taille.
        unique: tokens d'entraînement en tout.
        recipe: une part plus courte que quelques lots n'apprend rien d'utile.

    Returns:
        None : le texte entier est déjà relu autant, ou ne le serait pas.
    """
    if epochs <= 1.5:
        return None
    part = int(tokens / min(epochs, _EPOCHS))
    part = max(part, 8 * recipe.step_tokens, 16 * recipe.window)
    return part if part < unique / 1.5 else None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Tout ce dont une décision dépend.

    Attributes:
        recipe: la meilleure recette essayée.
        text: le texte, sous son vocabulaire.
        pace: la machine.
        law: la loi des essais.
        largest: paramètres du plus grand modèle essayé.
        base_bytes: mémoire du processus avant tout modèle.
        startup: secondes avant la première étape : lire le texte, apprendre le vocabulaire.
    """

    recipe: Recipe
    text: TextSize
    pace: Pace
    law: FittedLaw
    largest: int
    base_bytes: int
    startup: float


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
        if config.num_parameters() > _FURTHER * measures.largest and found:
            break
        time = measures.pace.of(body, measures.recipe, measures.text.vocab_size)
        steps = _best_steps(measures, config.num_parameters(), time, hours)
        if steps:
            found.append(choice_of(measures, body, steps, time))
    return tuple(sorted(found, key=lambda each: each.loss))


def _best_steps(measures: Measures, parameters: int, time: StepTime, hours: float) -> int:
    recipe, unique = measures.recipe, measures.text.unique
    seconds = 3600 * hours - measures.startup
    most = steps_within(time, recipe, seconds, unique)
    tried = {int(most * _SHORTEST ** (index / _DURATIONS)) for index in range(_DURATIONS + 1)}
    losses = {
        steps: measures.law.loss(parameters, steps * recipe.step_tokens, unique)
        for steps in sorted(tried)
        if steps >= MIN_STEPS
    }
    if not losses:
        return 0
    lowest = min(losses.values())
    return next(steps for steps, loss in losses.items() if loss <= lowest * (1 + _TIE))


def choice_of(measures: Measures, body: Body, steps: int, time: StepTime) -> Choice:
    """Ce que promet et demande cet entraînement."""
    recipe, text = measures.recipe, measures.text
    config = model_of(body, recipe, text.vocab_size)
    parameters, tokens = config.num_parameters(), steps * recipe.step_tokens
    loss, low, high = measures.law.expected(parameters, tokens, text.unique)
    kept = recipe.step_tokens * (_ACTIVATIONS * body.n_layers * body.emb_dim + 3 * text.vocab_size)
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
        memory=measures.base_bytes + _STATE_BYTES * parameters + 4 * kept,
        disk=_DISK_BYTES * parameters,
    )


def preferred(losses: Iterable[tuple[Option, float]]) -> Option:
    """La première option dont la perte est à `_CLOSE` près la plus basse."""
    tried = list(losses)
    lowest = min(loss for _, loss in tried)
    if not math.isfinite(lowest):
        return tried[0][0]
    return next(option for option, loss in tried if loss <= lowest * (1 + _CLOSE))


def useful(trials: Iterable[Trial]) -> list[Trial]:
    """Les essais sans ceux qui ont bien trop relu leur texte : personne n'irait jusque-là."""
    kept, lowest = dict[tuple[Body, int, int], Trial](), dict[tuple[Body, int], float]()
    for each in sorted(trials, key=lambda trial: trial.steps):
        chain = (each.body, each.unique)
        best = lowest.get(chain, math.inf)
        if math.isfinite(each.loss) and each.loss <= _SPOILT * best:
            kept[each.body, each.unique, each.steps] = each
            lowest[chain] = min(best, each.loss)
    return list(kept.values())
