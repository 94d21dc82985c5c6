"""Les essais qu'un plan prévoit : tailles, vocabulaires, durées ; et ceux qu'il retient.

Rien ici ne mesure : les mêmes données donnent les mêmes essais.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gpt_architecture.config import GPTConfig
from gpt_architecture.training.trials import Body, Recipe

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

MIN_STEPS = 60
"""Étapes de l'essai le plus court."""

SHORTEST = 16
"""Contexte le plus court, en tokens."""

EPOCHS = 16.0
"""Époques des essais qui relisent, au plus."""

MATURE = 200
"""Étapes en deçà desquelles une perte tombe plus vite que sa loi : elle n'en dit rien de juste."""

_FEW_STEPS = 2 * MATURE  # le plus long essai de la plus grande taille, au moins
_LATER = 4.0  # le plus long entraînement qui ait un sens dure tant de fois un essai mûr, au moins
_SPREAD = 2  # crans d'échelle entre deux tailles essayées
_REREAD, _DROPOUT = 3.0, 0.1  # au-delà de tant d'époques, du dropout
_SPOILT = 1.08  # perte, en part de la plus basse de sa chaîne, au-delà de laquelle un essai est ôté

Option = TypeVar("Option")


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """Un texte sous un vocabulaire.

    Attributes:
        vocab_size: tokens du vocabulaire (V).
        unique: tokens d'entraînement (U).
        validation: tokens de validation.
    """

    vocab_size: int
    unique: int
    validation: int


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


def block_weights(body: Body) -> int:
    """Poids des matrices des blocs : deux tailles en diffèrent plus que de leurs vocabulaires."""
    return 12 * body.n_layers * body.emb_dim**2


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
    while window > SHORTEST and not validates(window, text):
        window //= 2
    batch = 2 ** round(math.log2(max(1, text.unique / 32 / window)))
    return Recipe(
        tokenizer=tokenizer,
        window=window,
        batch_size=min(max(batch, 4), 16),
        drop_rate=_DROPOUT if epochs > _REREAD else 0.0,
    )


def validates(window: int, text: TextSize) -> bool:
    """Vrai si la validation a deux fenêtres de cette longueur, et leur cible."""
    return text.validation > 2 * window


def mature_steps(recipe: Recipe, unique: int) -> int:
    """Étapes d'où la loi se lit : `MATURE`, ou moins pour un texte que si peu suffit à épuiser."""
    useless = EPOCHS * unique / recipe.step_tokens
    return max(1, min(MATURE, int(useless / _LATER)))


def chain_lengths(steps: int, least: int = MIN_STEPS) -> tuple[int, ...]:
    """Les durées d'une chaîne dont la plus longue a `steps` étapes, la plus courte `least`."""
    found = [steps >> shift for shift in range(LONGEST)]
    return tuple(each for each in reversed(found) if each >= least) or (max(1, steps),)


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
        epochs: époques que ferait, dans les heures données, une taille proche du choix.
        unique: tokens d'entraînement en tout.
        recipe: une part plus courte que quelques lots n'apprend rien d'utile.

    Returns:
        None : le texte entier est déjà relu autant, ou ne le serait pas.
    """
    if epochs <= 1.5:
        return None
    part = int(tokens / min(epochs, EPOCHS))
    part = max(part, 8 * recipe.step_tokens, 16 * recipe.window)
    return part if part < unique / 1.5 else None


def preferred(losses: Iterable[tuple[Option, float]], close: float) -> Option:
    """La première option dont la perte est, à `close` près en part, la plus basse."""
    tried = list(losses)
    lowest = min(loss for _, loss in tried)
    if not math.isfinite(lowest):
        return tried[0][0]
    return next(option for option, loss in tried if loss <= lowest * (1 + close))


def useful(trials: Iterable[Trial], *, least: int = 0, mature: int = 0) -> list[Trial]:
    """Les essais dont la loi s'ajuste : sans les trop courts, ni ceux qui ont bien trop relu.

    Args:
        trials: les essais d'une recette.
        least: essais à garder s'il se peut ; les meilleurs des autres y pourvoient : les plus longs
            des trop courts, puis les moins gâtés.
        mature: étapes en deçà desquelles un essai est trop court.
    """
    finite = {(t.body, t.unique, t.steps): t for t in trials if math.isfinite(t.loss)}
    kept, young, spoilt = list[Trial](), list[Trial](), list[Trial]()
    lowest = dict[tuple[Body, int], float]()
    for each in sorted(finite.values(), key=lambda trial: trial.steps):
        chain = (each.body, each.unique)
        best = lowest.get(chain, math.inf)
        fresh = kept if each.steps >= mature else young
        (fresh if each.loss <= _SPOILT * best else spoilt).append(each)
        lowest[chain] = min(best, each.loss)
    spoilt.sort(key=lambda trial: trial.loss)
    return kept + [*reversed(young), *spoilt][: max(0, least - len(kept))]
