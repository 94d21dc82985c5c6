"""Les demandes en cours, et le pas qui les fait toutes avancer. Aucun thread ici : voir `engine`.

Un pas est celui de toute génération, avec plus de suites : les mêmes passages (`cache_reader`) et,
peu chargé, la même boucle de propositions (`decoding.speculative`). Les logits d'un modèle compacté
étant les mêmes au bit près quel que soit ce qui est lu ensemble, les textes le sont aussi, tirages
compris.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights
from gpt_architecture.decoding.cache_reader import CacheReader, Part
from gpt_architecture.decoding.proposers import (
    Draft,
    PromptLookup,
    Proposer,
    SelfDraft,
    self_draft,
)
from gpt_architecture.decoding.speculative import Speculation
from gpt_architecture.serving.engine.messages import Failed, FinishedReason, Observed, Produced
from gpt_architecture.serving.engine.scheduler import EngineJob, prompt_budget, requests_of, share
from gpt_architecture.serving.engine.slots import SlotPool

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Échecs du modèle à la suite avant de renoncer."""

DRAFTING_ROWS = 8
"""Activations au plus d'un pas qui propose, toutes séquences réunies."""

_LAST_WEIGHT = 0.2  # poids de la dernière demande dans la durée moyenne


class ContinuousBatch:
    """Fait avancer des demandes sur les emplacements d'un cache.

    Args:
        model: rend des logits (B, T, V), en évaluation.
        slots: demandes qui avancent ensemble, au plus.
        rows: lignes du cache ; celles qui dépassent `slots` gardent des invites déjà lues.
        capacity: positions d'une ligne.
        chunk: tokens d'invite lus par pas, à peu près ; None : ce qui convient au modèle.
        drafts: tokens que le modèle propose d'avance à une séquence, au plus (voir
            `decoding.speculative`) ; sans effet s'il ne sait pas le faire.

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
        self.slots, self.running = slots, list[EngineJob]()
        self.counts, self.finished = Counter[str](), Counter[FinishedReason]()
        self.mean_seconds = 1.0
        self._chunk = chunk
        self._failures = 0
        self._model = model
        self._pool = SlotPool(model, rows, capacity)
        self._reader = CacheReader(model, mixed=True)
        is_useful = drafts > 0 and self._reader.is_uniform
        self._drafts = Drafts(self._pool, self_draft(model) if is_useful else None, drafts)

    @property
    def has_room(self) -> bool:
        """Vrai si un emplacement est libre."""
        return len(self.running) < self.slots

    @property
    def is_reading(self) -> bool:
        """Vrai si une demande lit encore son invite."""
        return any(job.reading > 1 for job in self.running)

    @property
    def occupied(self) -> int:
        """Positions du cache que tiennent les demandes en cours."""
        return self._pool.occupied

    def warm_up(self) -> None:
        """Fait ce qui doit l'être une fois : compiler, copier les poids."""
        self._drafts.warm_up(0)
        self._pool.read(self._reader, [Part(row=0, tokens=[0])])
        self._pool.release(0, spoiled=True)

    def start(self, job: EngineJob) -> None:
        """Donne un emplacement à une demande, qui est dans `running`."""
        job.started = time.monotonic()
        adapter, reuse = job.request.adapter, job.scores is None
        job.slot, cached = self._pool.acquire(job.ids, adapter, reuse=reuse)
        job.cached = job.computed = cached
        self.counts["prompt"] += len(job.ids)
        self.counts["cached"] += cached
        self.counts["hits"] += cached > 0
        job.speculation = self._drafts.for_job(job)
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
        chosen = share(self.running, self._budget())
        if not chosen:
            return
        try:
            drafts = self._drafts.of([job for job, _ in chosen])
            parts = [
                Part(
                    row=job.slot,
                    tokens=[*job.next_tokens(count), *draft.tokens],
                    every=job.scores is not None or len(draft.tokens) > 0,
                )
                for (job, count), draft in zip(chosen, drafts, strict=True)
            ]
            logits = self._pool.read(self._reader, parts)
        except Exception as error:
            self._restart(error)
            return
        self._failures = 0
        self.counts["steps"] += 1
        for (job, count), draft, each in zip(chosen, drafts, logits, strict=True):
            self._advance(job, count, draft, each)

    def end(self, job: EngineJob, how: FinishedReason | Exception) -> None:
        """Dit comment une demande finit, puis rend son emplacement si elle en a un."""
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

    def _budget(self) -> int:
        """Tokens d'invite à lire pendant ce pas."""
        if self._chunk is not None:
            return self._chunk
        writing = sum(job.computed >= len(job.ids) for job in self.running)
        return prompt_budget(writing, self._reader.height)

    def _catch_up(self) -> None:
        """Recopie ce qu'une autre demande vient de lire d'un préfixe commun."""
        for job in self.running:
            if job.computed < len(job.ids) - 1 and job.scores is None:
                gained = self._pool.extend_(job.slot, job.ids)
                self.counts["cached"] += gained
                self.counts["hits"] += job.cached == 0 and gained > 0
                job.computed += gained
                job.cached += gained

    def _advance(self, job: EngineJob, count: int, draft: Draft, logits: Tensor) -> None:
        """Ce qu'une demande fait de ses logits (T, V), après avoir lu `count` tokens et `draft`."""
        job.computed += count
        try:
            job.score_(logits, count)
            if job.reading > 0:
                return
            if job.speculation is None:
                self.end(job, "length")
                return
            size = len(draft.tokens)
            self._write(job, job.speculation, draft, logits[len(logits) - 1 - size :])
        except Exception as error:  # la demande seule : un filtre, une contrainte, un NaN
            self._fail(job, error)

    def _fail(self, job: EngineJob, error: Exception) -> None:
        """Une demande échoue seule ; qui l'attend en écrit le détail."""
        try:
            with blaming_weights(self._model):
                raise error
        except Exception as blamed:
            kind = type(blamed).__name__
            logger.warning("la demande %d a échoué : %s", job.id, kind, extra=job.trace)
            self.end(job, blamed)

    def _write(
        self, job: EngineJob, speculation: Speculation, draft: Draft, logits: Tensor
    ) -> None:
        """Choisit un token après chaque rang des logits (k + 1, V), tant que c'est le proposé."""
        size, before = len(draft.tokens), speculation.accepted
        self.counts["drafted"] += size
        for place, piece in enumerate(speculation.accept(draft, logits)):
            if job.request.observe:
                job.emit(Observed(logits=logits[place].float().cpu().clone()))
            self.counts["completion"] += 1
            job.emit(Produced(piece=piece))
            if piece.finish is not None:
                self.counts["accepted"] += speculation.accepted - before
                self.end(job, piece.finish)
                return
        kept = speculation.accepted - before
        self.counts["accepted"] += kept
        if size:
            job.computed += kept
            self._pool.keep(job.slot, job.computed)

    def _restart(self, error: Exception) -> None:
        """Après un échec du modèle : les demandes en cours échouent ; vide les emplacements."""
        logger.error(
            "échec du modèle, les emplacements sont vidés ; requêtes en cours : %s",
            requests_of(self.running),
            exc_info=error,
        )
        self.counts["restarts"] += 1
        self._failures += 1
        for job in list(self.running):
            self.end(job, error)
        if self._failures >= MAX_FAILURES:
            raise error


