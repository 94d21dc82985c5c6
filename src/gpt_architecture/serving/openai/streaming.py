"""Rendre une réponse, d'un coup ou en flux d'événements (SSE) : du thread du moteur à la boucle.

Un client qui s'en va annule ses séquences ; leur emplacement est libre au pas suivant.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt_architecture.serving.api_errors import ApiError, as_api_error
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import (
    EngineRequest,
    Event,
    Failed,
    Finished,
    Produced,
    Ticket,
)
from gpt_architecture.serving.http.access import current
from gpt_architecture.serving.http.middleware import WARNING
from gpt_architecture.serving.limits import Patience
from gpt_architecture.serving.metrics import Metrics, SequenceWatch
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.bodies import StreamOptions
from gpt_architecture.serving.openai.frames import EventShape, Stream, stream_of

PING_SECONDS = 15.0
"""Silence au bout duquel un flux donne signe de vie, pour qu'aucun relais ne le coupe."""

_CONSTRAINED = ThreadPoolExecutor(16, thread_name_prefix="contraintes")
_FEW = 4  # séquences préparées sans quitter la boucle : une milliseconde


class Waker:
    """Réveille une boucle d'un autre thread, une seule fois pour toutes les séquences d'un envoi.

    Args:
        loop: la boucle.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready, self._is_called = deque[asyncio.Event](), False

    def wake(self, event: asyncio.Event) -> None:
        """Fait mettre `event` par la boucle ; de n'importe quel thread."""
        self._ready.append(event)
        if self._is_called:
            return
        self._is_called = True
        try:
            self.loop.call_soon_threadsafe(self._ring)
        except BaseException:  # elle est fermée : le prochain doit l'apprendre aussi
            self._is_called = False
            raise

    def _ring(self) -> None:
        self._is_called = False  # avant de vider : ce qui arrive ensuite réveillera
        while self._ready:
            self._ready.popleft().set()


