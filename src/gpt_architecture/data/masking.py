"""Des données dont un retrait est masqué : la règle d'un oubli, et la seule.

Un token retiré garde sa place : rien d'autre ne bouge, ni une fenêtre, ni un lot, ni un tirage. Lu,
il vaut le neutre, la fin de texte, sinon l'identifiant 0 ; cible, il ne s'apprend pas (`IGNORED`),
ni ne se mesure. Les séparateurs des documents ne sont pas retirés. Avec `document_mask`, où chaque
fin de texte commence un document, un token retiré en est un à lui seul : aucun autre ne le voit.
De ce qui est retiré ne restent donc que la longueur et la place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.data.datasets import TrainingData, first_words
from gpt_architecture.data.mixtures import MixtureTokens
from gpt_architecture.data.removal import Removal, Span, span_array
from gpt_architecture.data.sampler import IGNORED, BoundedSource, LabelledSource, WindowSampler
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.texts.conversations import ConversationTokens
from gpt_architecture.data.tokenizers.protocol import Tokenizer
from gpt_architecture.errors import DataError

_OPENING = 32  # tokens relus pour les premiers mots


class MaskedTokens:
    """Une `TokenSource` sans certains de ses tokens ; les autres sont ceux de `source`.

    Args:
        source: la suite de tokens.
        spans: les places retirées, disjointes et croissantes.
        neutral: ce qui s'y lit.
    """

    def __init__(self, source: TokenSource, spans: Sequence[Span], neutral: int) -> None:
        self.source, self.spans, self._neutral = source, tuple(spans), neutral
        self._firsts, self._stops = span_array(spans).T

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens."""
        return self.source.num_tokens

    @property
    def sha256(self) -> str:
        """Identité du contenu et de ce qui en est retiré."""
        return hashlib.sha256(f"{self.source.sha256} {self.spans}".encode()).hexdigest()

    def hidden(self, start: int, length: int) -> Tensor:
        """Vrai pour les tokens retirés parmi [start, start + length[ : (length,) booléen."""
        found = torch.zeros(length, dtype=torch.bool)
        low = int(np.searchsorted(self._stops, start, side="right"))
        high = int(np.searchsorted(self._firsts, start + length, side="left"))
        for first, stop in self.spans[low:high]:
            found[max(0, first - start) : stop - start] = True
        return found

    def is_hidden(self, start: int, length: int) -> bool:
        """Vrai si un des tokens [start, start + length[ est retiré."""
        low = int(np.searchsorted(self._stops, start, side="right"))
        return low < len(self.spans) and self.spans[low][0] < start + length

    def read(self, start: int, length: int) -> Tensor:
        """Voir `TokenSource.read` ; un token retiré vaut le neutre."""
        ids = self.source.read(start, length)
        return ids.masked_fill(self.hidden(start, length), self._neutral)

    def read_targets(self, start: int, length: int) -> Tensor:
        """Les cibles [start, start + length[ : (length,) int64, `IGNORED` si retirée."""
        source = self.source
        read = source.read_targets if isinstance(source, LabelledSource) else source.read
        targets = read(start, length)
        return targets.masked_fill(self.hidden(start, length), IGNORED)

    def count_learned(self, starts: NDArray[np.int64], window: int) -> int:
        """Tokens que les fenêtres commençant en `starts` font apprendre."""
        rows = (self.read_targets(int(start) + 1, window) for start in starts)
        return sum(int((row != IGNORED).sum()) for row in rows)


class MaskedRows(MaskedTokens):
    """Des conversations réunies par rangées, sans certains de leurs tokens."""

    def read_boundaries(self, start: int, length: int) -> Tensor:
        """(length,) booléen : les tokens, depuis `start`, qui commencent une conversation."""
        bounds: Tensor = self.source.read_boundaries(start, length)  # type: ignore[attr-defined]
        return bounds


class MaskedMixture(MaskedTokens, MixtureTokens):
    """Un mélange sans certains de ses tokens."""

    def __init__(self, source: MixtureTokens, spans: Sequence[Span], neutral: int) -> None:
        MixtureTokens.__init__(self, source.parts, source.sources)
        MaskedTokens.__init__(self, source, spans, neutral)


