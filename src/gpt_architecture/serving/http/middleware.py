"""Ce que toute requête HTTP traverse avant les routes : origine, clé, place, corps, méthode.

Le corps est lu ici, borné en taille et en temps ; l'envoi de la réponse l'est aussi, et aucune
exception n'en sort sans l'enveloppe d'OpenAI. Les requêtes sont comprises une par tour de boucle :
une sonde passe entre deux, même quand des centaines arrivent ensemble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_architecture.serving.api_errors import ApiError, as_api_error
from gpt_architecture.serving.http.access import KeyRing, current
from gpt_architecture.serving.limits import Limits, Patience

PROBES = frozenset({"/health", "/live", "/ready", "/metrics"})
"""Adresses qui répondent même quand le service est plein."""

OPEN_PATHS = PROBES | {"/", "/docs", "/openapi.json"}
"""Adresses que sondes et navigateurs lisent sans clé ; elles ne disent rien du texte traité."""

_OPEN_PAGES = "/studio"
_CLOSED_DATA = "/studio/api/"

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 16 << 20  # d'un corps refusé, lus puis jetés

WARNING = "X-Constraint-Warning"
"""En-tête de réponse : la contrainte demande plus de tokens que la requête n'en accorde."""

_METHODS = ("GET", "HEAD", "POST")
_ELSEWHERE = ("cross-site", "same-site")  # `Sec-Fetch-Site` d'une autre page, d'un autre port
_EXPOSED = ("Retry-After", WARNING, "X-Request-Id")  # ce qu'une page peut lire d'une réponse


class GuardMiddleware:
    """Admet et borne chaque requête, et rend chaque panne sous la forme attendue.

    Qui n'a pas de clé est refusé avant que son corps soit lu ; qui en a une partage les
    emplacements sous son nom, sinon sous son adresse.

    Args:
        app: application gardée.
        limits: bornes.
        keys: clés acceptées ; None : tout le monde l'est.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, keys: KeyRing | None = None) -> None:
        self._app, self._limits, self._keys = app, limits, keys or KeyRing()
        self._active = 0
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply, is_probe = _Reply(send, self._limits.send_seconds), scope["path"] in PROBES
        admitted = False
        try:
            self._admit(scope)
            self._active += 1
            admitted = True
            if self._active > self._limits.requests and not is_probe:
                raise _full(self._limits.requests)
            try:
                body = await _read_body(scope, receive, self._limits)
            except ApiError as error:
                if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    await _discard(scope, receive)
                raise
            if not is_probe:
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
            reply.close()
            self._active -= admitted

    def _admit(self, scope: Scope) -> None:
        """Note qui fait la requête ; refuse une clé inconnue (401), ou à bout de requêtes (429)."""
        exchange, path = current(), scope["path"]
        exchange.client = scope["client"][0] if scope.get("client") else ""
        if not self._keys:
            return
        headers = Headers(scope=scope)
        values = headers.getlist("authorization") or [
            f"Bearer {key}" for key in headers.getlist("x-api-key")
        ]
        given = values[0] if len(values) == 1 else None
        exchange.access = self._keys.find(given)
        if not _is_open(path):
            if exchange.access is None:
                exchange.key_failure = "inconnue" if given else "absente"
                raise _refusal()
            exchange.access.admit()
        if exchange.access is not None:
            exchange.client = exchange.access.name


class SlowReader(Exception):
    """Le client ne lit plus sa réponse."""


class _Reply:
    """Envoie la réponse, en bornant le temps que le client met à la lire."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._patience = send, Patience(seconds)
        self.status: int | None = None
        self.close = self._patience.close

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            with self._patience:
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
    if "expect" in Headers(scope=scope):
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


def _refusal() -> ApiError:
    return ApiError(
        401,
        "clé d'accès absente ou inconnue ; envoyez « Authorization: Bearer CLÉ », ou "
        "« x-api-key: CLÉ »",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def is_studio_file(path: str) -> bool:
    """Vrai pour la page du studio et ses fichiers, faux pour ce qu'elle demande au service."""
    if path.startswith(_CLOSED_DATA):
        return False
    return path == _OPEN_PAGES or path.startswith(f"{_OPEN_PAGES}/")


def _is_open(path: str) -> bool:
    """Vrai pour ce que tout navigateur peut demander."""
    return path in OPEN_PATHS or is_studio_file(path)


class HeadMiddleware:
    """Répond à HEAD comme à GET, sans le corps.

    Args:
        app: application qui ne connaît que GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


class OriginsMiddleware(CORSMiddleware):
    """CORS de Starlette : les pages de certaines origines appellent le service, clé comprise.

    Un navigateur ne montre à sa page que les réponses qui le permettent : cette porte vient donc
    avant les clés, et les erreurs aussi la traversent. Ce qu'il envoie sans en montrer la réponse
    (une image, un formulaire) ferait pourtant travailler un service sans clé : `Sec-Fetch-Site`,
    qu'aucune page ne peut écrire, le fait refuser.

    Args:
        app: application appelée.
        origins: origines permises (voir `serving.http.access`) ; vide : aucune page d'ailleurs.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str] = ()) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=["*"],  # chaque client a les siens : authorization, x-stainless-…
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        app: ASGIApp = self._foreign if self._is_foreign(scope) else super().__call__
        await app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        """Vrai si la page d'un autre site, à qui rien n'est permis, demande plus que des pages."""
        if scope["type"] != "http" or self.allow_all_origins or _is_open(scope["path"]):
            return False
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        return headers.get("sec-fetch-site") in _ELSEWHERE and not (
            scope["method"] == "OPTIONS"  # le navigateur demande : `preflight_response` lui répond
            or (origin is not None and self.is_allowed_origin(origin))
        )

    async def _foreign(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse la page d'un autre site."""
        error = ApiError(
            403,
            "la page d'un autre site n'appelle ce service que par fetch, et si qui le tient a "
            "permis son origine",
            code="cors_not_allowed",
        )
        await error.response()(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """La réponse à un navigateur qui demande s'il peut appeler ; un refus a sa phrase."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        origin = request_headers["origin"][:200]
        found = (
            f"la méthode {request_headers['access-control-request-method'][:20]} n'est pas permise"
            if self.is_allowed_origin(request_headers["origin"])
            else f"les pages de {origin} n'ont pas le droit d'appeler ce service ; demandez à qui "
            "le tient de permettre cette origine"
        )
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.startswith("access-control-") or name == "vary"
        }
        refusal = ApiError(400, found, code="cors_not_allowed", headers=headers)
        return refusal.response()
