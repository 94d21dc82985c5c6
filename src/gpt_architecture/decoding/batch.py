"""Des suites qui avancent ensemble : un passage du modèle par token, pour toutes.

Une suite peut entrer ou finir à tout moment ; aucune ne change ce que les autres écrivent.
Quand une suite emplit la fenêtre, les positions apprises de GPT-2 interdisent de faire glisser
son cache : sa fenêtre avance d'un token et elle est relue entière, comme le fait l'oracle.

Formes : B suites, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.decoding.sequence import Continuation, Observer, Piece

CHUNK = 512
"""Tokens d'un début lus à la fois : au-delà la mémoire croît, sans gain de vitesse."""


class BatchDecoder:
    """Fait avancer des suites ensemble.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens relus, au plus ; None : tout le contexte du modèle.
        chunk: tokens d'un début lus à la fois.
    """

    def __init__(self, model: CausalLM, *, window: int | None = None, chunk: int = CHUNK) -> None:
        limit = model.cfg.context_length
        self.model = model
        self.window = limit if window is None else min(window, limit)
        self._chunk = chunk
        self._cached = list[Continuation]()  # dans l'ordre des lignes du cache
        self._cache: KVCache | None = None
        self._sliding = list[Continuation]()  # plus longues que la fenêtre
        self._logits = dict[int, Tensor]()  # id(suite) → (V,) de sa prochaine position

    @property
    def active(self) -> tuple[Continuation, ...]:
        """Les suites qui n'ont pas fini."""
        return (*self._cached, *self._sliding)

    def add(self, sequences: Sequence[Continuation]) -> None:
        """Lit les débuts de nouvelles suites ; un début commun n'est lu qu'une fois."""
        fitting = [each for each in sequences if _length(each) <= self.window]
        self._sliding += [each for each in sequences if _length(each) > self.window]
        self._read_sliding([each for each in sequences if _length(each) > self.window])
        if not fitting:
            return
        prompts = list(dict.fromkeys((*each.prompt, *each.tokens) for each in fitting))
        capacity = min(self.window, max(_final_length(each) for each in fitting))
        cache, logits = self._prefill(prompts, capacity)
        place = {prompt: row for row, prompt in enumerate(prompts)}
        rows = [place[(*each.prompt, *each.tokens)] for each in fitting]
        cache.select_(rows)
        self._cache = cache if self._cache is None else _joined(self._cache, cache, self)
        self._cached += fitting
        for each, row in zip(fitting, rows, strict=True):
            self._logits[id(each)] = logits[row]

    def remove(self, sequence: Continuation) -> None:
        """Abandonne une suite."""
        self._logits.pop(id(sequence), None)
        self._sliding = [each for each in self._sliding if each is not sequence]
        self._keep([row for row, each in enumerate(self._cached) if each is not sequence])

    def step(self, observer: Observer | None = None) -> Iterator[tuple[Continuation, Piece]]:
        """Un token de plus pour chaque suite ; celles qui finissent s'en vont."""
        for each in self.active:
            yield each, each.step(self._logits[id(each)], observer)
        self._forget_finished()
        self._advance()

    def _forget_finished(self) -> None:
        for each in self.active:
            if each.finish is not None:
                del self._logits[id(each)]
        self._sliding = [each for each in self._sliding if each.finish is None]
        full = [
            each for each in self._cached if each.finish is None and _length(each) > self.window
        ]
        self._sliding += full
        self._keep(
            [
                row
                for row, each in enumerate(self._cached)
                if each.finish is None and _length(each) <= self.window
            ]
        )

    def _keep(self, rows: list[int]) -> None:
        self._cached = [self._cached[row] for row in rows]
        if self._cache is not None:
            self._cache.select_(rows)

    def _advance(self) -> None:
        """Calcule les logits de la prochaine position de chaque suite."""
        if self._cached and self._cache is not None:
            tokens = [[each.tokens[-1]] for each in self._cached]
            logits = self._forward(tokens, self._cache)[:, -1]  # (B, V)
            for each, row in zip(self._cached, logits, strict=True):
                self._logits[id(each)] = row
        self._read_sliding(self._sliding)

    def _read_sliding(self, sequences: Sequence[Continuation]) -> None:
        if not sequences:
            return
        windows = [(*each.prompt, *each.tokens)[-self.window :] for each in sequences]
        _, logits = self._prefill(windows, self.window)
        for each, row in zip(sequences, logits, strict=True):
            self._logits[id(each)] = row

    def _prefill(
        self, prompts: Sequence[Sequence[int]], capacity: int
    ) -> tuple[KVCache, list[Tensor]]:
        """Lit des débuts ; rend leur cache et, pour chacun, les logits (V,) de la suite.

        Les plus courts sont complétés à droite : l'ordre causal cache ce qui est au-delà.
        """
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        cache = self.model.new_cache(len(prompts), max(capacity, longest))
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        found = list[Tensor | None]([None] * len(prompts))
        for first in range(0, longest, self._chunk):
            last = min(first + self._chunk, longest)
            at = [min(max(length - 1 - first, 0), last - first - 1) for length in lengths]
            logits = self._forward([row[first:last] for row in padded], cache, at)  # (B, 1, V)
            for row, length in enumerate(lengths):
                if first < length <= last:
                    found[row] = logits[row, 0]
        cache.rewind_(lengths)
        return cache, [row for row in found if row is not None]

    def _forward(
        self, tokens: Sequence[Sequence[int]], cache: KVCache, at: Sequence[int] | None = None
    ) -> Tensor:
        device = cache.storage.device
        ids = torch.tensor(tokens, dtype=torch.int64, device=device)
        chosen = None if at is None else torch.tensor(at, dtype=torch.int64, device=device)
        with torch.inference_mode(), evaluation_mode(self.model):
            return self.model(ids, cache, at=chosen)


def _length(sequence: Continuation) -> int:
    return len(sequence.prompt) + len(sequence.tokens)


def _final_length(sequence: Continuation) -> int:
    """Positions que la suite peut demander : la dernière produite n'est jamais relue."""
    return len(sequence.prompt) + sequence.config.max_tokens


def _joined(first: KVCache, second: KVCache, decoder: BatchDecoder) -> KVCache:
    """Un cache qui porte les lignes de l'un, puis celles de l'autre."""
    capacity = max(first.capacity, second.capacity)
    rows = len(first.lengths) + len(second.lengths)
    joined = decoder.model.new_cache(rows, capacity)
    joined.load_(first, 0)
    joined.load_(second, len(first.lengths))
    return joined
