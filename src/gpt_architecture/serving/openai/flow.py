"""Du fil du moteur à la boucle asyncio : les suites d'une requête, suivies ensemble."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Protocol

from gpt_architecture.serving.engine.messages import (
    EngineRequest,
    Event,
    Failed,
    Finished,
    Produced,
    Ticket,
)
from gpt_architecture.serving.openai.errors import ApiError

PING_SECONDS = 15.0
"""Silence au bout duquel un flux donne signe de vie, pour qu'aucun relais ne le coupe."""

_CONSTRAINED = ThreadPoolExecutor(16, thread_name_prefix="contraintes")
_FEW = 4  # suites préparées sans quitter la boucle : une milliseconde


class Submitter(Protocol):
    """Ce qui accepte des requêtes : le moteur."""

    def submit(self, request: EngineRequest, on_event: Callable[[Event], None]) -> Ticket:
        """Confie une requête ; `on_event` est appelé par le fil du moteur."""
        ...


class Watcher(Protocol):
    """Ce qui mesure une suite au passage (voir `serving.metrics`)."""

    def produced(self) -> None:
        """Un token vient d'arriver."""
        ...

    def finished(self, event: Finished) -> None:
        """La suite est achevée."""
        ...

    def failed(self) -> None:
        """La suite a échoué."""
        ...


class Flow:
    """Les événements de plusieurs suites, dans l'ordre où le moteur les donne.

    Args:
        engine: à qui les confier.
        requests: une par suite ; son rang la désigne ensuite.
        watch: fabrique l'observateur d'une suite.
    """

    def __init__(
        self, engine: Submitter, requests: Sequence[EngineRequest], watch: Callable[[], Watcher]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine, self._requests = engine, requests
        self._events = deque[tuple[int, Event]]()
        self._ready, self._notified = asyncio.Event(), False
        self._pending = len(requests)
        self._watchers = [watch() for _ in requests]
        self._tickets, self._cancelled = list[Ticket](), False
        self._written = [0] * len(requests)

    def written(self) -> int:
        """Tokens écrits jusqu'ici, toutes suites réunies, même si le client est parti."""
        return sum(self._written)

    async def submit(self) -> None:
        """Confie les suites au moteur : toutes, ou aucune si l'une est refusée.

        Raises:
            Overloaded: le moteur n'a plus de place.
            EngineClosed: il n'accepte plus rien.
            ConfigurationError: il ne sait pas suivre l'une d'elles.
        """
        constrained = any(request.config.is_constrained for request in self._requests)
        if constrained:  # essayer une contrainte peut attendre : ni la boucle, ni ses autres fils
            work = partial(copy_context().run, self._submit)
            await self._loop.run_in_executor(_CONSTRAINED, work)
        elif len(self._requests) > _FEW:
            await asyncio.to_thread(self._submit)
        else:
            self._submit()

    def cancel(self) -> None:
        """Abandonne les suites qui ne sont pas finies ; sans effet sur les autres."""
        self._cancelled = True
        for ticket in list(self._tickets):
            ticket.cancel()

    async def batches(
        self, *, ping: float = PING_SECONDS
    ) -> AsyncIterator[list[tuple[int, Event]]]:
        """Les événements par paquets (rang de la suite, événement) ; vide après un silence.

        Raises:
            ApiError: 504, le temps laissé à la requête est écoulé.
            Exception: ce qui a fait échouer une suite, tel quel.
        """
        while self._pending:
            if not self._events:
                try:
                    async with asyncio.timeout(ping):  # wait_for coûterait une tâche par token
                        await self._ready.wait()
                except TimeoutError:
                    yield []
                    continue
            self._ready.clear()
            self._notified = False  # avant de vider : ce qui arrive ensuite réveillera
            batch = list[tuple[int, Event]]()
            while self._events:
                index, event = self._events.popleft()
                self._take(index, event)
                batch.append((index, event))
            yield batch

    def _take(self, index: int, event: Event) -> None:
        watcher = self._watchers[index]
        match event:
            case Produced():
                watcher.produced()
            case Finished():
                self._pending -= 1
                watcher.finished(event)
                if event.reason in ("timeout", "cancelled"):
                    raise ApiError(
                        504,
                        "le temps laissé à cette requête est écoulé ; demandez moins de tokens, "
                        "ou réessayez quand le service est moins chargé",
                        kind="timeout_error",
                        code="timeout",
                    )
            case Failed():
                self._pending -= 1
                watcher.failed()
                raise event.error

    def _submit(self) -> None:
        try:
            for index, request in enumerate(self._requests):
                ticket = self._engine.submit(request, self._sink(index))
                self._tickets.append(ticket)
                if self._cancelled:  # le client est parti entre-temps
                    ticket.cancel()
        except BaseException:
            self.cancel()
            raise

    def _sink(self, index: int) -> Callable[[Event], None]:
        def put(event: Event) -> None:
            self._events.append((index, event))
            if isinstance(event, Produced) and event.piece.token is not None:
                self._written[index] += 1
            elif isinstance(event, Finished):
                self._written[index] = event.completion_tokens
            if not self._notified:  # un seul réveil pour tous les événements d'un pas
                self._notified = True
                self._loop.call_soon_threadsafe(self._ready.set)

        return put
