"""La porte du service : ce que toute requête HTTP traverse avant les routes.

Le corps est lu ici, borné en taille et en temps ; l'envoi de la réponse l'est aussi, et aucune
exception n'en sort sans l'enveloppe d'OpenAI. Les requêtes sont comprises une par tour de boucle :
une sonde passe entre deux, même quand des centaines arrivent ensemble.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_architecture.serving.openai.errors import ApiError, as_api_error
from gpt_architecture.serving.openai.limits import Limits

PROBES = frozenset({"/health", "/live", "/ready", "/metrics"})
"""Adresses qui répondent même quand le service est plein."""

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 16 << 20  # d'un corps refusé, lus puis jetés


class GuardMiddleware:
    """Borne chaque requête, et rend chaque panne sous la forme attendue.

    Args:
        app: application gardée.
        limits: bornes.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._active = 0
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(send, self._limits.send_seconds)
        self._active += 1
        try:
            if self._active > self._limits.requests and scope["path"] not in PROBES:
                raise _full(self._limits.requests)
            try:
                body = await _read_body(scope, receive, self._limits)
            except ApiError as error:
                if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    await _discard(scope, receive)
                raise
            if scope["path"] not in PROBES:
                async with self._turn:
                    await asyncio.sleep(0)  # la boucle revient aux connexions avant la suivante
            if body is not None:
                await self._app(scope, _replay(body, receive), reply)
        except SlowReader:
            raise  # le serveur ferme la connexion : rien d'autre ne peut être dit
        except Exception as error:
            if reply.status is not None:
                raise
            await as_api_error(error).response()(scope, receive, reply)
        finally:
            self._active -= 1


class SlowReader(Exception):
    """Le client ne lit plus sa réponse."""


class _Reply:
    """Envoie la réponse, en bornant le temps que le client met à la lire."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds = send, seconds
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowReader from None


async def _read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes | None:
    """Le corps entier ; None si le client est parti.

    Raises:
        ApiError: 413 ou 408.
    """
    announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
    if not announced.isdigit() or int(announced) > limits.body_bytes:
        raise _too_large(limits.body_bytes)
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise ApiError(
            408,
            f"le corps n'est pas arrivé en {limits.body_seconds:g} s",
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None


async def _discard(scope: Scope, receive: Receive) -> None:
    """Lit et jette, un moment, ce que le client envoie : fermer sur lui lui cacherait la réponse.

    Qui attend qu'on l'invite à envoyer (`Expect`) n'y est pas invité.
    """
    if any(name == b"expect" for name, _ in scope["headers"]):
        return
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while size < _LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    """Rend le corps déjà lu, puis ce que dit la connexion."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"le corps dépasse {limit} octets",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def _full(limit: int) -> ApiError:
    return ApiError(
        429,
        f"le service traite déjà {limit} requêtes ; réessayez dans un instant",
        kind="rate_limit_error",
        code="overloaded",
        headers={"Retry-After": "1", "Connection": "close"},
    )
