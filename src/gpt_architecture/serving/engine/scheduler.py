"""Qui passe, et combien il lit : la file d'attente, et le partage d'un pas.

Rien ici ne connaît le modèle ni les fils : ce sont des fonctions de l'état des demandes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence

from gpt_architecture.serving.engine.jobs import Job
from gpt_architecture.serving.engine.slots import shared_prefix

MIN_SHARED = 16
"""Tokens d'un début commun en deçà desquels attendre qu'un autre les lise ne vaut rien."""

_RESERVE = 4  # un client seul laisse cette fraction de la file aux autres


class FairQueue:
    """Les demandes qui attendent : chacun son tour entre clients, dans l'ordre pour un client.

    Args:
        limit: demandes au plus.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._clients = OrderedDict[str, deque[Job]]()  # le premier est servi le premier

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._clients.values())

    def __iter__(self) -> Iterator[Job]:
        for jobs in list(self._clients.values()):
            yield from tuple(jobs)

    def has_room(self, client: str, *, free: int = 0) -> bool:
        """Vrai si ce client peut attendre ; le dernier quart de la file va aux moins pressants.

        Args:
            free: places libres, que la file va remplir au prochain pas : elles l'allongent.
        """
        own, limit = len(self._clients.get(client, ())), self._limit + free
        return len(self) < limit and own < limit - self._limit // _RESERVE

    def push(self, job: Job) -> None:
        """Met une demande au bout de la file de son client."""
        self._clients.setdefault(job.request.client, deque()).append(job)

    def pop(self, running: Counter[str]) -> Job:
        """La demande suivante : du client qui tient le moins de places, puis qui attend son tour.

        Args:
            running: places tenues par chaque client.
        """
        client = min(self._clients, key=lambda name: running[name])
        job = self._clients[client].popleft()
        self._clients.move_to_end(client)
        if not self._clients[client]:
            del self._clients[client]
        return job

    def remove(self, job: Job) -> None:
        """Retire une demande."""
        jobs = self._clients[job.request.client]
        jobs.remove(job)
        if not jobs:
            del self._clients[job.request.client]


def share(jobs: Sequence[Job], budget: int) -> list[tuple[Job, int]]:
    """Combien de tokens chaque demande lit pendant ce pas.

    Celles qui écrivent en lisent un chacune. `budget` tokens de début vont aux autres : la moitié
    aux plus courts restes, pour qu'un long début ne fasse pas attendre les petits, et le reste
    d'abord à la plus ancienne, pour que les petits ne fassent pas attendre sans fin le long. Une
    demande dont une autre lit justement le début attend de le recopier.

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


def _without_twins(jobs: Sequence[Job]) -> list[Job]:
    """Écarte celles dont une plus ancienne est en train de lire le début."""
    kept = list[Job]()
    for job in jobs:
        gains = (shared_prefix(job.ids, other.ids) - job.computed for other in kept)
        if job.scores is not None or all(gain < MIN_SHARED for gain in gains):
            kept.append(job)
    return kept