def masked(source: TokenSource, spans: Sequence[Span], neutral: int) -> TokenSource:
    """La suite de tokens, sans ces places ; elle-même s'il n'y en a pas.

    Raises:
        DataError: une place en sort.
    """
    if not spans:
        return source
    if spans[-1][1] > source.num_tokens:
        raise DataError(
            f"un retrait jusqu'au token {spans[-1][1]}",
            expected=f"des places dans les {source.num_tokens} tokens de ces données",
            remedy="rendez les données d'origine, ou refaites le retrait",
        )
    if isinstance(source, MixtureTokens):
        return MaskedMixture(source, spans, neutral)
    kind = MaskedRows if isinstance(source, BoundedSource) else MaskedTokens
    return kind(source, spans, neutral)


def original(source: TokenSource) -> TokenSource:
    """La suite de tokens, retrait compris."""
    return source.source if isinstance(source, MaskedTokens) else source


def neutral_of(tokenizer: Tokenizer) -> int:
    """L'identifiant qui tient la place d'un token retiré."""
    return 0 if tokenizer.eos_id is None else tokenizer.eos_id


def reading_steps(sampler: WindowSampler, spans: Sequence[Span], steps: int) -> NDArray[np.bool_]:
    """Vrai pour chaque étape qui lit un de ces morceaux, parmi les `steps` premières : (steps,).

    Rien n'est entraîné ni relu : les fenêtres touchées donnent leurs séquences, à chaque époque.
    La mémoire est celle du résultat, un octet par étape.
    """
    found = np.zeros(steps, dtype=np.bool_)
    for ids in sampler.readers(span_array(spans), steps * sampler.batch_size):
        found[ids // sampler.batch_size] = True
    return found


def first_reading(
    sampler: WindowSampler, spans: Sequence[Span], first: int, stop: int
) -> int | None:
    """La première étape, de [first, stop[, qui lit un de ces morceaux ; None : aucune."""
    size = sampler.batch_size
    found = sampler.first_reader(span_array(spans), first * size, stop * size)
    return None if found is None else found // size


def without(data: TrainingData, removal: Removal) -> TrainingData:
    """Les données, sans ce que `removal` retire ; voir ce module.

    Raises:
        DataError: il est d'autres données, ou il ne laisse rien à apprendre ou à mesurer.
    """
    removal.check_same(data.sha256, data.tokenizer_sha256)
    train, val = (
        masked(source, spans, removal.neutral)
        for source, spans in ((data.train, removal.train), (data.val, removal.val))
    )
    opening = _opening(data, removal)
    if not opening and isinstance(data.val, ConversationTokens):
        raise DataError(
            "toutes les conversations de validation sont retirées",
            expected="un retrait qui en laisse une au moins, à mesurer",
            remedy="ôtez-les du fichier et recommencez l'entraînement, qui en tirera d'autres",
        )
    if not opening:
        raise DataError(
            "tout le texte est retiré",
            expected="un retrait qui laisse de quoi apprendre",
            remedy="effacez le modèle : rien ne doit en rester",
        )
    return replace(data, train=train, val=val, removal=removal, opening=opening)


def _opening(data: TrainingData, removal: Removal) -> str:
    """Les premiers mots, que le modèle garde pour ses exemples : jamais ceux d'un texte retiré.

    Returns:
        Rien : il ne reste pas de mot.
    """
    source, spans, first = data.train, removal.train, _OPENING
    known = [(0, source.num_tokens)]
    if isinstance(data.val, ConversationTokens):  # la première question ; entre elles, rien
        source, spans = data.val, removal.val
        known = [(start, stop) for _, start, stop in data.val.places]
        first = known[0][1]
    if not spans or spans[0][0] >= first:
        return data.opening
    stops = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), source.num_tokens]
    left = [(max(a, c), min(b, d)) for a, b in zip(stops, starts, strict=True) for c, d in known]
    free = ((a, min(b - a, _OPENING)) for a, b in left if b > a)
    for start, length in free:
        ids = [
            each for each in source.read(start, length).tolist() if each != data.tokenizer.eos_id
        ]
        words = first_words(data.tokenizer.decode(ids)).strip("\ufffd")
        if words:
            return words
    return ""
