"""Ce que le hasard donne : la longueur d'un passage commun à un texte jamais vu.

Un texte que le modèle n'a pas appris partage déjà des passages avec ce qu'il a appris. Leur plus
grande longueur est mesurée sur des extraits de la part de validation, de plusieurs tailles ; sans
elle, elle est estimée : deux suites aléatoires de N et M tokens, d'entropie H par token, en
partagent environ log(N·M) / H de suite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt_architecture.data.shards.reader import TokenSource

SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""Tailles des extraits mesurés, en tokens."""

SHARE = 0.95
"""Part des extraits qui ne dépassent pas la longueur du hasard."""

_WINDOWS = 40
_SAMPLE_TOKENS = 1 << 20  # d'où l'entropie est estimée
_LEAST_ENTROPY = 0.5  # nats par token : un texte plus monotone ne se distingue pas du hasard


@dataclass(frozen=True, kw_only=True)
class Chance:
    """La longueur qu'un texte jamais vu ne dépasse pas, 95 fois sur 100.

    Attributes:
        tokens: tokens indexés.
        lengths: taille d'un extrait → cette longueur ; vide : il n'y a pas de texte inédit.
        windows: extraits de la plus petite taille, sur lesquels elle est mesurée.
        entropy: entropie d'un token sachant le précédent, en nats.
    """

    tokens: int
    lengths: Mapping[int, int]
    windows: int
    entropy: float

    @property
    def is_measured(self) -> bool:
        """Vrai si elle est mesurée sur du texte inédit ; faux : estimée."""
        return bool(self.lengths)

    def length(self, size: int) -> int:
        """La longueur du hasard pour un texte de `size` tokens.

        Entre deux tailles mesurées, celle de la plus grande ; au-delà, elle croît comme le
        logarithme de la taille.
        """
        size = max(1, size)
        entropy = max(self.entropy, _LEAST_ENTROPY)
        if not self.lengths:
            found = math.ceil(math.log(self.tokens * size) / entropy)
        elif (above := min((each for each in self.lengths if each >= size), default=0)) > 0:
            found = self.lengths[above]
        else:
            largest = max(self.lengths)
            found = self.lengths[largest] + math.ceil(math.log(size / largest) / entropy)
        return min(size, found)

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        return {
            "tokens": self.tokens,
            "lengths": {str(size): length for size, length in self.lengths.items()},
            "windows": self.windows,
            "entropy": self.entropy,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Chance:
        """Depuis ce que rend `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: ce n'en est pas une.
        """
        lengths = {int(size): int(length) for size, length in found["lengths"].items()}
        entropy = float(found["entropy"])
        if not math.isfinite(entropy) or min((*lengths, 1)) < 1:
            raise ValueError("entropie ou taille impossible")
        return cls(
            tokens=max(1, int(found["tokens"])),
            lengths=lengths,
            windows=int(found["windows"]),
            entropy=entropy,
        )


def measure_chance(
    training: TokenSource,
    unseen: TokenSource | None,
    lengths: Callable[[Sequence[int]], list[int]],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Chance:
    """Mesure le hasard.

    Args:
        training: le texte indexé.
        unseen: du texte du même genre que l'index n'a pas ; None : le hasard est estimé.
        lengths: rend les longueurs communes qui commencent à chaque place d'un extrait.
        on_progress: reçoit les extraits mesurés, et leur nombre.
    """
    largest = 0 if unseen is None else min(SIZES[-1], unseen.num_tokens)
    longest: dict[int, list[int]] = {size: [] for size in SIZES if size <= largest}
    count = 0
    if unseen is not None and longest:
        count = min(_WINDOWS, unseen.num_tokens // largest)
        for number in range(count):
            start = number * unseen.num_tokens // count
            found = lengths(unseen.read(start, largest).tolist())
            for size, kept in longest.items():
                for first in range(0, largest - size + 1, size):
                    last = first + size
                    kept.append(max(min(found[i], last - i) for i in range(first, last)))
            on_progress(number + 1, count)
    return Chance(
        tokens=training.num_tokens,
        lengths={
            size: sorted(each)[math.ceil(SHARE * len(each)) - 1] for size, each in longest.items()
        },
        windows=len(longest.get(SIZES[0], ())),
        entropy=_entropy(training),
    )


def _entropy(source: TokenSource) -> float:
    """L'entropie d'un token sachant le précédent, en nats, sur le début d'un texte."""
    ids = source.read(0, min(_SAMPLE_TOKENS, source.num_tokens)).numpy()
    pairs = ids[:-1] * (int(ids.max()) + 1) + ids[1:]
    return max(0.0, _surprise(pairs) - _surprise(ids[:-1]))


def _surprise(values: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """L'entropie empirique d'une suite de valeurs, en nats."""
    if not values.size:
        return 0.0
    shares = np.unique(values, return_counts=True)[1] / values.size
    return float(-(shares * np.log(shares)).sum())
