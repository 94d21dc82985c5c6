"""Quel lot à quelle étape : une fonction pure de (graine, étape, rang, nombre de processus).

La position dans les données est un seul entier, l'étape : reprendre un entraînement, ou
changer le nombre de processus, ne déplace aucun token.

Formes : B séquences d'un processus, T tokens d'une fenêtre.
"""

from __future__ import annotations

from collections.abc import Iterator
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

_BLOCK = 1 << 16  # fenêtres cherchées à la fois
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

    def readers(self, spans: Ints, sequences: int, *, first: int = 0) -> Iterator[Ints]:
        """Les séquences qui lisent un de ces morceaux, cibles comprises ; rien n'est parcouru.

        L'inverse de `batch` : des tokens aux fenêtres, des fenêtres aux séquences de chaque époque.

        Args:
            spans: morceaux [début, fin[ de la suite, (N, 2), disjoints et croissants.
            sequences: séquences de l'entraînement ; les suivantes ne comptent pas.
            first: les précédentes non plus.

        Yields:
            Leurs numéros, par blocs, une époque après l'autre, chacun une fois.
        """
        windows = self.num_windows
        low = np.maximum(0, -((self.window - spans[:, 0]) // self.stride))
        high = np.minimum(windows, (spans[:, 1] - 1) // self.stride + 1)
        low[1:] = np.maximum(low[1:], high[:-1])  # une fenêtre à cheval ne compte qu'une fois
        ends = np.cumsum(np.maximum(high - low, 0))
        count = int(ends[-1]) if len(ends) else 0
        for epoch in range(first // windows, -(-sequences // windows) if count else 0):
            for start in range(0, count, _BLOCK):
                ranks = np.arange(start, min(start + _BLOCK, count), dtype=np.int64)
                which = np.searchsorted(ends, ranks, side="right")
                found = high[which] - (ends[which] - ranks)
                if self.shuffle:
                    epochs = np.full_like(found, epoch)
                    found = unpermute(found, windows, seed=self.seed, epochs=epochs)
                ids = epoch * windows + found
                yield ids[(first <= ids) & (ids < sequences)]

    def first_reader(self, spans: Ints, first: int, stop: int) -> int | None:
        """La première séquence de [first, stop[ qui lit un de ces morceaux ; None : aucune.

        Elle se trouve en deux époques au plus, quel que soit `stop`.
        """
        best: int | None = None
        for ids in self.readers(spans, stop, first=first):
            if not len(ids):
                continue
            lowest = int(ids.min())
            if best is not None and lowest // self.num_windows > best // self.num_windows:
                break
            best = lowest if best is None else min(best, lowest)
        return best

    def reads(self, start: int, length: int, sequences: int) -> bool:
        """Vrai si les `sequences` premières séquences lisent [start, start + length[ en entier.

        Une cible est lue aussi ; entre deux fenêtres écartées, des tokens ne le sont jamais.
        """
        low = max(0, -((self.window - start) // self.stride))
        high = min(self.num_windows, (start + length - 1) // self.stride + 1)
        places = np.arange(low, max(low, high), dtype=np.int64)
        if sequences < self.num_windows:  # la première époque n'est pas finie
            first = np.zeros_like(places)
            ids = places
            if self.shuffle:
                ids = unpermute(places, self.num_windows, seed=self.seed, epochs=first)
            places = places[ids < sequences]
        reached = start
        for window in (places * self.stride).tolist():
            if window > reached:
                break
            reached = max(reached, window + self.window + 1)
        return reached >= start + length

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
    half, keys = _network(size, seed, epochs)
    values = places.astype(np.uint64)
    outside = np.arange(values.size)
    while outside.size:
        values[outside] = _feistel(values[outside], [key[outside] for key in keys], half)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def unpermute(images: Ints, size: int, *, seed: int, epochs: Ints) -> Ints:
    """La place de chaque image : l'inverse de `permute`, aux mêmes arguments.

    Args:
        images: (N,) int64, dans [0, size[.
        size, seed, epochs: voir `permute`.
    """
    half, keys = _network(size, seed, epochs)
    values = images.astype(np.uint64)
    outside = np.arange(values.size)
    while outside.size:
        backwards = [key[outside] for key in reversed(keys)]
        values[outside] = _swapped(_feistel(_swapped(values[outside], half), backwards, half), half)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _network(size: int, seed: int, epochs: Ints) -> tuple[int, list[UInts]]:
    """La moitié des bits d'une valeur, et les clés de chaque tour, (N,)."""
    half = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    base = _mix(_mix(np.array([seed], dtype=np.uint64)) + epochs.astype(np.uint64))  # (N,)
    return half, [_mix(base + np.uint64(index + 1)) for index in range(_ROUNDS)]


def _feistel(values: UInts, keys: list[UInts], half: int) -> UInts:
    """Une bijection de [0, 4**half[, (N,) → (N,)."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _swapped(values: UInts, half: int) -> UInts:
    """Les deux moitiés échangées : le réseau, aux clés renversées, se défait alors lui-même."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    return ((values & mask) << shift) | (values >> shift)


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
class PairedSource(TokenSource, Protocol):
    """Une suite de tokens dont chaque fenêtre en a une autre, lue avec elle."""

    def row_starts(self, starts: Ints) -> Ints:
        """Premiers tokens des rangées de ces fenêtres (B,), deux par fenêtre, à la suite."""
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

    Ce qui suit la dernière cible à apprendre est laissé : aucun token ne le voit. Un lot qui n'a
    plus de cible en garde une de façade, pour que sa perte reste un nombre ; `learned_tokens` ne la
    compte pas, et sa part est nulle.

    Args:
        source: la suite de tokens.
        starts: premiers tokens, (B,).
        window: longueur d'une fenêtre (T).

    Returns:
        Entrées et cibles, chacune (B, T) int64 ; (B, T' ≤ T) si `source` distingue des cibles,
        (2·B, T') si ses fenêtres vont par paires.
    """
    if isinstance(source, PairedSource):
        starts = source.row_starts(starts)
    rows = torch.stack([source.read(int(start), window + 1) for start in starts])  # (B, T + 1)
    inputs, targets = rows[:, :-1], rows[:, 1:]
    if isinstance(source, LabelledSource):
        targets = torch.stack([source.read_targets(int(start) + 1, window) for start in starts])
        kept = (targets != IGNORED).any(dim=0).nonzero()
        last = int(kept.max()) if len(kept) else 0
        if not len(kept):
            targets[0, 0] = inputs[0, 0]
        length = min(window, -(-(last + 1) // _LENGTH_STEP) * _LENGTH_STEP)
        inputs, targets = inputs[:, :length], targets[:, :length]
    return inputs.contiguous(), targets.contiguous()
