"""Des séquences courtes notées ensemble : un début que plusieurs partagent est lu une fois.

Les séquences forment un arbre, lu étage par étage : à l'étage d, chaque branche lit son token de
rang d. Quand une branche se divise, ce que le cache en garde est recopié. Les notes sont celles de
`likelihood.score_spans`, qui relit chaque séquence entière et en est l'oracle.

Formes : N branches d'un étage, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from gpt_architecture.core.kv_cache import CacheView, KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.errors import NonFiniteError
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_LOGITS,
    MAX_ROWS,
    Crew,
    Span,
    SpanScore,
    shared_scores,
)
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

TOKENS_PER_ROW = 16
"""Branches lues ensemble pour une séquence d'un lot : elles n'y ont qu'un token chacune."""

MAX_CACHE = 1 << 28
"""Valeurs d'un cache, au plus : 1 Gio en fp32."""

CACHED_LOGITS = 1 << 21
"""Logits dont la somme se fait à la fois : 8 Mio en fp32, ce qu'un cache de processeur garde."""

Branch = list[int]
"""Les rangs des séquences qui ont les mêmes tokens jusqu'ici."""


@fastest_matmul()
def score_tree(
    model: CausalLM,
    spans: Sequence[Span],
    *,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int], None] | None = None,
    crew: Crew = ALONE,
) -> list[SpanScore]:
    """Note chaque séquence ; voir `score_spans`, dont les arguments et les notes sont les mêmes.

    Raises:
        NonFiniteError: logits NaN ou infinis.
    """
    scorer = _Scorer(model, spans, on_progress)
    order = sorted(
        (rank for rank, span in enumerate(spans) if span.scored > 0),
        key=lambda rank: tuple(spans[rank].tokens),  # les voisines partagent le plus
    )
    if order:
        longest = max(len(spans[rank].tokens) for rank in order) - 1
        held = 2 * model.cfg.n_layers * model.cfg.emb_dim * longest
        most = min(MAX_CACHE // held, MAX_LOGITS // model.cfg.vocab_size)
        rows = max(1, min(max_rows * TOKENS_PER_ROW, most, len(order)))
        with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
            cache = model.new_cache(rows, longest)
            groups = _groups(spans, order, rows)
            for first in range(0, len(groups), crew.size):
                turn = groups[first : first + crew.size]
                if crew.rank < len(turn):
                    scorer.read(turn[crew.rank], cache)
                scorer.share(turn, crew)
    return scorer.scores()


def _groups(spans: Sequence[Span], order: Sequence[int], rows: int) -> list[list[int]]:
    """Coupe des séquences triées en arbres dont aucun étage n'a plus de `rows` branches."""
    groups, widths, last = list[list[int]](), list[int](), list[int]()
    for rank in order:
        tokens = spans[rank].tokens[:-1]  # le dernier n'est pas lu
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(tokens, last, strict=False))
        shared = sum(1 for _ in alike)
        if not groups or rows in widths[shared : len(tokens)]:
            groups.append([])
            widths, shared = [], 0
        widths += [0] * (len(tokens) - len(widths))
        for depth in range(shared, len(tokens)):
            widths[depth] += 1
        groups[-1].append(rank)
        last = list(tokens)
    return groups


