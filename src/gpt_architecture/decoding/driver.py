"""Le pilote : le cache d'un modèle, ce qu'il contient, et ce qu'il reste à lire.

Tout décodage y passe : un lot, une recherche, une vérification de propositions ou une notation lui
donnent leurs suites entières, et il ne lit que ce qui a changé. Quand une suite emplit la fenêtre,
les positions apprises de GPT-2 interdisent de faire glisser son cache : sa fenêtre avance d'un
token et elle est relue entière, comme le fait l'oracle.

Formes : B suites, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.decoding.sequence import Continuation, Observer, Piece

CHUNK = 512
"""Tokens d'un début lus à la fois : au-delà la mémoire croît, sans gain de vitesse."""


@runtime_checkable
class TokenwiseLM(Protocol):
    """Un modèle qui lit plusieurs tokens avec les bits d'une lecture un par un."""

    def read_apart(self, tokens: Sequence[int], cache: KVCache) -> Tensor | None:
        """Logits (T, V) qui suivent chacun ; None : il ne le peut pas, et n'a rien lu."""
        ...


class Driver:
    """Rend les logits qui suivent des suites, en ne lisant que ce qui a changé.

    On lui donne toujours les suites entières : il garde le début que chacune partage avec la
    lecture précédente et oublie le reste. Un token rejeté ou une fenêtre qui avance ne demandent
    donc rien de particulier.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens lus, au plus ; None : tout le contexte du modèle.
        capacity: positions que les suites peuvent atteindre ; None : la fenêtre.
        chunk: tokens d'un début lus à la fois.
        tokenwise: plusieurs logits d'une suite seule ont les bits d'une lecture token par token,
            si le modèle le sait : vérifier des propositions ne change alors rien au texte.
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
        self._tokenwise: TokenwiseLM | None = None
        if tokenwise and isinstance(model, TokenwiseLM):
            self._tokenwise = model
        self._rows = list[list[int]]()  # les tokens présents dans le cache
        self._cache: KVCache | None = None

    @property
    def is_tokenwise(self) -> bool:
        """Vrai si plusieurs tokens d'une suite seule ont les bits d'une lecture un par un."""
        return self._tokenwise is not None

    def read(self, rows: Sequence[Sequence[int]], *, count: int = 1) -> Tensor:
        """Logits (B, count, V) qui suivent chacun des `count` derniers tokens.

        Args:
            rows: identifiants de chaque suite, de même longueur, ou qui en ont autant à lire ;
                au-delà de la fenêtre, seuls les derniers comptent.
            count: au moins 1, au plus la fenêtre.
        """
        cropped = [list(row[-self.window :]) for row in rows]
        known = self._known(cropped, count)
        cache = self._prepare(known)
        self._rows = [row[:size] for row, size in zip(cropped, known, strict=True)]
        # Vrai même si la lecture est interrompue ; `_rows` n'est complet qu'à la fin.
        left = len(cropped[0]) - known[0]
        # Un début de texte ne demande que ses derniers logits : la tête coûte cher ailleurs.
        last = left if count == 1 else left - count
        logits = torch.empty(0)
        for first, end in pairwise([*range(0, last, self._chunk), last]):
            logits = self._forward(_parts(cropped, known, first, end), cache, last_only=True)
        if count > 1:
            logits = self._read_all(_parts(cropped, known, last, left), cache)
        self._rows = cropped
        return logits

    def append_(
        self, prompts: Sequence[Sequence[int]], places: Sequence[int], capacity: int
    ) -> list[Tensor]:
        """Ajoute des suites à la suite des autres ; rend les logits (V,) qui suivent chacune.

        Args:
            prompts: leurs débuts distincts, de toutes longueurs, au plus la fenêtre.
            places: le début de chaque suite.
            capacity: positions qu'elles peuvent atteindre.
        """
        cache, logits = self._prefill(prompts, min(self.window, capacity))
        cache.select_(places)
        self._cache = cache if self._cache is None else self._joined(self._cache, cache)
        self._rows += [list(prompts[place]) for place in places]
        return [logits[place] for place in places]

    def read_whole(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits (V,) qui suivent des suites plus longues que la fenêtre, dont rien n'est gardé."""
        return self._prefill([row[-self.window :] for row in rows], self.window)[1]

    def past(self, row: Sequence[int]) -> KVCache | None:
        """Le cache de la seule suite lue, ramené à tous ses tokens sauf le dernier, s'il les a."""
        size = len(row) - 1
        if self._cache is None or len(self._rows) != 1 or self._rows[0][:size] != list(row[:size]):
            return None
        self._rows[0] = self._rows[0][:size]
        self._cache.rewind_([size])
        return self._cache

    def select_(self, rows: Sequence[int]) -> None:
        """Garde, range ou répète des suites : la nouvelle i est l'ancienne `rows[i]`."""
        if self._cache is not None:
            self._cache.select_(rows)
            self._rows = [self._rows[row] for row in rows]

    def _known(self, rows: Sequence[list[int]], count: int) -> list[int]:
        """Tokens de chaque suite à garder du cache : toutes en ont alors autant à lire."""
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
        """Lit des débuts ; rend leur cache et, pour chacun, les logits (V,) de la suite.

        Les plus courts sont complétés à droite : l'ordre causal cache ce qui est au-delà.
        """
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        cache = self.model.new_cache(len(prompts), max(capacity, longest))
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        found = dict[int, Tensor]()
        for first in range(0, longest, self._chunk):
            last = min(first + self._chunk, longest)
            at = [min(max(length - 1 - first, 0), last - first - 1) for length in lengths]
            logits = self._forward([row[first:last] for row in padded], cache, at=at)  # (B, 1, V)
            ending = (row for row, length in enumerate(lengths) if first < length <= last)
            found |= {row: logits[row, 0] for row in ending}
        cache.rewind_(lengths)
        return cache, [found[row] for row in range(len(prompts))]

    def _joined(self, first: KVCache, second: KVCache) -> KVCache:
        """Un cache qui porte les lignes de l'un, puis celles de l'autre."""
        rows = len(first.lengths) + len(second.lengths)
        joined = self.model.new_cache(rows, max(first.capacity, second.capacity))
        joined.load_(first, 0)
        joined.load_(second, len(first.lengths))
        return joined

    def _read_all(self, tokens: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Logits (B, T, V) qui suivent chaque token."""
        if len(tokens) == 1 and self._tokenwise is not None:
            with torch.inference_mode():
                logits = self._tokenwise.read_apart(tokens[0], cache)
            if logits is not None:
                return logits.unsqueeze(0)
        return self._forward(tokens, cache)

    def _forward(
        self,
        tokens: Sequence[Sequence[int]],
        cache: KVCache,
        *,
        at: Sequence[int] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        device = cache.storage.device
        ids = torch.tensor(tokens, dtype=torch.int64, device=device)
        if last_only:
            at = [ids.size(1) - 1] * ids.size(0)
        chosen = None if at is None else torch.tensor(at, dtype=torch.int64, device=device)
        with torch.inference_mode(), evaluation_mode(self.model):
            return self.model(ids, cache, at=chosen)


class BatchDecoder:
    """Fait avancer des suites ensemble : un passage du modèle par token, pour toutes.

    Une suite peut entrer ou finir à tout moment ; aucune ne change ce que les autres écrivent.

    Args:
        model: rend des logits (B, T, V).
        window: derniers tokens relus, au plus ; None : tout le contexte du modèle.
        chunk: tokens d'un début lus à la fois.
    """

    def __init__(self, model: CausalLM, *, window: int | None = None, chunk: int = CHUNK) -> None:
        self._driver = Driver(model, window=window, chunk=chunk)
        self._cached = list[_Line]()  # dans l'ordre des lignes du cache
        self._sliding = list[_Line]()  # plus longues que la fenêtre

    @property
    def active(self) -> tuple[Continuation, ...]:
        """Les suites qui n'ont pas fini."""
        return tuple(line.sequence for line in (*self._cached, *self._sliding))

    def add(self, sequences: Sequence[Continuation]) -> None:
        """Lit les débuts de nouvelles suites ; un début commun n'est lu qu'une fois."""
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
        """Abandonne une suite."""
        self._sliding = [each for each in self._sliding if each.sequence is not sequence]
        self._keep([row for row, each in enumerate(self._cached) if each.sequence is not sequence])

    def step(self, observer: Observer | None = None) -> Iterator[tuple[Continuation, Piece]]:
        """Un token de plus pour chaque suite ; celles qui finissent s'en vont."""
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
        """Calcule les logits de la prochaine position de chaque suite."""
        if self._cached:
            found = self._driver.read([each.sequence.ids for each in self._cached])  # (B, 1, V)
            for each, row in zip(self._cached, found[:, -1], strict=True):
                each.logits = row
        self._slide(self._sliding)

    def _slide(self, lines: Sequence[_Line]) -> None:
        if lines:
            found = self._driver.read_whole([each.sequence.ids for each in lines])
            for each, row in zip(lines, found, strict=True):
                each.logits = row


class _Line:
    """Une suite d'un lot, et les logits (V,) de sa prochaine position."""

    def __init__(self, sequence: Continuation, logits: Tensor | None = None) -> None:
        self.sequence = sequence
        self.logits = torch.empty(0) if logits is None else logits


def _parts(
    rows: Sequence[list[int]], known: Sequence[int], first: int, end: int
) -> list[list[int]]:
    """De chaque suite, ce qui va de `first` à `end` après ce qui est connu."""
    return [row[size + first : size + end] for row, size in zip(rows, known, strict=True)]


def _common(first: list[int], second: list[int]) -> int:
    """Longueur du début commun."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    return next(i for i in range(size) if first[i] != second[i])
