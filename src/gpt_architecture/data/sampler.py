"""Quel lot à quelle étape : une fonction pure de (graine, étape, rang, nombre de processus).

La position dans les données est un seul entier, l'étape : reprendre un entraînement, ou
changer le nombre de processus, ne déplace aucun token.

Formes : B séquences d'un processus, T tokens d'une fenêtre.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.french import counted

_ROUNDS = 8
_MIN_HALF_BITS = 3  # sur un trop petit domaine, un réseau de Feistel mélange mal
_GOLDEN = 0x9E3779B97F4A7C15

_LENGTH_STEP = 64  # peu de formes différentes : les moteurs gardent des tampons par forme

IGNORED = -100
"""Cible sans perte ni gradient : celle que `cross_entropy` de PyTorch laisse de côté."""

UInts = NDArray[np.uint64]
Ints = NDArray[np.int64]


class WindowSampler:
    """Distribue des fenêtres jointives ou chevauchantes, chacune une fois par époque.

    Les séquences sont numérotées depuis le début de l'entraînement : la séquence s est, dans
    l'époque s // num_windows, à la place s % num_windows d'une permutation qui ne dépend que
    de (seed, époque). Un lot peut chevaucher deux époques ; rien n'est laissé de côté.

    Args:
        num_tokens: longueur de la suite de tokens.
        window: longueur d'une fenêtre (T).
        stride: décalage entre deux fenêtres ; None : `window`.
        batch_size: séquences par étape d'optimiseur, tous processus compris.
        seed: graine du mélange.
        shuffle: False : les fenêtres dans l'ordre, à chaque époque.

    Raises:
        ConfigurationError: un argument n'est pas un entier dans ses bornes.
        DataError: la suite est plus courte qu'une fenêtre et sa cible.
    """

    def __init__(
        self,
        num_tokens: int,
        window: int,
        *,
        stride: int | None = None,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        stride = window if stride is None else stride
        check_int("num_tokens", num_tokens, minimum=0)
        for name, value in (("window", window), ("stride", stride), ("batch_size", batch_size)):
            check_int(name, value, minimum=1)
        check_int("seed", seed, minimum=0, maximum=2**63 - 1)
        if num_tokens <= window:
            raise DataError(
                counted(num_tokens, "token"),
                expected=f"au moins {window + 1} (une fenêtre de {window} et sa cible)",
                remedy="donnez plus de texte ou réduisez `context_length`",
            )
        self.num_tokens = num_tokens
        self.window = window
        self.stride = stride
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._starts = range(0, num_tokens - window, stride)  # celles de GPTDatasetV1

    @property
    def num_windows(self) -> int:
        """Nombre de fenêtres d'une époque."""
        return len(self._starts)

    @property
    def steps_per_epoch(self) -> int:
        """Étapes pour voir chaque fenêtre au moins une fois : `steps_in(1)`."""
        return self.steps_in(1)

    def steps_in(self, epochs: int) -> int:
        """Étapes pour `epochs` époques ; la dernière peut entamer l'époque suivante.

        Les lots se suivent sans trou d'une époque à l'autre : c'est au plus
        `epochs * steps_per_epoch`, souvent moins.
        """
        check_int("epochs", epochs, minimum=1)
        return -(-epochs * self.num_windows // self.batch_size)

    def sequence_ids(self, step: int) -> range:
        """Numéros des séquences de l'étape, comptés depuis le début de l'entraînement."""
        check_int("step", step, minimum=0)
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def start_of(self, sequence_id: int) -> int:
        """Premier token de la fenêtre d'une séquence."""
        check_int("sequence_id", sequence_id, minimum=0)
        return int(self._starts_of(np.array([sequence_id], dtype=np.int64))[0])

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Ints, Ints]:
        """La part d'un processus dans le lot de l'étape.

        Le rang r prend la tranche contiguë r du lot : changer `world_size` ne change pas les
        séquences de l'étape.

        Args:
            step: étape d'optimiseur, depuis 0.
            rank: rang du processus.
            world_size: nombre de processus ; il divise `batch_size`.

        Returns:
            Premiers tokens et numéros des séquences, chacun (B,) int64.

        Raises:
            ConfigurationError: `world_size` ne divise pas le lot, ou rang hors bornes.
        """
        check_int("world_size", world_size, minimum=1)
        check_int("rank", rank, minimum=0, maximum=world_size - 1)
        if self.batch_size % world_size:
            raise ConfigurationError(
                f"un lot de {self.batch_size} séquences pour {world_size} processus",
                expected="un lot multiple du nombre de processus",
                remedy="changez `batch_size` ou le nombre de processus",
            )
        share = self.batch_size // world_size
        first = self.sequence_ids(step).start + rank * share
        ids = np.arange(first, first + share, dtype=np.int64)
        return self._starts_of(ids), ids

    def _starts_of(self, ids: Ints) -> Ints:
        epochs, places = np.divmod(ids, self.num_windows)
        if self.shuffle:
            places = permute(places, self.num_windows, seed=self.seed, epochs=epochs)
        return places * self.stride


