"""Partager des exemples entiers entre l'entraînement et la validation, par une graine.

Un fichier est souvent rangé, par sujet ou par date : sa fin ne vaudrait pas pour le reste.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpt_architecture.data.sampler import permute
from gpt_architecture.french import counted

logger = logging.getLogger(__name__)

DRAWN = "tirage"
"""Le nom de ce partage, dans l'identité d'un entraînement."""

T = TypeVar("T")


def split_examples(
    examples: Sequence[T], ratio: float, seed: int, *, groups: Sequence[object] | None = None
) -> tuple[list[T], list[T]]:
    """L'entraînement, dans l'ordre du fichier, et la validation, mêlée.

    Le tirage ne dépend que de la graine et du rang de chaque exemple.

    Args:
        examples: les exemples.
        ratio: part d'entraînement.
        seed: graine.
        groups: le groupe de chacun, dont la même part est tirée ; un groupe d'un exemple est à
            apprendre. None : un seul groupe.
    """
    members = dict[object, list[int]]()
    for rank in range(len(examples)):
        members.setdefault(None if groups is None else groups[rank], []).append(rank)
    held = set[int]()
    for ranks in members.values():
        size = len(ranks)
        count = min(max(1, round((1 - ratio) * size)), size - 1)
        held |= {ranks[place] for place in _shuffled(size, seed)[:count]}
    train = [each for rank, each in enumerate(examples) if rank not in held]
    return train, mixed([each for rank, each in enumerate(examples) if rank in held], seed)


def mixed(examples: Sequence[T], seed: int) -> list[T]:
    """Les exemples, mêlés : une évaluation n'en lit que les premiers."""
    return [examples[place] for place in _shuffled(len(examples), seed)]


def tell_repeats(
    train: Iterable[Hashable], val: Sequence[Hashable], *, unit: str, origin: Path | str
) -> None:
    """Dit combien d'exemples de validation s'apprennent aussi.

    Args:
        train: le contenu de chaque exemple à apprendre.
        val: celui de chaque exemple de validation.
        unit: nom d'un exemple.
        origin: d'où viennent ceux de validation.
    """
    if twice := sum(map(set(train).__contains__, val)):
        logger.warning(
            "%s de validation sur %d déjà dans l'entraînement (%s) : la mesure en est flattée",
            *(counted(twice, unit), len(val), origin),
        )


def _shuffled(size: int, seed: int) -> list[int]:
    if not size:
        return []
    places = np.arange(size, dtype=np.int64)
    return [int(each) for each in permute(places, size, seed=seed, epochs=np.zeros_like(places))]