class Drafts:
    """Propose aux demandes qui écrivent, quand la charge le permet.

    Args:
        pool: leurs emplacements.
        self_draft: fait proposer le modèle ; None : seul `lookup` propose.
        most: tokens que le modèle propose à une séquence par pas, au plus.
    """

    def __init__(self, pool: SlotPool, self_draft: SelfDraft | None, most: int) -> None:
        self._pool, self._self_draft, self._most = pool, self_draft, most

    def warm_up(self, slot: int) -> None:
        """Fait faire au modèle la copie qui propose, s'il y en a une, sur un emplacement vide."""
        if self._self_draft is not None:
            self._self_draft.warm_up(self._pool.view([slot]))

    def for_job(self, job: EngineJob) -> Speculation | None:
        """Ce que la séquence d'une demande fera de propositions ; None : elle n'écrit rien."""
        if job.sequence is None:
            return None
        config = job.sequence.config
        lookup = PromptLookup(config.lookup, ngram=config.lookup_ngram) if config.lookup else None
        return Speculation(job.sequence, lookup or self._self_draft)

    def of(self, jobs: Sequence[EngineJob]) -> list[Draft]:
        """Les propositions faites à chaque demande, parfois aucune ; si toutes écrivent."""
        found = [Draft()] * len(jobs)
        room = DRAFTING_ROWS // len(jobs) - 1
        groups = dict[Proposer, list[tuple[int, Speculation]]]()
        for index, job in enumerate(jobs):
            if job.reading != 1:
                return found
            one = job.speculation
            if one is not None and one.proposer is not None and one.left > 0:
                groups.setdefault(one.proposer, []).append((index, one))
        for proposer, members in groups.items():
            most = room if proposer is not self._self_draft else min(room, self._most)
            # Toutes en reçoivent autant : la plus proche de sa fin borne les autres.
            most = min(most, *(each.left for _, each in members))
            counts = {index: each.count(most) for index, each in members}
            chosen = [(index, each) for index, each in members if counts[index]]
            if not chosen:
                continue
            cache = self._pool.view([jobs[index].slot for index, _ in chosen])
            sequences = [each.sequence for _, each in chosen]
            drafts = proposer.propose(sequences, cache, max(counts.values()))
            for (index, _), draft in zip(chosen, drafts, strict=True):
                found[index] = Draft(tokens=draft.tokens[: counts[index]])
        return found
