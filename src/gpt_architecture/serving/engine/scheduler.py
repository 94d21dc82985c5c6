"""Une demande acceptée, la file où elle attend, et ce qu'elle lit d'un pas.

Rien ici ne connaît le modèle ni les threads : ce sont des fonctions de l'état des demandes.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from gpt_architecture.decoding.sequence import Continuation, TokenScore, scores_of
from gpt_architecture.decoding.speculative import Speculation
from gpt_architecture.serving.engine.messages import (
    EngineRequest,
    Event,
    Failed,
    Finished,
    FinishedReason,
    Keep,
    OnEvent,
    Produced,
    PromptScored,
)
from gpt_architecture.serving.engine.slots import shared_prefix

logger = logging.getLogger(__name__)

MIN_SHARED = 16
"""Tokens d'un préfixe commun en deçà desquels attendre qu'un autre les lise ne vaut rien."""

PROMPT_TOKENS = 128
"""Tokens d'un pas, à peu près, quand des invites sont à lire."""

_LEAST = PROMPT_TOKENS // 4  # tokens d'invite d'un pas, au moins

_RESERVE = 4  # un client seul laisse cette fraction de la file aux autres


class EngineJob:
    """Une demande, sa séquence, et ce qui en est lu. Seul `cancelled` est écrit d'un autre thread.

    Args:
        number: son numéro.
        request: la demande.
        sequence: la séquence à écrire ; None : rien à écrire.
        on_event: reçoit les événements.
        keep: garde la remise d'un événement, qui se fera hors du thread du moteur.
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
        self._length = len(request.prompt)
        self.started = 0.0  # instant où elle a reçu son emplacement
        self.cancelled = self.finished = False
        self.slot = -1
        self.speculation: Speculation | None = None  # dès qu'elle a un emplacement
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
        if self.sequence is None:
            return self._length - 1 - self.computed
        return self._length + len(self.sequence.tokens) - self.computed

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
        """Note ce qui l'est déjà : une invite d'un seul token."""
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


def requests_of(jobs: Iterable[EngineJob]) -> str:
    """Les requêtes HTTP de demandes, pour le journal."""
    return ", ".join(dict.fromkeys(job.request.request_id or "?" for job in jobs)) or "aucune"


class FairQueue:
    """Les demandes qui attendent : chacun son tour entre clients, dans l'ordre pour un client.

    Args:
        limit: demandes au plus.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._clients = OrderedDict[str, deque[EngineJob]]()  # le premier est servi le premier

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._clients.values())

    def __iter__(self) -> Iterator[EngineJob]:
        for jobs in list(self._clients.values()):
            yield from tuple(jobs)

    def has_room(self, client: str, *, free: int = 0) -> bool:
        """Vrai si ce client peut attendre ; le dernier quart de la file va aux moins pressants.

        Args:
            free: emplacements libres, que la file va remplir au prochain pas : ils l'allongent.
        """
        own, limit = len(self._clients.get(client, ())), self._limit + free
        return len(self) < limit and own < limit - self._limit // _RESERVE

    def push(self, job: EngineJob) -> None:
        """Met une demande au bout de la file de son client."""
        self._clients.setdefault(job.request.client, deque()).append(job)

    def pop(self, running: Counter[str]) -> EngineJob:
        """La suivante : du client qui tient le moins d'emplacements, puis qui attend son tour.

        Args:
            running: emplacements tenus par chaque client.
        """
        client = min(self._clients, key=lambda name: running[name])
        job = self._clients[client].popleft()
        self._clients.move_to_end(client)
        if not self._clients[client]:
            del self._clients[client]
        return job

    def remove(self, job: EngineJob) -> None:
        """Retire une demande."""
        jobs = self._clients[job.request.client]
        jobs.remove(job)
        if not jobs:
            del self._clients[job.request.client]


def prompt_budget(writing: int, height: int) -> int:
    """Tokens d'invite à lire pendant un pas.

    Invites et écritures passent ensemble : les invites emplissent le dernier passage des écritures,
    puis quelques autres. Trop peu, et qui arrive attend son premier token ; trop, et qui écrit
    attend le suivant.

    Args:
        writing: demandes qui écrivent.
        height: tokens au plus d'un passage ; 0 : chaque part demande le sien.
    """
    unit = min(height, PROMPT_TOKENS) or PROMPT_TOKENS
    room = PROMPT_TOKENS // unit * unit - (writing % unit if height else 0)
    return room if room >= _LEAST else room + unit


def share(jobs: Sequence[EngineJob], budget: int) -> list[tuple[EngineJob, int]]:
    """Combien de tokens chaque demande lit pendant ce pas.

    Celles qui écrivent en lisent un chacune. `budget` tokens d'invite vont aux autres : la moitié
    aux plus courts restes, pour qu'une longue invite ne fasse pas attendre les petites, et le reste
    d'abord à la plus ancienne, pour que les petits ne fassent pas attendre sans fin le long. Une
    demande dont une autre lit justement l'invite attend de la recopier.

    Args:
        jobs: les demandes en cours, de la plus ancienne à la plus récente.
    """
    chosen = [(job, 1) for job in jobs if job.reading == 1]
    prompts = _without_twins([job for job in jobs if job.reading > 1])
    if not prompts:
        return chosen
    counts = dict.fromkeys((job.id for job in prompts), 0)
    oldest, *others = prompts
    others.sort(key=lambda job: job.reading)
    rest = budget
    for group, limit in ((others, budget // 2), ([oldest], budget), (others, budget)):
        for job in group:
            count = min(job.reading - counts[job.id], rest, max(0, limit - (budget - rest)))
            counts[job.id] += count
            rest -= count
    return chosen + [(job, counts[job.id]) for job in prompts if counts[job.id]]


def _without_twins(jobs: Sequence[EngineJob]) -> list[EngineJob]:
    """Écarte celles dont une plus ancienne est en train de lire l'invite."""
    kept = list[EngineJob]()
    for job in jobs:
        adapter = job.request.adapter
        twins = (other for other in kept if other.request.adapter is adapter)
        gains = (shared_prefix(job.ids, other.ids) - job.computed for other in twins)
        if job.scores is not None or all(gain < MIN_SHARED for gain in gains):
            kept.append(job)
    return kept