class _Scorer:
    """Les notes de toutes les séquences, qui se complètent étage par étage."""

    def __init__(
        self, model: CausalLM, spans: Sequence[Span], on_progress: Callable[[int], None] | None
    ) -> None:
        self._model, self._spans, self._on_progress = model, spans, on_progress
        self._log_probs = [0.0] * len(spans)
        self._greedy = [True] * len(spans)

    def scores(self) -> list[SpanScore]:
        """Les notes, dans l'ordre des séquences."""
        return [
            SpanScore(log_prob=log_prob, is_greedy=greedy)
            for log_prob, greedy in zip(self._log_probs, self._greedy, strict=True)
        ]

    def share(self, turn: Sequence[Sequence[int]], crew: Crew) -> None:
        """Donne aux autres processus les notes de son groupe, et prend les leurs."""
        if crew.size == 1:
            return
        mine = turn[crew.rank] if crew.rank < len(turn) else []
        own = [SpanScore(log_prob=self._log_probs[r], is_greedy=self._greedy[r]) for r in mine]
        found = shared_scores(crew, [*map(len, turn)], own)
        ranks = [rank for group in turn for rank in group]
        for rank, score in zip(ranks, found, strict=True):
            self._log_probs[rank], self._greedy[rank] = score.log_prob, score.is_greedy
        if self._on_progress is not None:
            self._on_progress(sum(self._spans[rank].scored for rank in {*ranks} - {*mine}))

    def read(self, ranks: Sequence[int], cache: KVCache) -> None:
        """Lit et note des séquences, au plus autant que le cache a de lignes."""
        cache.reset()
        branches = [list(ranks)]
        depth = 0
        while branches := self._divide(branches, depth, cache):
            tokens = [self._spans[branch[0]].tokens[depth] for branch in branches]
            read = torch.tensor(tokens, device=self._model.device).unsqueeze(1)  # (N, 1)
            logits = self._model(read, CacheView(cache, range(len(branches))))[:, 0]  # (N, V)
            depth += 1
            self._note(branches, depth, logits)

    def _divide(self, branches: Sequence[Branch], depth: int, cache: KVCache) -> list[Branch]:
        """Les branches du prochain étage, chacune à sa ligne du cache, sans trou.

        Une branche qui continue garde sa ligne ; celles qui s'en séparent, puis les dernières
        lignes, prennent la place de celles qui finissent.
        """
        found: list[Branch] = [[] for _ in branches]
        parted = list[tuple[int, Branch]]()
        for line, branch in enumerate(branches):
            parts = dict[int, Branch]()
            for rank in branch:
                if len(self._spans[rank].tokens) - 1 > depth:
                    parts.setdefault(self._spans[rank].tokens[depth], []).append(rank)
            found[line], *others = [*parts.values()] or [[]]
            parted += [(line, other) for other in others]
        free = [line for line, branch in enumerate(found) if not branch]
        sources, targets = list[int](), list[int]()
        for line, branch in parted:
            target = free.pop(0) if free else len(found)
            found[target : target + 1] = [branch]
            sources.append(line)
            targets.append(target)
        _copy(cache, sources, targets, depth)
        sources, targets = [], []
        for target in free:
            while found and not found[-1]:
                found.pop()
            if target < len(found):
                sources.append(len(found) - 1)
                targets.append(target)
                found[target] = found.pop()
        _copy(cache, sources, targets, depth)
        return found

    def _note(self, branches: Sequence[Branch], depth: int, logits: Tensor) -> None:
        """Ajoute à chaque séquence le log p de son token de rang `depth`, s'il est noté."""
        wanted = [
            (line, rank, self._spans[rank].tokens[depth])
            for line, branch in enumerate(branches)
            for rank in branch
            if depth >= len(self._spans[rank].tokens) - self._spans[rank].scored
        ]
        if not wanted:
            return
        lines, ranks, tokens = zip(*wanted, strict=True)
        values = logits.float()
        chosen = values[list(lines), list(tokens)].double().cpu()
        size = max(1, CACHED_LOGITS // values.size(1))
        parts = [values[line : line + size] for line in range(0, len(values), size)]
        sums, tops = (
            torch.cat(each).double().cpu()[list(lines)]
            for each in zip(*((part.logsumexp(-1), part.amax(-1)) for part in parts), strict=True)
        )
        log_probs = chosen - sums
        rivals = [*{line for line, top in zip(lines, chosen == tops, strict=True) if top}]
        best = dict(zip(rivals, values[rivals].argmax(-1).tolist(), strict=True))
        for line, rank, token, log_prob in zip(
            lines, ranks, tokens, log_probs.tolist(), strict=True
        ):
            if not math.isfinite(log_prob):
                raise NonFiniteError(f"le modèle donne à un token la log-probabilité {log_prob}")
            self._log_probs[rank] += log_prob
            self._greedy[rank] &= best.get(line) == token
        if self._on_progress is not None:
            self._on_progress(len(wanted))


def _copy(cache: KVCache, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
    """Chaque ligne `targets[i]` devient les `length` premières positions de `sources[i]`."""
    if targets and length:
        stored = cache.storage[:, :, :, :, :length]
        stored[:, :, list(targets)] = stored[:, :, list(sources)]
    for target in targets:
        cache.set_length_(target, length)
