"""Ce qui reste d'une requête HTTP finie : ses compteurs, et une ligne au journal.

Tout est écrit à la fin, quand tokens et durée sont connus, même pour un flux. Un client n'y crée ni
étiquette ni ligne à sa guise : routes par leur gabarit, méthodes connues, noms du fichier de clés.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_architecture.serving.api_errors import MESSAGES, as_api_error
from gpt_architecture.serving.http.access import Exchange, current, entered, new_id
from gpt_architecture.serving.http.middleware import PROBES, SlowReader
from gpt_architecture.serving.http.tracing import HEADERS as TRACE_HEADERS
from gpt_architecture.serving.http.tracing import Tracing

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
"""En-tête qui nomme une requête : celui du client s'il est sain, le nôtre sinon."""

UNKNOWN = "(inconnue)"
"""Route d'une adresse qui n'en a pas."""

KEY_FAILURES = ("absente", "inconnue")
"""Pourquoi une clé est refusée."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_GONE = 499  # le client est parti avant la réponse

RouteOf = Callable[[str], str]
"""D'un chemin demandé au gabarit de sa route."""


class RequestFilter(logging.Filter):
    """Joint à chaque ligne du journal l'identifiant de la requête en cours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Vrai, toujours."""
        if not hasattr(record, "request_id"):
            record.request_id = current().request_id
        return True


class Observer:
    """Écrit ce qui reste d'une requête finie : ses compteurs, et sa ligne au journal.

    Args:
        log_requests: écrit la ligne.
        tracing: fait un span de chaque requête, sauf des sondes ; None : aucun.
    """

    def __init__(self, *, log_requests: bool = False, tracing: Tracing | None = None) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=None)

        self._log, self._tracing = log_requests, tracing
        self._requests = counter(
            "http_requests", "Requêtes HTTP finies.", "handler", "method", "status"
        )
        self._failures = counter(
            "gpt_architecture_key_failures", "Clés d'accès refusées.", "reason"
        )
        self._by_key = counter(
            "gpt_architecture_key_requests", "Requêtes HTTP d'une clé.", "key", "status"
        )
        self._tokens = counter("gpt_architecture_key_tokens", "Tokens d'une clé.", "key", "kind")
        for reason in KEY_FAILURES:
            self._failures.labels(reason)  # à zéro plutôt qu'absents

    def register(self, registry: CollectorRegistry) -> None:
        """Ajoute les compteurs à un relevé ; ils comptent même avant que le modèle soit chargé."""
        for counter in (self._requests, self._failures, self._by_key, self._tokens):
            registry.register(counter)

    def close(self) -> None:
        """Plus rien ne finira : les derniers spans partent."""
        if self._tracing is not None:
            self._tracing.close()

    def finish(
        self, exchange: Exchange, *, method: str, route: str, client: str, seconds: float
    ) -> None:
        """Une requête est finie."""
        method = method if method in _METHODS else "AUTRE"
        status = _GONE if exchange.status is None else exchange.status
        if status == _GONE:
            exchange.ending = exchange.ending or "abandon"
        key, tokens = None, (exchange.prompt_tokens, exchange.completion_tokens)
        self._requests.labels(route, method, str(status)).inc()
        if exchange.access is not None:
            key = exchange.access.name
            exchange.access.settle(exchange.reserved, sum(count or 0 for count in tokens))
            self._by_key.labels(key, str(status)).inc()
            for kind, value in zip(("prompt", "completion"), tokens, strict=True):
                if value is not None:
                    self._tokens.labels(key, kind).inc(value)
        if exchange.key_failure is not None:
            self._failures.labels(exchange.key_failure).inc()
        trace = None
        if self._tracing is not None and route not in PROBES:
            trace = self._tracing.record(
                exchange, method=method, route=route, status=status, seconds=seconds
            )
        if not self._log:
            return
        first = exchange.first_token
        fields = {
            "client": client,
            "method": method,
            "route": route,
            "status": status,
            "model": exchange.model,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "milliseconds": round(1000 * seconds, 1),
            "first_token_milliseconds": None
            if first is None
            else round(1000 * (first - exchange.started), 1),
            "key": key,
            "error": exchange.code,
            "ending": exchange.ending,
        }
        if trace is not None:
            fields["trace_id"] = trace
        extra = {"fields": fields, "request_id": exchange.request_id}
        logger.info("%s", _line(fields), extra=extra)


class ObservedMiddleware:
    """Nomme chaque requête, et la suit jusqu'à sa fin ; aucune exception n'y passe sans trace.

    Args:
        app: application suivie.
        observer: reçoit les requêtes finies.
        route: nomme la route d'un chemin.
    """

    def __init__(self, app: ASGIApp, *, observer: Observer, route: RouteOf) -> None:
        self._app, self._observer, self._route = app, observer, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        asked = Exchange(request_id=_request_id(headers), path=scope["path"], trace=trace)
        with entered(asked) as exchange:
            await self._follow(exchange, scope, receive, send)

    async def _follow(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        complete = False

        async def named(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID] = exchange.request_id
                if exchange.path.startswith(MESSAGES):  # le nom que lit le client d'Anthropic
                    headers["request-id"] = exchange.request_id
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, named)
        except SlowReader:
            raise  # le serveur ferme la connexion
        except Exception as error:
            if exchange.status is not None:
                logger.error("réponse interrompue par une erreur imprévue", exc_info=error)
                raise
            await as_api_error(error).response()(scope, receive, named)
        except BaseException:
            exchange.ending = "coupure"  # le service s'arrête sans l'attendre
            raise
        finally:
            exchange.finish()
            if not complete:
                exchange.ending = exchange.ending or "abandon"
            self._observer.finish(
                exchange,
                method=scope["method"],
                route=self._route(scope["path"]),
                client=scope["client"][0] if scope.get("client") else "",
                seconds=time.perf_counter() - exchange.started,
            )


def route_finder(routes: Iterable[BaseRoute]) -> RouteOf:
    """De quoi nommer la route d'un chemin, que la requête y arrive ou soit refusée avant.

    Args:
        routes: celles de l'application et de chaque routeur qu'elle inclut.
    """
    known = [(each.path, each.path_regex) for each in routes if isinstance(each, Route)]

    def find(path: str) -> str:
        return next((name for name, pattern in known if pattern.match(path)), UNKNOWN)

    return find


def _request_id(headers: Headers) -> str:
    """L'identifiant que donne le client, s'il est seul et sain ; un nouveau sinon."""
    given = headers.getlist(REQUEST_ID)
    return given[0] if len(given) == 1 and _SANE_ID.fullmatch(given[0]) else new_id()


def _line(fields: dict[str, Any]) -> str:
    """La ligne d'une requête, pour une personne."""
    parts = ["{method} {route} {status}, {milliseconds:.0f} ms".format_map(fields)]
    if fields["prompt_tokens"] is not None:
        parts.append("{prompt_tokens} + {completion_tokens} tokens".format_map(fields))
    parts += [fields[name] for name in ("error", "ending") if fields[name]]
    parts += [f"par {fields['key']}"] if fields["key"] else []
    parts += [f"de {fields['client']}"] if fields["client"] else []
    return ", ".join(parts)
