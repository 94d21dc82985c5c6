"""Les demandes en cours, et le pas qui les fait toutes avancer. Aucun fil ici : voir `engine`."""

from __future__ import annotations

import logging
import time
from collections import Counter

from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.errors import reason
from gpt_architecture.serving.jobs import Job
from gpt_architecture.serving.passes import Part, Passes
from gpt_architecture.serving.requests import Failed, FinishedReason, Observed, Produced
from gpt_architecture.serving.scheduler import share
from gpt_architecture.serving.slots import SlotPool

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Échecs du modèle à la suite avant de renoncer."""

_LAST_WEIGHT = 0.2  # poids de la dernière demande dans la durée moyenne


class Runner:
    """Fait avancer des demandes sur les places d'un cache.

    Args:
        model: rend des logits (B, T, V), en évaluation.
        slots: demandes qui avancent ensemble, au plus.
        rows: lignes du cache ; celles qui dépassent `slots` gardent des débuts déjà lus.
        capacity: positions d'une ligne.
        chunk: tokens de début lus par pas, à peu près ; None : ce qui convient au modèle.

    Attributes:
        running: les demandes en cours, de la plus ancienne à la plus récente.
        counts: ce qui a été fait (`steps`, `prompt`, `cached`, `hits`, `completion`, `failed`,
            `restarts`).
        finished: demandes finies, par raison.
        mean_seconds: durée moyenne des dernières demandes.
    """

    def __init__(
        self, model: CausalLM, *, slots: int, rows: int, capacity: int, chunk: int | None
    ) -> None:
        self.slots, self.running = slots, list[Job]()
        self.counts, self.finished = Counter[str](), Counter[FinishedReason]()
        self.mean_seconds = 1.0
        self._chunk = chunk
        self._failures = 0
        self._pool = SlotPool(model, rows, capacity)
        self._passes = Passes(model, self._pool)

    @property
    def has_room(self) -> bool:
        """Vrai si une place est libre."""
        return len(self.running) < self.slots

    @property
    def occupied(self) -> int:
        """Positions du cache que tiennent les demandes en cours."""
        return self._pool.occupied

    def warm_up(self) -> None:
        """Fait un passage, qui compile ce qui doit l'être."""
        self._passes.warm_up()
        self._pool.release(0, spoiled=True)

    def start(self, job: Job) -> None:
        """Donne une place à une demande, qui est dans `running`."""
        job.started = time.monotonic()
        job.slot, cached = self._pool.acquire(job.ids, reuse=job.scores is None)
        job.cached = job.computed = cached
        self.counts["prompt"] += len(job.ids)
        self.counts["cached"] += cached
        self.counts["hits"] += cached > 0
        job.begin()
        if job.reading == 0:
            self.end(job, "length")

    def dismiss(self, now: float) -> None:
        """Renvoie les demandes abandonnées et celles dont l'échéance est passée."""
        for job in list(self.running):
            if ending := job.ending(now):
                self.end(job, ending)

    def step(self) -> None:
        """Une lecture, et un token de plus pour chaque demande qui a tout lu.

        Raises:
            Exception: le modèle échoue pour la MAX_FAILURES-ième fois à la suite.
        """
        self._catch_up()
        chunk = self._passes.budget(self._writing) if self._chunk is None else self._chunk
        chosen = share(self.running, chunk)
        if not chosen:
            return
        parts = [
            Part(
                slot=job.slot,
                tokens=job.next_tokens(count),
                every=job.scores is not None,
            )
            for job, count in chosen
        ]
        try:
            logits = self._passes.run(parts)
        except Exception as error:
            self._restart(error)
            return
        self._failures = 0
        self.counts["steps"] += 1
        for (job, count), each in zip(chosen, logits, strict=True):
            self._advance(job, count, each)

    def end(self, job: Job, how: FinishedReason | Exception) -> None:
        """Dit comment une demande finit, puis rend sa place si elle en a une."""
        failed = isinstance(how, Exception)
        if isinstance(how, Exception):
            self.counts["failed"] += 1
            job.emit(Failed(error=how))
        else:
            self.finished[how] += 1
            job.finish(how)
        if job in self.running:
            self._pool.release(job.slot, spoiled=failed)
            self.running.remove(job)
            seconds = time.monotonic() - job.started
            self.mean_seconds += _LAST_WEIGHT * (seconds - self.mean_seconds)

    def abandon(self, error: Exception) -> None:
        """Plus rien n'avancera : toutes les demandes en cours échouent."""
        for job in self.running:
            self.counts["failed"] += 1
            job.emit(Failed(error=error))
        self.running.clear()

    @property
    def _writing(self) -> int:
        """Demandes qui ont lu leur début."""
        return sum(job.computed >= len(job.ids) for job in self.running)

    def _catch_up(self) -> None:
        """Recopie ce qu'une autre demande vient de lire d'un début commun."""
        for job in self.running:
            if job.computed < len(job.ids) - 1 and job.scores is None:
                gained = self._pool.extend_(job.slot, job.ids)
                self.counts["cached"] += gained
                self.counts["hits"] += job.cached == 0 and gained > 0
                job.computed += gained
                job.cached += gained

    def _advance(self, job: Job, count: int, logits: Tensor) -> None:
        """Ce qu'une demande fait de ses logits (T, V), après avoir lu `count` tokens."""
        job.computed += count
        try:
            job.score_(logits, count)
            if job.reading > 0:
                return
            if job.sequence is None:
                self.end(job, "length")
                return
            if job.request.observe:
                job.emit(Observed(logits=logits[-1].float().cpu().clone()))
            piece = job.sequence.step(logits[-1])
        except Exception as error:  # la demande seule : un filtre, une contrainte, un NaN
            logger.warning("demande %d : %s", job.id, reason(error))
            self.end(job, error)
            return
        self.counts["completion"] += 1
        job.emit(Produced(piece=piece))
        if piece.finish is not None:
            self.end(job, piece.finish)

    def _restart(self, error: Exception) -> None:
        """Après un échec du modèle : les demandes en cours échouent, leurs places sont vidées."""
        logger.error("échec du modèle, les places sont vidées", exc_info=error)
        self.counts["restarts"] += 1
        self._failures += 1
        for job in list(self.running):
            self.end(job, error)
        if self._failures >= MAX_FAILURES:
            raise error
