"""Le pilote : le cache d'un modèle, ce qu'il contient, et ce qu'il reste à lire.

Tout décodage y passe : un lot, une recherche, une vérification de propositions ou une notation lui
donnent leurs séquences entières, et il ne lit que ce qui a changé. Quand une séquence emplit la
fenêtre, les positions apprises de GPT-2 interdisent de faire glisser son cache : sa fenêtre avance
d'un token et elle est relue entière, comme le fait l'oracle.

Formes : B séquences, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.decoding.cache_reader import CacheReader, Part
from gpt_architecture.decoding.sequence import Continuation, Observer, Piece

CHUNK = 512
"""Tokens d'une invite lus à la fois : au-delà la mémoire croît, sans gain de vitesse."""


class Driver:
    """Rend les logits qui suivent des séquences, en ne lisant que ce qui a changé.

    On lui donne toujours les séquences entières : il garde le début que chacune partage avec la
    lecture précédente et oublie le reste. Un token rejeté ou une fenêtre qui avance ne demandent
    donc rien de particulier.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens lus, au plus ; None : tout le contexte du modèle.
        capacity: positions que les séquences peuvent atteindre ; None : la fenêtre.
        chunk: tokens d'une invite lus à la fois.
        tokenwise: voir `CacheReader`.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        window: int | None = None,
        capacity: int | None = None,
        chunk: int = CHUNK,
        tokenwise: bool = False,
    ) -> None:
        limit = model.cfg.context_length
        self.model = model
        self.window = limit if window is None else min(window, limit)
        self._capacity = self.window if capacity is None else min(self.window, capacity)
        self._chunk = chunk
        self._reader = CacheReader(model, tokenwise=tokenwise)
        self._rows = list[list[int]]()  # les tokens présents dans le cache
        self._cache: KVCache | None = None

    @property
    def is_tokenwise(self) -> bool:
        """Voir `CacheReader`."""
        return self._reader.is_tokenwise

    def read(self, rows: Sequence[Sequence[int]], *, count: int = 1) -> list[Tensor]:
        """Logits (count, V) de chaque séquence, après chacun de ses `count` derniers tokens.

        Args:
            rows: identifiants de chaque séquence, de même longueur, ou qui en ont autant à lire ;
                au-delà de la fenêtre, seuls les derniers comptent.
            count: au moins 1, au plus la fenêtre.
        """
        cropped = [list(row[-self.window :]) for row in rows]
        known = self._known(cropped, count)
        cache = self._prepare(known)
        self._rows = [row[:size] for row, size in zip(cropped, known, strict=True)]
        # Vrai même si la lecture est interrompue ; `_rows` n'est complet qu'à la fin.
        left = len(cropped[0]) - known[0]
        last = left if count == 1 else left - count
        found = list[Tensor]()
        for first, end in pairwise([*range(0, last, self._chunk), last]):
            found = self._run(cache, _parts(cropped, known, first, end))
        if count > 1:
            found = self._run(cache, _parts(cropped, known, last, left, every=True))
        self._rows = cropped
        return found

    def append_(
        self, prompts: Sequence[Sequence[int]], places: Sequence[int], capacity: int
    ) -> list[Tensor]:
        """Ajoute des séquences à la suite des autres ; rend les logits (V,) qui suivent chacune.

        Args:
            prompts: leurs invites distinctes, de toutes longueurs, au plus la fenêtre.
            places: rang, dans `prompts`, de l'invite de chaque séquence.
            capacity: positions qu'elles peuvent atteindre.
        """
        cache, logits = self._prefill(prompts, min(self.window, capacity))
        cache.select_(places)
        self._cache = cache if self._cache is None else self._joined(self._cache, cache)
        self._rows += [list(prompts[place]) for place in places]
        return [logits[place] for place in places]

    def read_whole(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits (V,) qui suivent des séquences plus longues que la fenêtre, non gardées."""
        return self._prefill([row[-self.window :] for row in rows], self.window)[1]

    def past(self, row: Sequence[int]) -> KVCache | None:
        """Le cache de la seule séquence lue, ramené à ses tokens sauf le dernier, s'il les a."""
        size = len(row) - 1
        if self._cache is None or len(self._rows) != 1 or self._rows[0][:size] != list(row[:size]):
            return None
        self._rows[0] = self._rows[0][:size]
        self._cache.rewind_([size])
        return self._cache

    def select_(self, rows: Sequence[int]) -> None:
        """Garde, range ou répète des séquences : la nouvelle i est l'ancienne `rows[i]`."""
        if self._cache is not None:
            self._cache.select_(rows)
            self._rows = [self._rows[row] for row in rows]

    def _known(self, rows: Sequence[list[int]], count: int) -> list[int]:
        """Tokens de chaque séquence à garder du cache : toutes en ont alors autant à lire."""
        if len(rows) != len(self._rows):
            return [0] * len(rows)
        pairs = zip(rows, self._rows, strict=True)
        left = max(count, *(len(new) - _common(new, old) for new, old in pairs))
        return [max(0, len(row) - left) for row in rows]

    def _prepare(self, known: Sequence[int]) -> KVCache:
        if self._cache is None or len(self._rows) != len(known):
            self._cache = self.model.new_cache(len(known), self._capacity)
        self._cache.rewind_(known)
        return self._cache

    def _prefill(
        self, prompts: Sequence[Sequence[int]], capacity: int
    ) -> tuple[KVCache, list[Tensor]]:
        """Lit des invites ; rend leur cache et, pour chacune, les logits (V,) qui la suivent."""
        longest = max(len(prompt) for prompt in prompts)
        cache = self.model.new_cache(len(prompts), max(capacity, longest))
        found = [torch.empty(0)] * len(prompts)
        for first in range(0, longest, self._chunk):
            parts = [
                Part(row=row, tokens=prompt[first : first + self._chunk])
                for row, prompt in enumerate(prompts)
                if len(prompt) > first
            ]
            for part, logits in zip(parts, self._run(cache, parts), strict=True):
                found[part.row] = logits[0]
        return cache, found

    def _run(self, cache: KVCache, parts: Sequence[Part]) -> list[Tensor]:
        with torch.inference_mode(), evaluation_mode(self.model):
            return self._reader.run(cache, parts)

    def _joined(self, first: KVCache, second: KVCache) -> KVCache:
        """Un cache qui porte les lignes de l'un, puis celles de l'autre."""
        rows = len(first.lengths) + len(second.lengths)
        joined = self.model.new_cache(rows, max(first.capacity, second.capacity))
        joined.load_(first, 0)
        joined.load_(second, len(first.lengths))
        return joined


