"""Des modèles de référence : la recette d'un entraînement, refaite sur des moitiés de son texte.

Le texte d'entraînement et le texte inédit sont coupés en blocs. Les modèles vont par deux, et
chaque bloc est lu par l'un des deux (Carlini et al., 2022) : de tout extrait, la moitié des modèles
l'a lu, la moitié non.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    TrainingRequest,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.mixtures import MixtureTokens
from gpt_architecture.data.shards.reader import TokenArray, TokenSource
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.preparation import prepare
from gpt_architecture.training.session import build_trainer

MAX_SHADOWS = 64
MAX_TOKENS = 1 << 28
"""Tokens de texte, entraînement et inédit, que des modèles de référence peuvent se partager."""

_NEVER = 1 << 40
_SHAPE = ("emb_dim", "n_heads", "n_layers", "drop_rate", "qkv_bias", "tie_weights")

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Un modèle de référence.

    Attributes:
        model: le modèle.
        inside: les blocs qu'il a lus, ceux de l'entraînement d'abord.
    """

    model: GPTModel
    inside: Bools


def halves(blocks: int, count: int, seed: int) -> list[Bools]:
    """Les blocs que lit chacun des `count` modèles : deux moitiés complémentaires par paire."""
    found = list[Bools]()
    for pair in range(count // 2):
        order = np.random.default_rng([seed, pair]).permutation(blocks)
        first = np.zeros(blocks, np.bool_)
        first[order[: blocks // 2]] = True
        found += [first, ~first]
    return found


def recipe_of(identity: Mapping[str, Any], *, device: str, windows: int) -> TrainingRequest:
    """La demande d'un modèle de référence, d'après l'identité de l'entraînement à imiter.

    Args:
        identity: ce que le modèle en garde (voir `Settings.identity`).
        device: périphérique, tel que `train` le nomme.
        windows: fenêtres de l'entraînement imité ; un nombre d'étapes borné est réduit de moitié
            avec elles.

    Raises:
        ConfigurationError: le modèle ne dit pas comment il a été entraîné, ou a été affiné.
    """
    training, shape = identity.get("training"), identity.get("config")
    window = identity.get("window")
    if not isinstance(training, Mapping) or not isinstance(shape, Mapping) or not window:
        raise ConfigurationError(
            "ce modèle ne dit pas comment il a été entraîné",
            expected="un modèle écrit par « gpt-architecture train »",
            remedy="retirez `shadow`",
        )
    if identity.get("start") or identity.get("lora"):
        raise ConfigurationError(
            "des modèles de référence d'un modèle affiné",
            expected="un entraînement parti de poids tirés au hasard",
            remedy="retirez `shadow`",
        )
    known: dict[str, Any] = {}
    for group, kind in (
        (training, TrainingConfig),
        (identity.get("optimizer", {}), OptimizerConfig),
        (identity.get("schedule", {}), ScheduleConfig),
    ):
        known |= {each.name: group[each.name] for each in fields(kind) if each.name in group}
    known |= {name: shape[name] for name in _SHAPE if name in shape}
    known |= {"context_length": window, "positions": shape["context_length"]}
    known |= {"canaries": 0, "patience": None, "eval_freq": _NEVER, "eval_iter": 1}
    if known.get("max_steps") is not None:
        sequences = known["batch_size"] * known["accumulate"]
        whole = -(-known["epochs"] * windows // sequences)
        known["max_steps"] = max(1, min(known["max_steps"], whole) // 2)
    return TrainingRequest.of({**known, "device": device})


def train_shadows(
    data: TrainingData,
    identity: Mapping[str, Any],
    *,
    count: int,
    size: int,
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Shadow]:
    """Entraîne les modèles de référence, un à un : rien n'est écrit.

    Args:
        data: les données de l'entraînement imité.
        identity: voir `recipe_of`.
        count: modèles, en nombre pair.
        size: tokens d'un bloc.
        device: périphérique, tel que `train` le nomme.
        on_progress: reçoit les étapes faites, et leur nombre.

    Raises:
        ConfigurationError: nombre impair, mélange, texte trop long, ou modèle sans recette.
    """
    check_count(count)
    total = data.train.num_tokens + data.val.num_tokens
    if isinstance(data.train, MixtureTokens) or total > MAX_TOKENS:
        what = "un mélange" if total <= MAX_TOKENS else f"{total} tokens"
        raise ConfigurationError(
            f"des modèles de référence sur {what}",
            expected=f"un seul texte, d'au plus {MAX_TOKENS} tokens",
            remedy="retirez `shadow`",
        )
    window = max(1, int(identity.get("window") or 1))
    request = recipe_of(identity, device=device, windows=max(1, data.train.num_tokens // window))
    seed = request.training.seed
    blocks = np.concatenate([_blocks(part, size) for part in (data.train, data.val)])
    for number, inside in enumerate(halves(len(blocks), count, seed)):
        ids = np.append(blocks[inside].reshape(-1), blocks[inside][0][:1])
        own = replace(data, train=TokenArray(ids), canaries=None)
        learning = replace(request.training, seed=seed + 1 + number)
        run = prepare(replace(request, training=learning), data=own)
        trainer = build_trainer(run.settings, run.data)
        steps = trainer.config.total_steps
        while trainer.state.step < steps:
            trainer.advance()
            on_progress(number * steps + trainer.state.step, count * steps)
        model = trainer.model
        assert isinstance(model, GPTModel)  # noqa: S101 — un seul processus : pas de DDP
        yield Shadow(model=model, inside=inside)


def check_count(count: int) -> None:
    """Vérifie un nombre de modèles de référence.

    Raises:
        ConfigurationError: il est impair, ou hors bornes.
    """
    if count < 2 or count > MAX_SHADOWS or count % 2:
        raise ConfigurationError.wrong(
            "`shadow`", count, expected=f"un nombre pair, de 2 à {MAX_SHADOWS}"
        )


def spread_blocks(tokens: int, size: int, most: int) -> list[int]:
    """Les rangs d'au plus `most` blocs d'un texte, répartis ; aucun s'il est plus court qu'un."""
    count = tokens // size
    kept = min(most, count)
    return [number * count // kept for number in range(kept)]


def _blocks(source: TokenSource, size: int) -> NDArray[np.int64]:
    """Les blocs entiers d'un texte : (blocs, taille)."""
    count = source.num_tokens // size
    read: NDArray[np.int64] = source.read(0, count * size).numpy().reshape(count, size)
    return read
