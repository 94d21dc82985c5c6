"""Rendre une réponse, d'un coup ou en flux d'événements (SSE) : du fil du moteur à la boucle.

Un client qui s'en va annule ses suites ; leur place est libre au pas suivant.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt_architecture.serving.api_errors import ApiError, as_api_error
from gpt_architecture.serving.context import ServingContext, ServingEngine
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
from gpt_architecture.serving.metrics import Metrics, SequenceWatch
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.planning import Plan

PING_SECONDS = 15.0
"""Silence au bout duquel un flux donne signe de vie, pour qu'aucun relais ne le coupe."""

_CONSTRAINED = ThreadPoolExecutor(16, thread_name_prefix="contraintes")
_FEW = 4  # suites préparées sans quitter la boucle : une milliseconde


class Flow:
    """Les événements de plusieurs suites, dans l'ordre où le moteur les donne.

    Args:
        engine: à qui les confier.
        requests: une par suite ; son rang la désigne ensuite.
        watch: fabrique l'observateur d'une suite.
    """

    def __init__(
        self,
        engine: ServingEngine,
        requests: Sequence[EngineRequest],
        watch: Callable[[], SequenceWatch],
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


T = TypeVar("T")

_DONE = format_sse_event(data_str="[DONE]")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Answerer:
    """Exécute un plan et en fait une réponse HTTP.

    Args:
        context: le service.
        metrics: ses mesures.
    """

    def __init__(self, context: ServingContext, metrics: Metrics) -> None:
        self._context, self._metrics = context, metrics

    async def answer(
        self,
        request: Request,
        plan: Plan,
        transcript: Transcript,
        shape: Shape,
        *,
        stream: bool,
        usage: bool,
        running_usage: bool = False,
    ) -> Response:
        """La réponse à une requête ; ses suites sont annulées si le client s'en va.

        Args:
            request: la requête HTTP.
            plan: ce qui est à écrire.
            transcript: traduit les événements.
            shape: forme de la réponse.
            stream: répond au fil de l'eau.
            usage: finit le flux par le compte des tokens.
            running_usage: le donne aussi dans chaque morceau.

        Raises:
            ApiError: le moteur refuse la requête, ou elle échoue avant le premier token.
        """
        requests = plan.requests(current(), self._context.limits.request_seconds)
        flow = Flow(self._context.engine, requests, self._metrics.watch)
        warned = {} if plan.warning is None else {WARNING: plan.warning}
        try:
            await _submit(flow, requests, prompt=sum(map(len, plan.prompts)))
            batches = flow.batches()
            if not stream:
                deltas = await _unless_gone(request, _collect(batches, transcript))
                return JSONResponse(shape.whole(deltas, transcript.usage()), headers=warned)
            # Le premier paquet décide du code HTTP : après lui, une panne ne peut plus le changer.
            first = await _unless_gone(request, anext(batches, []))
            body = _events(
                *(first, batches, transcript, shape),
                plan=plan,
                usage=usage,
                running_usage=running_usage,
            )
            return _EventStream(body, flow, warned)
        except BaseException:
            flow.cancel()
            raise

    async def events(self, request: Request, requests: Sequence[EngineRequest]) -> list[Event]:
        """Tous les événements de demandes au moteur, abandonnées si le client s'en va.

        Raises:
            ApiError: le moteur refuse les demandes, ou l'une échoue.
        """
        flow = Flow(self._context.engine, requests, self._metrics.watch)
        try:
            await _submit(flow, requests, prompt=sum(len(each.prompt) for each in requests))
            return await _unless_gone(request, _all_events(flow.batches()))
        except BaseException:
            flow.cancel()
            raise


async def _submit(flow: Flow, requests: Sequence[EngineRequest], *, prompt: int) -> None:
    """Confie les suites au moteur, si la clé le permet, et note ce qu'elles coûtent.

    Args:
        flow: les suites.
        requests: les demandes, une par suite.
        prompt: tokens de début, chaque début compté une fois.

    Raises:
        ApiError: 429, la clé a écrit tout ce qu'elle permet par minute.
        Exception: ce que lève `Flow.submit`.
    """
    exchange = current()
    most = sum(each.config.max_tokens for each in requests if each.generate)
    if exchange.access is not None:
        exchange.reserved = exchange.access.reserve(prompt + most)
    await flow.submit()
    exchange.prompt_tokens, exchange.written = prompt, flow.written


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


async def _all_events(batches: AsyncIterator[list[tuple[int, Event]]]) -> list[Event]:
    return [event async for batch in batches for _, event in batch]


async def _events(
    first: Sequence[tuple[int, Event]],
    batches: AsyncIterator[list[tuple[int, Event]]],
    transcript: Transcript,
    shape: Shape,
    *,
    plan: Plan,
    usage: bool,
    running_usage: bool,
) -> AsyncIterator[bytes]:
    """Les octets du flux ; une panne y devient un dernier événement `error`."""

    def counted(chunk: dict[str, Any]) -> dict[str, Any]:
        return {**chunk, "usage": transcript.usage(running=True)} if running_usage else chunk

    opening = [counted(chunk) for chunk in shape.start(len(plan.prompts) * plan.n)]
    opening += [counted(shape.chunk(delta)) for delta in transcript.opening()]
    opening += [counted(shape.chunk(delta)) for delta in transcript.read(first)]
    yield _join(opening) or KEEPALIVE_COMMENT
    try:
        async for batch in batches:
            chunks = [counted(shape.chunk(delta)) for delta in transcript.read(batch)]
            if chunks or not batch:
                yield _join(chunks) or KEEPALIVE_COMMENT
    except Exception as error:
        yield _event(as_api_error(error).envelope())
    else:
        if usage:
            yield _event(shape.usage_chunk(transcript.usage()))
    yield _DONE


def _join(chunks: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(map(_event, chunks))


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False, separators=(",", ":")))


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
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
