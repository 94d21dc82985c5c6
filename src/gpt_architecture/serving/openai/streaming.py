"""Rendre une réponse : d'un coup, ou en flux d'événements (SSE).

Un client qui s'en va annule ses suites ; leur place est libre au pas suivant.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.messages import EngineRequest, Event
from gpt_architecture.serving.http.exchange import current
from gpt_architecture.serving.http.rules import WARNING
from gpt_architecture.serving.metrics import Metrics
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.errors import ApiError, as_api_error
from gpt_architecture.serving.openai.flow import Flow
from gpt_architecture.serving.openai.generation import Plan

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
        client = getattr(request.state, "client", "")
        requests = plan.requests(client, self._context.limits.request_seconds)
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