class BatchDecoder:
    """Fait avancer des séquences ensemble : une passe avant par token, pour toutes.

    Une séquence peut entrer ou finir à tout moment ; aucune ne change ce que les autres écrivent.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens relus, au plus ; None : tout le contexte du modèle.
        chunk: tokens d'une invite lus à la fois.
    """

    def __init__(self, model: CausalLM, *, window: int | None = None, chunk: int = CHUNK) -> None:
        self._driver = Driver(model, window=window, chunk=chunk)
        self._cached = list[_Line]()  # dans l'ordre des lignes du cache
        self._sliding = list[_Line]()  # plus longues que la fenêtre

    @property
    def active(self) -> tuple[Continuation, ...]:
        """Les séquences qui n'ont pas fini."""
        return tuple(line.sequence for line in (*self._cached, *self._sliding))

    def add(self, sequences: Sequence[Continuation]) -> None:
        """Lit les invites de nouvelles séquences ; un préfixe commun n'est lu qu'une fois."""
        fitting = [each for each in sequences if self._fits(each)]
        sliding = [_Line(each) for each in sequences if not self._fits(each)]
        self._sliding += sliding
        self._slide(sliding)
        if not fitting:
            return
        prompts = list(dict.fromkeys(each.ids for each in fitting))
        # La dernière position produite n'est jamais relue.
        capacity = max(len(each.prompt) + each.config.max_tokens for each in fitting)
        place = {prompt: row for row, prompt in enumerate(prompts)}
        logits = self._driver.append_(prompts, [place[each.ids] for each in fitting], capacity)
        self._cached += [_Line(each, row) for each, row in zip(fitting, logits, strict=True)]

    def remove(self, sequence: Continuation) -> None:
        """Abandonne une séquence."""
        self._sliding = [each for each in self._sliding if each.sequence is not sequence]
        self._keep([row for row, each in enumerate(self._cached) if each.sequence is not sequence])

    def step(self, observer: Observer | None = None) -> Iterator[tuple[Continuation, Piece]]:
        """Un token de plus pour chaque séquence ; celles qui finissent s'en vont."""
        for each in (*self._cached, *self._sliding):
            yield each.sequence, each.sequence.step(each.logits, observer)
        self._sort()
        self._advance()

    def _fits(self, sequence: Continuation) -> bool:
        return len(sequence.prompt) + len(sequence.tokens) <= self._driver.window

    def _sort(self) -> None:
        """Oublie les suites finies ; celles qui dépassent la fenêtre quittent le cache."""
        going = [each for each in self._cached if each.sequence.finish is None]
        sliding = [each for each in self._sliding if each.sequence.finish is None]
        self._sliding = sliding + [each for each in going if not self._fits(each.sequence)]
        self._keep(
            [
                row
                for row, each in enumerate(self._cached)
                if each.sequence.finish is None and self._fits(each.sequence)
            ]
        )

    def _keep(self, rows: list[int]) -> None:
        self._cached = [self._cached[row] for row in rows]
        self._driver.select_(rows)

    def _advance(self) -> None:
        """Calcule les logits de la prochaine position de chaque séquence."""
        if self._cached:
            found = self._driver.read([each.sequence.ids for each in self._cached])
            for each, logits in zip(self._cached, found, strict=True):
                each.logits = logits[-1]
        self._slide(self._sliding)

    def _slide(self, lines: Sequence[_Line]) -> None:
        if lines:
            found = self._driver.read_whole([each.sequence.ids for each in lines])
            for each, row in zip(lines, found, strict=True):
                each.logits = row


class _Line:
    """Une séquence d'un lot, et les logits (V,) de sa prochaine position."""

    def __init__(self, sequence: Continuation, logits: Tensor | None = None) -> None:
        self.sequence = sequence
        self.logits = torch.empty(0) if logits is None else logits


def _parts(
    rows: Sequence[list[int]], known: Sequence[int], first: int, end: int, *, every: bool = False
) -> list[Part]:
    """De chaque séquence, ce qui va de `first` à `end` après ce qui est connu."""
    return [
        Part(row=row, tokens=ids[size + first : size + end], every=every)
        for row, (ids, size) in enumerate(zip(rows, known, strict=True))
    ]


def _common(first: list[int], second: list[int]) -> int:
    """Longueur du préfixe commun."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    return next(i for i in range(size) if first[i] != second[i])
