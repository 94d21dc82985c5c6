"""Un span OpenTelemetry par requête, remis à un collecteur (OTLP) sans jamais faire attendre.

Le span est fait d'un coup quand la requête est finie, d'après ce que son `Exchange` en sait : ses
attributs suivent les conventions `gen_ai` et `http` d'OpenTelemetry, et rien du texte traité n'y
entre. Il part d'un autre thread, d'une file bornée ; un collecteur absent fait perdre des spans, et
rien d'autre.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gpt_architecture.config import VERSION
from gpt_architecture.errors import ConfigurationError, MissingDependencyError, reason
from gpt_architecture.serving.http.access import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

HEADERS = ("traceparent", "tracestate")
"""En-têtes par lesquels un appelant rattache la requête à sa trace (W3C)."""

EXTRA = "otel"
"""Groupe facultatif qui apporte OpenTelemetry."""

_SERVICE = "gpt-architecture"
_PATH = "/v1/traces"
_CLOSING = 2.0  # secondes laissées, à l'arrêt, aux spans qui restent
_OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/embeddings": "embeddings",
}
_ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing:
    """Fait un span de chaque requête finie.

    Args:
        exporter: les remet ; il est arrêté par `close`.
        place: le collecteur, pour le journal.

    Raises:
        MissingDependencyError: OpenTelemetry n'est pas installé.
    """

    def __init__(self, exporter: SpanExporter, *, place: str = "le collecteur de traces") -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise _missing() from None
        library = logging.getLogger("opentelemetry")  # ses lignes sont en anglais : voir `_Told`
        library.propagate = False
        library.addHandler(logging.NullHandler())
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": _SERVICE}))
        self._exporter = _Told(exporter, place)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(self._exporter)  # type: ignore[arg-type]
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gpt_architecture.serving", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self, exchange: Exchange, *, method: str, route: str, status: int, seconds: float
    ) -> str | None:
        """Fait le span d'une requête finie ; rend l'identifiant de sa trace.

        Il ne lève rien : une panne ici se dit au journal, et la réponse est déjà partie.
        """
        try:
            return self._record(exchange, method, route, status, seconds)
        except Exception as error:
            logger.warning("span non fait : %s", reason(error))
            return None

    def _record(
        self, exchange: Exchange, method: str, route: str, status: int, seconds: float
    ) -> str | None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        end = time.time_ns()
        attributes = _attributes(exchange, method, route, status)
        operation = attributes.get("gen_ai.operation.name")
        generates = operation is not None and exchange.model is not None
        span = self._tracer.start_span(
            f"{operation} {exchange.model}" if generates else f"{method} {route}",
            context=self._propagator.extract(exchange.trace),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=end - round(seconds * 1e9),
        )
        if status >= 500 or exchange.ending == "coupure":
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=end)
        found = span.get_span_context()
        return f"{found.trace_id:032x}" if found.is_valid else None

    def close(self) -> None:
        """Envoie ce qui reste, sans attendre plus de deux secondes."""
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_CLOSING)
        if last.is_alive():
            self._exporter.shutdown()


class _Told:
    """Un exportateur dont l'échec se dit une fois, en français, et le retour aussi."""

    def __init__(self, exporter: SpanExporter, place: str) -> None:
        self._exporter, self._place = exporter, place
        self._failed = False

    def export(self, spans: Any) -> Any:
        """Remet des spans."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result = self._exporter.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failed:
            logger.warning("%s ne prend pas les spans : ils sont perdus.", self._place)
        elif self._failed and not failed:
            logger.info("%s prend de nouveau les spans.", self._place)
        self._failed = failed
        return result

    def shutdown(self) -> None:
        """L'arrête."""
        self._exporter.shutdown()


def _attributes(
    exchange: Exchange, method: str, route: str, status: int
) -> dict[str, str | int | float | list[str]]:
    """Ce qu'un span dit d'une requête ; un attribut inconnu n'y est pas."""
    first = exchange.first_token
    said: dict[str, str | int | float | list[str] | None] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "error.type": exchange.ending or (exchange.code or str(status) if status >= 400 else None),
        "gpt_architecture.request_id": exchange.request_id,
        "gpt_architecture.key": None if exchange.access is None else exchange.access.name,
        "gen_ai.operation.name": _OPERATIONS.get(route),
        "gen_ai.provider.name": None if exchange.model is None else _SERVICE,
        "gen_ai.request.model": exchange.model,
        "gen_ai.response.model": exchange.model,
        "gen_ai.response.finish_reasons": exchange.finishes or None,
        "gen_ai.response.time_to_first_chunk": None if first is None else first - exchange.started,
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.completion_tokens,
    }
    return {name: value for name, value in said.items() if value is not None}


def tracing_to(url: str | None, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Ce qui remet les spans au collecteur demandé, ou à celui que nomme l'environnement.

    Args:
        url: adresse d'un collecteur qui parle OTLP sur HTTP ; None : celle que donnent les
            variables d'OpenTelemetry (`OTEL_EXPORTER_OTLP_ENDPOINT`…).
        environment: ces variables.

    Returns:
        None si personne n'en demande.

    Raises:
        ConfigurationError: `url` n'est pas une adresse HTTP.
        MissingDependencyError: OpenTelemetry n'est pas installé, et `url` le demande.
    """
    named = next((environment[name] for name in _ASKED if environment.get(name)), None)
    if url is None and (named is None or _is_declined(environment)):
        return None
    if url is not None:
        _check_url(url)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        if url is not None:
            raise _missing() from None
        logger.warning("%s est posée, mais aucune trace ne partira : %s", _ASKED[0], _missing())
        return None
    endpoint = None if url is None else url.rstrip("/").removesuffix(_PATH) + _PATH
    host = urlsplit(endpoint or named or "").hostname
    return Tracing(OTLPSpanExporter(endpoint=endpoint), place=f"le collecteur de traces ({host})")


def _is_declined(environment: Mapping[str, str]) -> bool:
    """Vrai si l'environnement ne veut pas de traces, ou les veut par un autre protocole."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return True
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return True
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), None)
    if protocol in (None, "http/protobuf"):
        return False
    logger.warning(
        "le protocole OTLP %s n'est pas pris en charge : aucune trace ne partira (http/protobuf "
        "l'est).",
        protocol[:40],
    )
    return True


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        correct = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # un port qui n'en est pas un
        correct = False
    if not correct:
        raise ConfigurationError.wrong(
            "`otlp`",
            url,
            expected="l'adresse d'un collecteur OTLP sur HTTP, comme http://localhost:4318",
        )


def _missing() -> MissingDependencyError:
    return MissingDependencyError(
        "opentelemetry-exporter-otlp-proto-http",
        purpose="remettre les traces à un collecteur",
        extra=EXTRA,
    )
