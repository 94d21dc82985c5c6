"""Les demandes en cours, et le pas qui les fait toutes avancer. Aucun fil ici : voir `engine`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.serving.engine.drafts import Draft, Drafts
from gpt_architecture.serving.engine.jobs import Job, requests_of
from gpt_architecture.serving.engine.passes import Part, Passes
from gpt_architecture.serving.engine.requests import Failed, FinishedReason, Observed, Produced
from gpt_architecture.serving.engine.scheduler import share
from gpt_architecture.serving.engine.slots import SlotPool

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
        drafts: tokens que le modèle propose d'avance à une suite, au plus (voir `drafts`) ; sans
            effet s'il ne sait pas le faire.

    Attributes:
        running: les demandes en cours, de la plus ancienne à la plus récente.
        counts: ce qui a été fait (`steps`, `prompt`, `cached`, `hits`, `completion`, `drafted`,
            `accepted`, `failed`, `restarts`).
        finished: demandes finies, par raison.
        mean_seconds: durée moyenne des dernières demandes.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        slots: int,
        rows: int,
        capacity: int,
        chunk: int | None,
        drafts: int,
    ) -> None:
        self.slots, self.running = slots, list[Job]()
        self.counts, self.finished = Counter[str](), Counter[FinishedReason]()
        self.mean_seconds = 1.0
        self._chunk = chunk
        self._failures = 0
        self._model = model
        self._pool = SlotPool(model, rows, capacity)
        self._passes = Passes(model, self._pool)
        self._most_drafts = drafts if self._passes.can_draft else 0
        self._drafts = Drafts(self._propose, self._most_drafts)

    @property
    def has_room(self) -> bool:
        """Vrai si une place est libre."""
        return len(self.running) < self.slots

    @property
    def is_reading(self) -> bool:
        """Vrai si une demande lit encore son début."""
        return any(job.reading > 1 for job in self.running)

    @property
    def occupied(self) -> int:
        """Positions du cache que tiennent les demandes en cours."""
        return self._pool.occupied

    def warm_up(self) -> None:
        """Fait ce qui doit l'être une fois : compiler, copier les poids."""
        self._passes.warm_up(drafts=self._most_drafts > 0)
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
        """Une lecture, et un token de plus, ou plusieurs, pour chaque demande qui a tout lu.

        Raises:
            Exception: le modèle échoue pour la MAX_FAILURES-ième fois à la suite.
        """
        self._catch_up()
        chunk = self._passes.budget(self._writing) if self._chunk is None else self._chunk
        chosen = share(self.running, chunk)
        if not chosen:
            return
        try:
            drafts: list[Draft] = [()] * len(chosen)
            if self._most_drafts and all(job.reading == 1 for job, _ in chosen):
                drafts = self._drafts.of([job for job, _ in chosen])
            parts = [
                Part(
                    slot=job.slot,
                    tokens=[*job.next_tokens(count), *draft],
                    every=job.scores is not None or len(draft) > 0,
                )
                for (job, count), draft in zip(chosen, drafts, strict=True)
            ]
            logits = self._passes.run(parts)
        except Exception as error:
            self._restart(error)
            return
        self._failures = 0
        self.counts["steps"] += 1
        for (job, count), draft, each in zip(chosen, drafts, logits, strict=True):
            self._advance(job, count, draft, each)

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
            self._drafts.forget(job)
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

    def _advance(self, job: Job, count: int, draft: Draft, logits: Tensor) -> None:
        """Ce qu'une demande fait de ses logits (T, V), après avoir lu `count` tokens et `draft`."""
        job.computed += count
        try:
            with blaming_weights(self._model):
                job.score_(logits, count)
                if job.reading > 0:
                    return
                if job.sequence is None:
                    self.end(job, "length")
                    return
                self._write(job, job.sequence, draft, logits[len(logits) - 1 - len(draft) :])
        except Exception as error:  # la demande seule : un filtre, une contrainte, un NaN
            kind = type(error).__name__  # qui l'attend en écrit le détail
            logger.warning("la demande %d a échoué : %s", job.id, kind, extra=job.trace)
            self.end(job, error)

    def _write(self, job: Job, sequence: Continuation, draft: Draft, logits: Tensor) -> None:
        """Choisit un token après chaque rang des logits (k + 1, V), tant que c'est le proposé."""
        kept = 0
        self.counts["drafted"] += len(draft)
        for place, row in enumerate(logits):
            if job.request.observe:
                job.emit(Observed(logits=row.float().cpu().clone()))
            piece = sequence.step(row)
            self.counts["completion"] += 1
            job.emit(Produced(piece=piece))
            is_kept = place < len(draft) and piece.token == draft[place]
            kept += is_kept
            self.counts["accepted"] += is_kept
            if piece.finish is not None:
                self.end(job, piece.finish)
                return
            if not is_kept:
                break
        if draft:
            job.computed += kept
            self._pool.keep(job.slot, job.computed)
            self._drafts.learn(job, len(draft), kept)

    def _propose(self, jobs: Sequence[Job], count: int) -> list[list[int]]:
        last = [job.next_tokens(1)[-1] for job in jobs]
        guesses = [job.sequence.guesser() for job in jobs if job.sequence is not None]

        def choose(logits: Tensor) -> list[int]:
            return [guess(row) for guess, row in zip(guesses, logits, strict=True)]

        return self._passes.draft([job.slot for job in jobs], last, count, choose)

    def _restart(self, error: Exception) -> None:
        """Après un échec du modèle : les demandes en cours échouent, leurs places sont vidées."""
        logger.error(
            "échec du modèle, les places sont vidées ; requêtes en cours : %s",
            requests_of(self.running),
            exc_info=error,
        )
        self.counts["restarts"] += 1
        self._failures += 1
        for job in list(self.running):
            self.end(job, error)
        if self._failures >= MAX_FAILURES:
            raise error
