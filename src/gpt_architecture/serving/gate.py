"""Répondre avant que le modèle soit chargé : 503, et l'application dès qu'elle existe."""

from __future__ import annotations

import threading
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_architecture.serving.errors import ApiError

_LOADING = ApiError.unavailable("le modèle se charge ; réessayez dans un instant", code="loading")


class LoadingGate:
    """Construit l'application dans un fil, et la remplace en attendant.

    Args:
        build: charge le modèle et rend l'application.
    """

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        self.error: BaseException | None = None
        self._build = build
        self._app: ASGIApp | None = None

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
        if self._app is None:
            await _LOADING.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _load(self, on_failure: Callable[[], None]) -> None:
        try:
            self._app = self._build()
        except BaseException as error:
            self.error = error
            on_failure()
