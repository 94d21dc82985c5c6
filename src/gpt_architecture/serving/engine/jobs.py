"""Une demande acceptée, telle que le moteur la fait avancer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.decoding.sequence import Continuation, TokenScore
from gpt_architecture.serving.engine.messenger import Keep
from gpt_architecture.serving.engine.requests import (
    EngineRequest,
    Event,
    Failed,
    Finished,
    FinishedReason,
    OnEvent,
    Produced,
    PromptScored,
)

logger = logging.getLogger(__name__)


class Job:
    """Une demande, sa suite, et ce qui en est lu. Seul `cancelled` est écrit d'un autre fil.

    Args:
        number: son numéro.
        request: la demande.
        sequence: la suite à écrire ; None : rien à écrire.
        on_event: reçoit les événements.
        keep: garde la remise d'un événement, qui se fera hors du fil du moteur.
    """

    def __init__(
        self,
        number: int,
        request: EngineRequest,
        sequence: Continuation | None,
        on_event: OnEvent,
        keep: Keep,
    ) -> None:
        self.id, self.request, self.sequence = number, request, sequence
        self.ids = np.array(request.prompt, dtype=np.int64)
        self.started = 0.0  # instant où elle a reçu sa place
        self.cancelled = self.finished = False
        self.slot = -1
        self.cached = self.computed = 0  # tokens lus, dont trouvés dans le cache
        self.scores: list[TokenScore | None] | None = (
            None if request.score_prompt is None else [None]
        )
        self._on_event, self._keep = on_event, keep

    @property
    def trace(self) -> dict[str, str]:
        """De quoi dire au journal de quelle requête il s'agit."""
        return {"request_id": self.request.request_id}

    @property
    def completion(self) -> int:
        """Tokens écrits."""
        return 0 if self.sequence is None else len(self.sequence.tokens)

    @property
    def reading(self) -> int:
        """Tokens à lire avant de choisir le suivant ; s'il n'y en a pas, le dernier est inutile."""
        return len(self.ids) - (self.sequence is None) + self.completion - self.computed

    def next_tokens(self, count: int) -> Sequence[int]:
        """Les `count` prochains tokens à lire."""
        if self.computed < len(self.ids):
            return self.request.prompt[self.computed : self.computed + count]
        return [] if self.sequence is None else self.sequence.tokens[-count:]

    def ending(self, now: float) -> FinishedReason | None:
        """Pourquoi elle doit s'arrêter maintenant ; None : elle continue."""
        if self.cancelled:
            return "cancelled"
        deadline = self.request.deadline
        return "timeout" if deadline is not None and now >= deadline else None

    def begin(self) -> None:
        """Note ce qui l'est déjà : un début d'un seul token."""
        if self.scores is not None and len(self.ids) == 1:
            self._give_scores(self.scores)

    def score_(self, logits: Tensor, count: int) -> None:
        """Note, si c'est voulu, ce qui suit les `count` derniers tokens lus ; logits (T, V)."""
        if self.scores is None:
            return
        first = self.computed - count + 1
        following = self.request.prompt[first : self.computed + 1]
        self.scores += scores_of(
            logits[: len(following)], following, self.request.score_prompt or 0
        )
        if len(self.scores) == len(self.ids):
            self._give_scores(self.scores)

    def _give_scores(self, scores: Sequence[TokenScore | None]) -> None:
        self.scores = None
        self.emit(PromptScored(scores=tuple(scores)))

    def emit(self, event: Event) -> None:
        """Donne un événement ; si `on_event` échoue, la demande est abandonnée."""
        if self.finished:
            return
        self.finished = isinstance(event, Finished | Failed)
        is_next = isinstance(event, Produced) and self.completion > 1
        self._keep(partial(self._deliver, event), urgent=self.finished or not is_next)

    def _deliver(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            logger.exception(
                "on_event a échoué, la demande %d est abandonnée", self.id, extra=self.trace
            )
            self.cancelled = True

    def finish(self, reason: FinishedReason) -> None:
        """Donne l'événement de fin."""
        self.emit(
            Finished(
                reason=reason,
                prompt_tokens=len(self.ids),
                completion_tokens=self.completion,
                cached_tokens=self.cached,
            )
        )


def requests_of(jobs: Iterable[Job]) -> str:
    """Les requêtes HTTP de demandes, pour le journal."""
    return ", ".join(dict.fromkeys(job.request.request_id or "?" for job in jobs)) or "aucune"


def scores_of(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Probabilité de chaque token sous les logits (T, V) qui le précèdent."""
    if not tokens:
        return []
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    ids = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    chosen = logprobs.gather(1, ids)[:, 0].tolist()
    best: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if top:
        values, places = logprobs.topk(min(top, logprobs.size(1)), dim=-1)
        best = [
            tuple(zip(row, found, strict=True))
            for row, found in zip(places.tolist(), values.tolist(), strict=True)
        ]
    return [
        TokenScore(token=token, logprob=logprob, top=others)
        for token, logprob, others in zip(tokens, chosen, best, strict=True)
    ]
