"""Répondre avant que le modèle soit chargé : 503, et l'application dès qu'elle existe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_architecture.serving.api_errors import ApiError, install_handlers
from gpt_architecture.serving.engine.requests import EngineState
from gpt_architecture.serving.http.middleware import (
    PROBES,
    HeadMiddleware,
    OriginsMiddleware,
    is_studio_file,
)
from gpt_architecture.serving.http.observer import ObservedMiddleware, Observer
from gpt_architecture.serving.studio.files import files_router, not_ready

_LOADING = ApiError.unavailable("le modèle se charge ; réessayez dans un instant", code="loading")
_READ_BY_PEOPLE = frozenset({"/", "/docs"})
_LEAVING = ApiError.unavailable("le service s'arrête", code="draining")
_DEAD = ApiError.unavailable("le modèle ne s'est pas chargé", code="dead")


class LoadingGate:
    """Construit l'application dans un fil, et la remplace en attendant.

    Args:
        build: charge le modèle et rend l'application.
        observer: suit les requêtes venues avant elle.
        origins: pages web d'ailleurs qui peuvent lire les réponses d'attente (CORS).

    Attributes:
        error: pourquoi elle ne viendra jamais.
        draining: vrai dès que l'arrêt est demandé : `/ready` le dit, tout le reste continue.
    """

    def __init__(
        self,
        build: Callable[[], ASGIApp],
        observer: Observer | None = None,
        *,
        origins: Sequence[str] = (),
    ) -> None:
        self.error: BaseException | None = None
        self.draining = False
        self._build = build
        self._app: ASGIApp | None = None
        self._pages = FastAPI(openapi_url=None)
        self._pages.include_router(files_router(self._state))
        self._pages.add_middleware(HeadMiddleware)
        install_handlers(self._pages)
        self._observed = ObservedMiddleware(
            OriginsMiddleware(self._wait, origins=origins),
            observer=observer or Observer(),
            route=_route_of,
        )

    def start(self, on_failure: Callable[[], None]) -> None:
        """Commence le chargement.

        Args:
            on_failure: appelé du fil s'il échoue ; l'exception est dans `error`.
        """
        threading.Thread(
            target=self._load, args=(on_failure,), name="chargement", daemon=True
        ).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http":
            return
        leaving = self.draining and scope["path"] == "/ready"
        app: ASGIApp = self._observed if self._app is None or leaving else self._app
        await app(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._waiting(scope)(scope, receive, send)

    def _waiting(self, scope: Scope) -> ASGIApp:
        """Qui répond en attendant : une page à qui en demande une, l'enveloppe d'OpenAI sinon."""
        path: str = scope["path"]
        if path == "/live":
            return JSONResponse({"status": "ok"}) if self.error is None else _DEAD.response()
        if self.draining:
            return _LEAVING.response()
        if is_studio_file(path):
            return self._pages
        if path in _READ_BY_PEOPLE and "text/html" in Headers(scope=scope).get("accept", ""):
            return not_ready(self._state(), path)
        return _LOADING.response()

    def _state(self) -> EngineState:
        return "starting" if self.error is None else "dead"

    def _load(self, on_failure: Callable[[], None]) -> None:
        try:
            self._app = self._build()
        except BaseException as error:
            self.error = error
            on_failure()


def _route_of(path: str) -> str:
    """Les routes n'existent pas encore : seules les sondes ont un nom."""
    return path if path in PROBES else "(chargement)"
