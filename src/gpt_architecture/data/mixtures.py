"""Plusieurs sources en un entraînement, chacune pour sa part : les tokens, et l'ordre des fenêtres.

Les sources se tressent sans tirage, par la méthode d'apportionnement de Webster : la m-ième fenêtre
d'une source de part a (m depuis 0) vient à l'instant (2m + 1) / 2a, et les fenêtres de toutes les
sources se suivent dans l'ordre de ces instants. Après n séquences, chaque source en a donc reçu sa
part de n à l'arrondi près, si petit que soit n, et ses propres fenêtres gardent leur ordre : celui
de son `WindowSampler`, une permutation par époque. La source d'une séquence et le rang de celle-ci
se calculent directement : rien n'est gardé, et le lot reste une fonction pure de (graine, étape).
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import TrainingConfig, WeightedSource
from gpt_architecture.data.datasets import (
    TrainingData,
    check_windows,
    data_of_corpus,
    data_of_shards,
    learned_tokenizer,
    stored_tokenizer,
)
from gpt_architecture.data.sampler import Ints, WindowSampler
from gpt_architecture.data.shards.layout import holds_shards
from gpt_architecture.data.shards.reader import TokenSource, check_range
from gpt_architecture.data.texts.corpus import Corpus, load_corpus
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer, learns_from_text
from gpt_architecture.errors import located

_GOLDEN = 0x9E3779B97F4A7C15


class MixtureTokens:
    """Une `TokenSource` faite de plusieurs, bout à bout.

    Args:
        parts: les tokens de chaque source du mélange, dans l'ordre.
        sources: leurs noms et leurs poids.
    """

    def __init__(self, parts: Sequence[TokenSource], sources: Sequence[WeightedSource]) -> None:
        self.parts, self.sources = tuple(parts), tuple(sources)
        self._bases = [0, *accumulate(part.num_tokens for part in parts)]

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens de toutes les sources."""
        return self._bases[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Les noms des sources."""
        return tuple(each.name for each in self.sources)

    @property
    def bases(self) -> Sequence[int]:
        """Le premier token de chaque source."""
        return self._bases[:-1]

    @cached_property
    def sha256(self) -> str:
        """Empreinte des noms et des contenus."""
        named = [[name, part.sha256] for name, part in zip(self.names, self.parts, strict=True)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def read(self, start: int, length: int) -> Tensor:
        """Les tokens [start, start + length[ : (length,) int64.

        Raises:
            DataError: le morceau sort de la suite.
        """
        check_range(start, length, self.num_tokens)
        part = min(bisect_right(self._bases, start) - 1, len(self.parts) - 1)
        found, done = list[Tensor](), 0
        while done < length or not found:
            own = self.parts[part]
            first = start + done - self._bases[part]
            count = min(length - done, own.num_tokens - first)
            found.append(own.read(first, count))
            done, part = done + count, part + 1
        return found[0] if len(found) == 1 else torch.cat(found)

    def by_source(self, starts: Ints) -> dict[str, Ints]:
        """Les fenêtres qui commencent en `starts` (N,), par nom de source ; aucune n'est vide."""
        owners = np.searchsorted(self._bases, starts, side="right") - 1
        grouped = {name: starts[owners == index] for index, name in enumerate(self.names)}
        return {name: chosen for name, chosen in grouped.items() if len(chosen)}


@dataclass(frozen=True, kw_only=True)
class SourceUse:
    """Ce qu'un entraînement a lu d'une source.

    Attributes:
        share: sa part des séquences lues.
        tokens: tokens lus.
        epochs: passages sur ses fenêtres.
    """

    share: float
    tokens: int
    epochs: float


class MixtureSampler(WindowSampler):
    """Distribue les fenêtres d'un mélange ; aucune ne passe d'une source à l'autre.

    Son époque compte autant de fenêtres que toutes les sources en ont ou, si les poids sont des
    nombres d'époques, celles qu'ils demandent.

    Args:
        source: le mélange.
        window, stride, batch_size, seed, shuffle: voir `WindowSampler`.

    Raises:
        DataError: une source est plus courte qu'une fenêtre et sa cible ; elle est nommée.
    """

    def __init__(
        self,
        source: MixtureTokens,
        window: int,
        *,
        stride: int | None = None,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        super().__init__(
            source.num_tokens,
            window,
            stride=stride,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
        )
        self._source = source
        self._samplers = []
        for index, (name, part) in enumerate(zip(source.names, source.parts, strict=True)):
            with located(f"source {name}"):
                own = WindowSampler(
                    part.num_tokens,
                    window,
                    stride=stride,
                    batch_size=1,
                    seed=(seed + index * _GOLDEN) % 2**63,
                    shuffle=shuffle,
                )
            self._samplers.append(own)
        windows = [own.num_windows for own in self._samplers]
        weights = [each.weight for each in source.sources]
        if source.sources[0].unit == "epochs":
            weights = [weight * count for weight, count in zip(weights, windows, strict=True)]
            self._epoch = math.ceil(sum(weights))
        else:
            self._epoch = sum(windows)
        scale = math.lcm(*(weight.denominator for weight in weights))
        shares = [int(weight * scale) for weight in weights]
        common = math.gcd(*shares)
        self.shares = [share // common for share in shares]

    @property
    def num_windows(self) -> int:
        """Nombre de fenêtres d'une époque du mélange."""
        return self._epoch

    def use_after(self, sequences: int) -> dict[str, SourceUse]:
        """Ce que les `sequences` premières séquences lisent de chaque source, par nom."""
        counts = apportion(sequences, self.shares)
        return {
            name: SourceUse(
                share=count / max(1, sequences),
                tokens=count * self.window,
                epochs=count / own.num_windows,
            )
            for name, count, own in zip(self._source.names, counts, self._samplers, strict=True)
        }

    def readers(self, spans: Ints, sequences: int, *, first: int = 0) -> Iterator[Ints]:
        """Voir `WindowSampler.readers` ; une source après l'autre."""
        before, counts = (apportion(each, self.shares) for each in (first, sequences))
        for index, (own, mine) in enumerate(self._shared(spans)):
            for ranks in own.readers(mine, counts[index], first=before[index]):
                places = [unweave(index, rank, self.shares) for rank in ranks.tolist()]
                yield np.array(places, dtype=np.int64)

    def first_reader(self, spans: Ints, first: int, stop: int) -> int | None:
        """Voir `WindowSampler.first_reader`."""
        before, counts = (apportion(each, self.shares) for each in (first, stop))
        found = [
            (index, own.first_reader(mine, before[index], counts[index]))
            for index, (own, mine) in enumerate(self._shared(spans))
        ]
        places = [unweave(index, rank, self.shares) for index, rank in found if rank is not None]
        return min(places, default=None)

    def _shared(self, spans: Ints) -> Iterator[tuple[WindowSampler, Ints]]:
        """De chaque source, ce qui distribue ses fenêtres, et les morceaux qui en sont."""
        for base, own in zip(self._source.bases, self._samplers, strict=True):
            mine = np.clip(spans - base, 0, own.num_tokens)
            yield own, mine[mine[:, 0] < mine[:, 1]]

    def _starts_of(self, ids: Ints) -> Ints:
        owners, ranks = np.array([weave(place, self.shares) for place in ids.tolist()]).T
        starts = np.empty_like(ids)
        for index, (base, own) in enumerate(zip(self._source.bases, self._samplers, strict=True)):
            mine = owners == index
            starts[mine] = base + own._starts_of(ranks[mine])
        return starts


def weave(place: int, shares: Sequence[int]) -> tuple[int, int]:
    """La source à cette place de la tresse, et le nombre de places qu'elle a eues avant.

    Args:
        place: la place, depuis 0.
        shares: la part de chaque source, entière et > 0.
    """
    counts = apportion(place, shares)
    source = _next_source(counts, shares)
    return source, counts[source]


def unweave(source: int, rank: int, shares: Sequence[int]) -> int:
    """La place où une source reçoit sa fenêtre de rang `rank` : l'inverse de `weave`.

    Devant elle passent, de chaque autre source, les fenêtres d'instant plus petit, ou égal si cette
    source est donnée avant elle.
    """
    own, place = shares[source], rank
    for index, share in enumerate(shares):
        if index != source:  # les m tels que (2m + 1) / share < (2·rang + 1) / own, ou ≤
            reach = (2 * rank + 1) * share - own + (2 * own - 1 if index > source else 2 * own)
            place += max(0, reach // (2 * own))
    return place


def apportion(places: int, shares: Sequence[int]) -> list[int]:
    """Combien des `places` premières places vont à chaque source (Webster, 1832).

    À égalité d'instant, la première source donnée passe devant.
    """
    total = sum(shares)
    # Toutes les fenêtres dont l'instant ne dépasse pas places / total : à la moitié du nombre de
    # sources près, il y en a autant que de places.
    counts = [(2 * places * share + total) // (2 * total) for share in shares]
    for _ in range(sum(counts) - places):
        counts[_last_source(counts, shares)] -= 1
    for _ in range(places - sum(counts)):
        counts[_next_source(counts, shares)] += 1
    return counts


def _next_source(counts: Sequence[int], shares: Sequence[int]) -> int:
    """La source dont la fenêtre suivante vient le plus tôt : le plus petit (2m + 1) / a."""
    best = 0
    for index in range(1, len(shares)):
        if (2 * counts[index] + 1) * shares[best] < (2 * counts[best] + 1) * shares[index]:
            best = index
    return best


def _last_source(counts: Sequence[int], shares: Sequence[int]) -> int:
    """La source dont la dernière fenêtre vient le plus tard : le plus grand (2m − 1) / a."""
    best = 0
    for index in range(1, len(shares)):
        if (2 * counts[index] - 1) * shares[best] >= (2 * counts[best] - 1) * shares[index]:
            best = index
    return best


def sampler_of(
    source: TokenSource,
    window: int,
    *,
    stride: int | None,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
) -> WindowSampler:
    """Ce qui distribue les fenêtres d'une suite de tokens, mélange ou non."""
    if isinstance(source, MixtureTokens):
        return MixtureSampler(
            source, window, stride=stride, batch_size=batch_size, seed=seed, shuffle=shuffle
        )
    return WindowSampler(
        source.num_tokens,
        window,
        stride=stride,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
    )


def mixture_use(sampler: WindowSampler, sequences: int) -> dict[str, SourceUse]:
    """Voir `MixtureSampler.use_after` ; vide pour un texte seul."""
    return sampler.use_after(sequences) if isinstance(sampler, MixtureSampler) else {}


def load_mixture(
    sources: Sequence[WeightedSource],
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    vocabulary: Tokenizer | None = None,
    field: str | None = None,
    offline: bool = False,
    skip_bad: bool = False,
) -> TrainingData:
    """Lit les sources d'un mélange, toutes codées par le même tokenizer.

    Un vocabulaire à apprendre l'est sur l'ensemble de leurs textes.

    Args:
        sources: les sources.
        tokenizer, window, training, vocabulary, field, offline, skip_bad: voir
            `load_training_data`.

    Raises:
        DataError: une source est absente, abîmée ou trop courte ; elle est nommée.
        ConfigurationError: des fragments ont été codés par un autre tokenizer.
        TokenizerError: tokenizer inconnu.
    """
    corpora = list[Corpus | None]()  # None : des fragments
    for each in sources:
        with located(f"source {each.name}"):
            corpora.append(
                None
                if holds_shards(Path(each.path))
                else load_corpus([each.path], field=field, offline=offline, skip_bad=skip_bad)
            )
    if vocabulary is None:
        vocabulary = _common_tokenizer(sources, corpora, tokenizer, training.train_ratio)
    read = []
    for each, corpus in zip(sources, corpora, strict=True):
        with located(f"source {each.name}"):
            if corpus is None:
                data = data_of_shards(each.path, tokenizer, vocabulary)
            else:
                data = data_of_corpus(corpus, tokenizer, vocabulary, training)
            check_windows(data, window)
        read.append(data)
    named = [[each.name, data.sha256] for each, data in zip(sources, read, strict=True)]
    return TrainingData(
        name="+".join(each.name for each in sources),
        sha256=hashlib.sha256(json.dumps(named).encode()).hexdigest(),
        train=MixtureTokens([data.train for data in read], sources),
        val=MixtureTokens([data.val for data in read], sources),
        tokenizer=vocabulary,
        opening=read[0].opening,
    )


def _common_tokenizer(
    sources: Sequence[WeightedSource],
    corpora: Sequence[Corpus | None],
    tokenizer: str,
    train_ratio: float,
) -> Tokenizer:
    """Celui des premiers fragments si aucun autre n'est demandé, sinon celui de ce nom.

    Seuls les textes instruisent un vocabulaire à apprendre.
    """
    if tokenizer == "gpt2":
        for each, corpus in zip(sources, corpora, strict=True):
            if corpus is None:
                with located(f"source {each.name}"):
                    return stored_tokenizer(each.path)
    texts = [corpus.text for corpus in corpora if corpus is not None]
    if texts and learns_from_text(tokenizer):
        return learned_tokenizer(tokenizer, texts, train_ratio)
    return get_tokenizer(tokenizer)
