"""Ce que HTTP et les navigateurs attendent de toute adresse : HEAD comme GET, et CORS."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_architecture.serving.openai.errors import ApiError

WARNING = "X-Constraint-Warning"
"""En-tête de réponse : la contrainte demande plus de tokens que la requête n'en accorde."""

_METHODS = ("GET", "HEAD", "POST")
_EXPOSED = (
    "Retry-After",
    WARNING,
    "X-Request-Id",
)  # ce qu'une page peut lire d'une réponse


class HeadMiddleware:
    """Répond à HEAD comme à GET, sans le corps.

    Args:
        app: application qui ne connaît que GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
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
    avant les clés, et les erreurs aussi la traversent.

    Args:
        app: application appelée.
        origins: origines permises (voir `serving.http.origins`) ; vide : aucune page d'ailleurs.
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