class Flow:
    """Les événements de plusieurs séquences, dans l'ordre où le moteur les donne.

    Args:
        engine: à qui les confier.
        requests: une par séquence ; son rang la désigne ensuite.
        metrics: les mesure.
        waker: réveille la boucle en cours.
    """

    def __init__(
        self, engine: Engine, requests: Sequence[EngineRequest], metrics: Metrics, waker: Waker
    ) -> None:
        self._waker, self._patience = waker, Patience(PING_SECONDS)
        self._engine, self._requests = engine, requests
        self._events = deque[tuple[int, Event]]()
        self._ready, self._notified = asyncio.Event(), False
        self._pending = len(requests)
        self._watchers = [SequenceWatch(metrics) for _ in requests]
        self._tickets, self._cancelled = list[Ticket](), False
        self._written = [0] * len(requests)
        self._exchange = current()

    def written(self) -> int:
        """Tokens écrits jusqu'ici, toutes séquences réunies, même si le client est parti."""
        return sum(self._written)

    async def submit(self) -> None:
        """Confie les séquences au moteur : toutes, ou aucune si l'une est refusée.

        Raises:
            Overloaded: le moteur n'a plus d'emplacement.
            EngineClosed: il n'accepte plus rien.
            ConfigurationError: il ne sait pas suivre l'une d'elles.
        """
        constrained = any(request.config.is_constrained for request in self._requests)
        if constrained:  # essayer une contrainte peut attendre : ni la boucle, ni ses threads
            work = partial(copy_context().run, self._submit)
            await self._waker.loop.run_in_executor(_CONSTRAINED, work)
        elif len(self._requests) > _FEW:
            await asyncio.to_thread(self._submit)
        else:
            self._submit()

    def cancel(self) -> None:
        """Abandonne les séquences qui ne sont pas finies ; sans effet sur les autres."""
        self._cancelled = True
        for ticket in list(self._tickets):
            ticket.cancel()

    async def batches(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """Les événements par paquets (rang de la séquence, événement) ; vide après un silence.

        Raises:
            ApiError: 504, le temps laissé à la requête est écoulé.
            Exception: ce qui a fait échouer une séquence, tel quel.
        """
        try:
            while self._pending:
                if not self._events:
                    try:
                        with self._patience:
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
        finally:
            self._patience.close()

    def _take(self, index: int, event: Event) -> None:
        self._watchers[index].see(event)
        if isinstance(event, Finished | Failed):
            self._pending -= 1
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            if event.reason in ("timeout", "cancelled"):
                raise timed_out()
            self._exchange.finishes.append(event.reason)
        elif isinstance(event, Produced) and self._exchange.first_token is None:
            self._exchange.first_token = time.perf_counter()

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
                self._waker.wake(self._ready)

        return put


T = TypeVar("T")


def timed_out() -> ApiError:
    """Le refus d'une requête trop longue à calculer (504)."""
    return ApiError(
        504,
        "le temps laissé à cette requête est écoulé ; demandez moins de tokens, "
        "ou réessayez quand le service est moins chargé",
        kind="timeout_error",
        code="timeout",
    )


_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Answerer:
    """Exécute un plan et en fait une réponse HTTP.

    Args:
        context: le service.
        metrics: ses mesures.
    """

    def __init__(self, context: ServingContext, metrics: Metrics) -> None:
        self._context, self._metrics = context, metrics
        self._waker: Waker | None = None

    async def answer(
        self,
        request: Request,
        transcript: Transcript,
        shape: Shape | EventShape,
        options: StreamOptions | None,
    ) -> Response:
        """La réponse à une requête ; ses séquences sont annulées si le client s'en va.

        Args:
            request: la requête HTTP.
            transcript: ce qui est à écrire, et comment en traduire les événements.
            shape: forme de la réponse.
            options: réglages du flux ; None : répond d'un coup.

        Raises:
            ApiError: le moteur refuse la requête, ou elle échoue avant le premier token.
        """
        plan = transcript.plan
        requests = plan.requests(current(), self._context.limits.request_seconds)
        warned = {} if plan.warning is None else {WARNING: plan.warning}
        async with self._submitted(requests, sum(map(len, plan.prompts)), plan.model) as flow:
            batches = flow.batches()
            if options is None:
                deltas = await unless_gone(request, _collect(batches, transcript))
                return JSONResponse(shape.whole(deltas, transcript.usage()), headers=warned)
            # Le premier paquet décide du code HTTP : après lui, une panne ne peut plus le changer.
            first = await unless_gone(request, anext(batches, []))
            body = _events(first, batches, transcript, stream_of(transcript, shape, options))
            return _EventStream(body, flow, warned)

    async def events(
        self, request: Request, asked: EngineRequest, model: str | None = None
    ) -> list[Event]:
        """Tous les événements d'une demande au moteur, abandonnée si le client s'en va.

        Args:
            request: la requête HTTP.
            asked: la demande.
            model: le nom de ce qui répond ; None : celui du service.

        Raises:
            ApiError: le moteur refuse la demande, ou elle échoue.
        """

        async def work() -> list[Event]:
            return [event async for batch in flow.batches() for _, event in batch]

        async with self._submitted([asked], len(asked.prompt), model) as flow:
            return await unless_gone(request, work())

    @asynccontextmanager
    async def _submitted(
        self, requests: Sequence[EngineRequest], prompt: int, model: str | None = None
    ) -> AsyncIterator[Flow]:
        """Confie des séquences au moteur, si la clé le permet ; une erreur dans le bloc les annule.

        Args:
            requests: les demandes, une par séquence.
            prompt: tokens d'invite, chaque invite comptée une fois.
            model: le nom de ce qui écrit ; None : celui du service.

        Raises:
            QuotaExceeded: la clé a écrit tout ce qu'elle permet par minute.
            Exception: ce que lève `Flow.submit`.
        """
        loop, exchange = asyncio.get_running_loop(), current()
        if self._waker is None or self._waker.loop is not loop:
            self._waker = Waker(loop)
        flow = Flow(self._context.engine, requests, self._metrics, self._waker)
        most = sum(each.config.max_tokens for each in requests if each.generate)
        exchange.reserve(prompt + most)
        try:
            await flow.submit()
            exchange.model = model or self._context.name
            exchange.prompt_tokens, exchange.written = prompt, flow.written
            yield flow
        except BaseException:
            flow.cancel()
            raise


class _EventStream(EventSourceResponse):
    """Un flux dont la fin, quelle qu'elle soit, annule ce qui n'est pas fini."""

    def __init__(self, body: AsyncIterator[bytes], flow: Flow, headers: dict[str, str]) -> None:
        super().__init__(body, headers=_HEADERS | headers)
        self._flow = flow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._flow.cancel()


async def _collect(
    batches: AsyncIterator[list[tuple[int, Event]]], transcript: Transcript
) -> list[Delta]:
    deltas = transcript.opening()
    async for batch in batches:
        deltas += transcript.read(batch)
    return deltas


async def _events(
    first: Sequence[tuple[int, Event]],
    batches: AsyncIterator[list[tuple[int, Event]]],
    transcript: Transcript,
    stream: Stream,
) -> AsyncIterator[bytes]:
    """Les octets du flux ; une panne y devient un dernier événement `error`."""
    opening = stream.opening() + stream.of(transcript.opening())
    yield opening + stream.of(transcript.read(first)) or KEEPALIVE_COMMENT
    try:
        async for batch in batches:
            if (chunks := stream.of(transcript.read(batch))) or not batch:
                yield chunks or KEEPALIVE_COMMENT
    except Exception as error:
        yield stream.failure(as_api_error(error))
    else:
        yield stream.ending()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Le résultat d'un travail, abandonné si le client s'en va.

    Raises:
        ApiError: 499, le client est parti.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "le client est parti")  # lue de personne, elle nomme l'abandon
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