def permute(places: Ints, size: int, *, seed: int, epochs: Ints) -> Ints:
    """Image de chaque place par la permutation de [0, size[ propre à (graine, époque).

    Réseau de Feistel équilibré sur la plus petite puissance de 4 qui couvre `size`, rejoué
    tant que l'image en sort (« cycle walking », Black et Rogaway, 2002) : une bijection, en
    mémoire constante, qui ne dépend d'aucun générateur de bibliothèque.

    Args:
        places: (N,) int64, dans [0, size[.
        size: taille de l'ensemble.
        seed: graine, ≥ 0.
        epochs: (N,) int64, l'époque de chaque place.
    """
    half = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    base = _mix(_mix(np.array([seed], dtype=np.uint64)) + epochs.astype(np.uint64))  # (N,)
    keys = [_mix(base + np.uint64(index + 1)) for index in range(_ROUNDS)]
    values = places.astype(np.uint64)
    outside = np.arange(values.size)
    while outside.size:
        values[outside] = _feistel(values[outside], [key[outside] for key in keys], half)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: UInts, keys: list[UInts], half: int) -> UInts:
    """Une bijection de [0, 4**half[, (N,) → (N,)."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(values: UInts) -> UInts:
    """Mélange de splitmix64 (Steele, Lea et Flood, 2014), modulo 2**64."""
    mixed: Any = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


@runtime_checkable
class LabelledSource(TokenSource, Protocol):
    """Une suite de tokens dont certains seulement s'apprennent."""

    def read_targets(self, start: int, length: int) -> Tensor:
        """Les cibles [start, start + length[ : (length,) int64, ou `IGNORED`."""
        ...

    def count_learned(self, starts: Ints, window: int) -> int:
        """Tokens que les fenêtres commençant en `starts` font apprendre."""
        ...


@runtime_checkable
class BoundedSource(TokenSource, Protocol):
    """Une suite de tokens qui sait où commencent ses documents."""

    def read_boundaries(self, start: int, length: int) -> Tensor:
        """(length,) booléen, vrai où un des tokens [start, start + length[ commence un document."""
        ...


def document_starts(
    source: TokenSource, starts: Ints, inputs: Tensor, separator: int | None
) -> Tensor | None:
    """Où commence, dans sa fenêtre, le document de chaque token : (B, T) int64.

    Args:
        source: la suite de tokens.
        starts: premiers tokens des fenêtres, (B,).
        inputs: ces fenêtres, (B, T).
        separator: token qui commence chaque document, si `source` n'en sait pas plus ; None :
            les documents ne comptent pas.

    Returns:
        None si chaque fenêtre n'est que d'un document.
    """
    if separator is None:
        return None
    marks = inputs == separator
    if isinstance(source, BoundedSource):
        length = inputs.size(1)
        marks = torch.stack([source.read_boundaries(int(start), length) for start in starts])
    places = torch.arange(inputs.size(1)).where(marks, 0)
    return places.cummax(dim=1).values if places.any() else None


def learned_tokens(source: TokenSource, starts: Ints, window: int) -> int:
    """Tokens que ces fenêtres font apprendre : tous, sauf si `source` en distingue."""
    if isinstance(source, LabelledSource):
        return source.count_learned(starts, window)
    return len(starts) * window


def make_batch(source: TokenSource, starts: Ints, window: int) -> tuple[Tensor, Tensor]:
    """Lit les fenêtres et leurs cibles, décalées d'un token.

    Ce qui suit la dernière cible à apprendre est laissé : aucun token ne le voit.

    Args:
        source: la suite de tokens.
        starts: premiers tokens, (B,).
        window: longueur d'une fenêtre (T).

    Returns:
        Entrées et cibles, chacune (B, T) int64 ; (B, T' ≤ T) si `source` distingue des cibles.
    """
    rows = torch.stack([source.read(int(start), window + 1) for start in starts])  # (B, T + 1)
    inputs, targets = rows[:, :-1], rows[:, 1:]
    if isinstance(source, LabelledSource):
        targets = torch.stack([source.read_targets(int(start) + 1, window) for start in starts])
        last = int((targets != IGNORED).any(dim=0).nonzero().max())
        length = min(window, -(-(last + 1) // _LENGTH_STEP) * _LENGTH_STEP)
        inputs, targets = inputs[:, :length], targets[:, :length]
    return inputs.contiguous(), targets.contiguous()
