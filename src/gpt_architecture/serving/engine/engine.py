"""Le moteur : un thread possède le modèle et fait avancer toutes les demandes, un pas à la fois.

À chaque pas, les demandes qui écrivent lisent leur dernier token, celles qui commencent lisent une
part de leur invite, puis chacune choisit ; peu chargé, le moteur peut proposer plusieurs tokens à
une séquence et les vérifier ensemble (voir `batching`). Une demande entre ou s'en va entre deux
pas, sans que les autres bougent (Orca, Yu et al., 2022 ; lecture par parts : Sarathi-Serve, Agrawal
et al., 2024).

Ce qu'une demande écrit dépend d'elle seule : son tirage a sa graine, son emplacement n'est lu par
personne d'autre. Avec un modèle compacté (`kernels.decode.packed`), ses logits sont les mêmes au
bit près quelles que soient la charge, la découpe des invites et les reprises du cache, à nombre
d'emplacements égal. Avec un autre, les produits de PyTorch arrondissent selon le nombre de lignes :
deux tokens que séparent moins de quelques millionièmes peuvent alors s'échanger.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from functools import partial
from itertools import count

import torch

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.constraints import build_constraint, prepare_constraints
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.serving.engine.batching import ContinuousBatch
from gpt_architecture.serving.engine.grammar_trial import GrammarTrial
from gpt_architecture.serving.engine.messages import (
    EngineClosed,
    EngineRequest,
    EngineState,
    EngineStats,
    Messenger,
    OnEvent,
    Overloaded,
    Ticket,
)
from gpt_architecture.serving.engine.scheduler import EngineJob, FairQueue, requests_of

logger = logging.getLogger(__name__)

_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 60.0  # secondes


class Engine:
    """Écrit les séquences de demandes soumises à tout moment, de n'importe quel thread.

    Args:
        model: rend des logits (B, T, V) ; plus rien d'autre ne doit l'employer.
        tokenizer: le sien.
        window: positions qu'une demande peut occuper, au plus ; None : le contexte du modèle.
        slots: demandes qui avancent ensemble, au plus.
        max_waiting: demandes qui attendent, au plus.
        prefill_chunk: tokens d'invite lus par pas, toutes demandes réunies ; None : ce qui convient
            au modèle.
        prefix_cache_tokens: positions gardées, en plus des emplacements, pour ce qu'ont lu des
            demandes finies.
        drafts: tokens que le modèle propose d'avance à une séquence, au plus, à faible charge (voir
            `batching`) ; son texte reste le même.

    Raises:
        ConfigurationError: réglage hors bornes.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        window: int | None = None,
        slots: int = 8,
        max_waiting: int = 64,
        prefill_chunk: int | None = None,
        prefix_cache_tokens: int = 4096,
        drafts: int = MAX_SELF_DRAFT,
    ) -> None:
        check_int("slots", slots, minimum=1, maximum=1024)
        check_int("max_waiting", max_waiting, minimum=1)
        if prefill_chunk is not None:
            check_int("prefill_chunk", prefill_chunk, minimum=1)
        check_int("prefix_cache_tokens", prefix_cache_tokens, minimum=0)
        check_int("drafts", drafts, minimum=0, maximum=MAX_SELF_DRAFT)
        limit = model.cfg.context_length
        if window is not None:
            check_int("window", window, minimum=1, maximum=limit)
        self.window = limit if window is None else window
        self._model, self._tokenizer = model, tokenizer
        self._batch = ContinuousBatch(
            model,
            slots=slots,
            rows=slots + prefix_cache_tokens // self.window,
            capacity=self.window,
            chunk=prefill_chunk,
            drafts=drafts,
        )
        self._device = model.device
        self._state: EngineState = "starting"
        self._stopping = False
        self._queue = FairQueue(max_waiting)
        self._changed = threading.Condition()  # garde l'état et la file
        self._numbers = count(1)
        self._messenger = Messenger()
        self._trial = GrammarTrial(tokenizer)
        self._thread = threading.Thread(target=self._work, name="moteur", daemon=True)

    @property
    def state(self) -> EngineState:
        """Son état."""
        return self._state

    def start(self) -> None:
        """Lance le thread ; après une première passe avant, l'état devient `ready`."""
        self._thread.start()

    def prepare_constraints(self) -> None:
        """Fait d'avance ce que la première contrainte demanderait, et qui ferait attendre."""
        if prepare_constraints(self._tokenizer):
            self._trial.start()

    def wait_started(self) -> None:
        """Attend que la première passe avant soit finie, ou qu'elle ait échoué."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != "starting")

    def submit(self, request: EngineRequest, on_event: OnEvent) -> Ticket:
        """Accepte une demande.

        Args:
            request: ce qu'elle veut.
            on_event: reçoit les événements, d'un thread du moteur : il ne doit pas attendre.

        Raises:
            ConfigurationError: demande que ce modèle ne peut pas suivre.
            Overloaded: trop de demandes attendent, ou trop de contraintes à essayer.
            EngineClosed: le moteur s'arrête ou s'est arrêté.
        """
        self._check(request)
        with self._changed:
            self._check_open(request.client)
        sequence = self._sequence(request) if request.generate else None
        job = EngineJob(next(self._numbers), request, sequence, on_event, self._messenger.keep)
        with self._changed:
            self._check_open(request.client)
            self._queue.push(job)
            self._changed.notify_all()

        def cancel() -> None:
            job.cancelled = True

        return Ticket(id=job.id, cancel=cancel)

    def stats(self) -> EngineStats:
        """Où il en est."""
        with self._changed:
            batch, counts = self._batch, self._batch.counts
            return EngineStats(
                state=self._state,
                running=len(batch.running),
                waiting=len(self._queue),
                slots=batch.slots,
                kv_tokens=batch.occupied,
                kv_capacity=batch.slots * self.window,
                steps=counts["steps"],
                prompt_tokens=counts["prompt"],
                cached_tokens=counts["cached"],
                prefix_hits=counts["hits"],
                completion_tokens=counts["completion"],
                drafted_tokens=counts["drafted"],
                accepted_tokens=counts["accepted"],
                finished=dict(batch.finished),
                failed=counts["failed"],
                restarts=counts["restarts"],
            )

    def drain(self, timeout: float) -> bool:
        """N'accepte plus rien et attend la fin de toutes les demandes acceptées.

        Args:
            timeout: secondes au plus.

        Returns:
            Vrai si elles sont toutes finies ; faux si le temps a manqué.
        """
        with self._changed:
            if self._state != "dead":
                self._state = "draining"
            done = self._changed.wait_for(lambda: not self._has_work, timeout)
        return done and self._messenger.settle()

    def stop(self) -> None:
        """Arrête le thread ; les demandes en cours ou en attente échouent par `EngineClosed`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._close(EngineClosed("le moteur s'est arrêté"))  # s'il n'avait jamais démarré
        self._messenger.close()
        self._trial.close()

    @property
    def _has_work(self) -> bool:
        return bool(self._batch.running) or len(self._queue) > 0

    def _check(self, request: EngineRequest) -> None:
        self._model.cfg.check_writes()
        size, ids = self._model.cfg.vocab_size, request.prompt
        if unknown := [token for token in ids if not 0 <= token < size]:
            raise ConfigurationError(
                f"l'invite contient l'identifiant {unknown[0]}",
                expected=f"des identifiants de 0 à {size - 1}",
                remedy="codez le texte avec le tokenizer du modèle",
            )
        if request.positions > self.window:
            wanted = f" et {request.config.max_tokens} à écrire" if request.generate else ""
            raise ConfigurationError(
                f"{len(ids)} tokens d'invite{wanted}",
                expected=f"{self.window} positions au plus",
                remedy="raccourcissez l'invite ou demandez moins de tokens",
            )

    def _check_open(self, client: str) -> None:
        if self._stopping or self._state in ("draining", "dead"):
            raise EngineClosed("le moteur n'accepte plus de demandes")
        batch = self._batch
        if not self._queue.has_room(client, free=batch.slots - len(batch.running)):
            seconds = batch.mean_seconds * len(self._queue) / batch.slots
            raise Overloaded(len(self._queue), min(max(seconds, _SHORTEST_RETRY), _LONGEST_RETRY))

    def _sequence(self, request: EngineRequest) -> Continuation:
        """La séquence à écrire, construite hors du thread du moteur, qui n'attend donc pas."""
        size = self._model.cfg.vocab_size
        constraint = build_constraint(
            request.config,
            self._tokenizer,
            vocab_size=size,
            device=self._device,
            trial=partial(self._trial.check, copies=request.copies),
        )
        return Continuation(
            request.prompt,
            request.config,
            self._tokenizer,
            vocab_size=size,
            device=self._device,
            seed=request.seed,
            constraint=constraint,
        )

    # --- Le thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        """Vit aussi longtemps que le moteur."""
        closed = EngineClosed("le moteur s'est arrêté")
        try:
            with torch.inference_mode(), evaluation_mode(self._model):
                self._batch.warm_up()
                with self._changed:
                    if self._state == "starting":
                        self._state = "ready"
                while self._wait():
                    now = time.monotonic()
                    self._dismiss(now)
                    self._admit()
                    self._messenger.send(urgent=self._batch.is_reading)  # le pas sera long
                    self._batch.step()
                    self._messenger.send()
        except Exception as error:
            with self._changed:
                lost = requests_of([*self._batch.running, *self._queue])
            logger.exception("le moteur est mort ; requêtes en cours ou en attente : %s", lost)
            closed = EngineClosed(f"le moteur est mort : {reason(error)}")
        self._close(closed)

    def _wait(self) -> bool:
        """Attend du travail ; faux s'il faut s'arrêter."""
        with self._changed:
            self._changed.notify_all()  # le pas qui précède a pu finir des demandes
            self._changed.wait_for(lambda: self._stopping or self._has_work)
            return not self._stopping

    def _dismiss(self, now: float) -> None:
        """Renvoie les demandes abandonnées et celles dont l'échéance est passée."""
        self._batch.dismiss(now)
        with self._changed:
            waiting = [(job, ending) for job in self._queue if (ending := job.ending(now))]
        for job, ending in waiting:
            self._batch.end(job, ending)
            with self._changed:
                self._queue.remove(job)

    def _admit(self) -> None:
        """Donne les emplacements libres aux demandes qui attendent."""
        batch = self._batch
        while batch.has_room:
            with self._changed:
                if not len(self._queue):
                    return
                job = self._queue.pop(Counter(each.request.client for each in batch.running))
                batch.running.append(job)
            batch.start(job)

    def _close(self, error: EngineClosed) -> None:
        """Plus rien n'avancera : le dit à toutes les demandes."""
        with self._changed:
            if self._state == "dead":
                return
            self._state = "dead"
            waiting = list(self._queue)
        self._batch.abandon(error)
        for job in waiting:
            self._batch.end(job, error)
        self._messenger.send()
        with self._changed:
            for job in waiting:
                self._queue.remove(job)
            self._changed.notify_all()
