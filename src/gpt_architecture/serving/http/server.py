"""Le serveur HTTP : ce qu'il répond avant que le modèle soit chargé, ses connexions, son arrêt."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.serving.api_errors import ApiError, install_handlers
from gpt_architecture.serving.engine.messages import EngineState
from gpt_architecture.serving.http.access import Exchange
from gpt_architecture.serving.http.middleware import (
    PROBES,
    HeadMiddleware,
    OriginsMiddleware,
    is_studio_file,
)
from gpt_architecture.serving.http.observer import REQUEST_ID, UNKNOWN, ObservedMiddleware, Observer
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.studio.files import files_router, not_ready

logger = logging.getLogger(__name__)

_BACKLOG = 512
_LAST_READ = 0.25  # secondes : ce qui est déjà en route vers une connexion ouverte est encore lu
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows n'en a pas


def bind(host: str, port: int) -> socket.socket:
    """Une prise qui écoute ; le port 0 en choisit un libre.

    Raises:
        ConfigurationError: adresse inconnue, port pris ou refusé.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Le protocole est dit : sans lui, asyncio ne donne pas TCP_NODELAY aux connexions, et une
        # réponse envoyée en deux fois attend 40 ms l'accusé de réception de la première.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigurationError(
            f"impossible d'écouter sur {host}, port {port} : {reason(error)}",
            expected="une adresse de cette machine et un port libre",
            remedy="changez `host` ou `port`",
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """L'adresse à donner à un client."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """Sert une application jusqu'à un signal, puis laisse finir ce qui est commencé.

    Args:
        app: application ASGI.
        limits: bornes des connexions.
        drain_seconds: temps laissé aux requêtes en cours après le premier signal.
        on_drain: appelé au premier signal.
        on_reload: appelé dans la boucle après un SIGHUP ; None : il arrête le processus, comme
            d'habitude.
        observer: suit aussi ce qui n'est pas une requête lisible.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        drain_seconds: float,
        on_drain: Callable[[], None] = lambda: None,
        on_reload: Callable[[], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        observer = observer or Observer()

        def protocol(*args: Any, **options: Any) -> BoundedProtocol:
            return BoundedProtocol(
                *args, header_seconds=limits.header_seconds, observer=observer, **options
            )

        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # qui appelle est qui se connecte, quoi que dise un en-tête
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )
        super().__init__(config)
        self.signal: int | None = None
        self._on_drain, self._on_reload = on_drain, on_reload
        self._reload_asked, self._had_terminal = False, os.isatty(_STDERR)
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # ses lignes sont en anglais

    def serve_until_stopped(self, listener: socket.socket) -> int:
        """Sert ; rend 128 + le numéro du signal qui l'arrête, ou 0."""
        self.run(sockets=[listener])
        return 0 if self.signal is None else 128 + self.signal

    def request_stop(self) -> None:
        """Demande l'arrêt, de n'importe quel thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Le premier signal laisse finir, le second coupe ; sans effet hors du thread principal."""
        self._loop = asyncio.get_running_loop()
        try:
            previous = {number: signal.signal(number, self._stop) for number in _SIGNALS}
            if self._on_reload is not None and _HANG_UP is not None:
                previous[_HANG_UP] = signal.signal(_HANG_UP, self._hang_up)
        except ValueError:  # hors du thread principal : l'appelant arrête par `request_stop`
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """N'accepte plus de connexions, lit ce qui est déjà arrivé, puis laisse finir."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_READ)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ce qui se fait dix fois par seconde."""
        if self._reload_asked and self._on_reload is not None:
            self._reload_asked = False
            self._on_reload()
        return await super().on_tick(counter)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP : relire, sauf si c'est le terminal qui se ferme."""
        if self._had_terminal and not os.isatty(_STDERR):
            self._stop(number, frame)
        self._reload_asked = True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.signal = number
        self.should_exit = True
        # Pas d'ici : le signal a pu couper une ligne du journal, qu'on ne peut rouvrir.
        self._loop.call_soon_threadsafe(self._on_drain)


class BoundedProtocol(H11Protocol):
    """Une connexion dont les en-têtes arrivent à temps, et dont les refus ont la forme attendue.

    Args:
        header_seconds: temps laissé pour envoyer les en-têtes d'une requête.
        observer: suit les refus.
    """

    def __init__(
        self, *args: Any, header_seconds: float, observer: Observer, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._header_seconds, self._observer = header_seconds, observer
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Une connexion s'ouvre : ses premiers en-têtes sont attendus."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Des octets arrivent."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._header_timer is None and self.conn.trailing_data[0]:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """La connexion est finie."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse ce qui n'est pas du HTTP, ou des en-têtes trop longs."""
        del msg
        self._refuse(
            ApiError.invalid(
                "ce n'est pas une requête HTTP lisible, ou ses en-têtes sont trop longs"
            )
        )

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._header_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(ApiError(408, "les en-têtes n'arrivent pas", code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        exchange = Exchange(status=error.status, code=error.code or error.kind)
        client = self.client[0] if self.client else ""
        self._observer.finish(exchange, method="-", route=UNKNOWN, client=client, seconds=0.0)
        body = json.dumps(error.envelope(), ensure_ascii=False).encode()
        headers = [
            (REQUEST_ID, exchange.request_id),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events = (
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


_LOADING = ApiError.unavailable("le modèle se charge ; réessayez dans un instant", code="loading")
_READ_BY_PEOPLE = frozenset({"/", "/docs"})
_LEAVING = ApiError.unavailable("le service s'arrête", code="draining")
_DEAD = ApiError.unavailable("le modèle ne s'est pas chargé", code="dead")


class LoadingGate:
    """Construit l'application dans un thread, et la remplace en attendant.

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
            on_failure: appelé du thread s'il échoue ; l'exception est dans `error`.
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
