"""Les traces OpenTelemetry : un span par requête, et jamais une réponse perdue pour elles."""

import logging
import sys
from contextlib import contextmanager

import pytest
from http_helpers import (
    NAME,
    ScriptedEngine,
    client_of,
    make_context,
    running_engine,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from trace_helpers import Collector

from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.errors import ConfigurationError, MissingDependencyError
from gpt_architecture.serving.engine.messages import Failed, Finished, Produced
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.http.observer import Observer
from gpt_architecture.serving.http.tracing import Tracing, tracing_to

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
KEY = "clef-" + "0123456789abcdef"
TEXT = "le passeur du lac"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
END = Finished(reason="stop", prompt_tokens=3, completion_tokens=1, cached_tokens=2)


class Lines(logging.Handler):
    """Ce qui est dit au journal."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def at_least(self, level):
        return [each.getMessage() for each in self.records if each.levelno >= level]


@pytest.fixture
def journal():
    """Les lignes du journal, pendant un test."""
    logger, lines = logging.getLogger("gpt_architecture"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


@contextmanager
def traced(context, **options):
    """Un client du service, et les spans, une fois sorti."""
    exporter, spans = InMemorySpanExporter(), []
    observer = Observer(log_requests=True, tracing=Tracing(exporter))
    with client_of(context, observer=observer, **options) as client:
        yield client, spans
    observer.close()
    spans += exporter.get_finished_spans()


@pytest.mark.parametrize("stream", [False, True])
def test_one_span_says_what_a_request_did(stream, journal):
    """Modèle, tokens, raison d'arrêt, premier token, code ; rien du texte, rien de la clé."""
    keys = KeyRing([f"equipe-a {KEY}"])
    body = {"prompt": TEXT, "max_tokens": 5, "ignore_eos": True, "stream": stream}
    with running_engine() as engine, traced(make_context(engine), keys=keys) as (client, spans):
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "celle-ci"}
        assert client.post(COMPLETIONS, json=body, headers=headers).status_code == 200
        client.get("/health")
        client.get("/metrics")
    (span,) = spans
    assert (span.name, span.kind) == (f"text_completion {NAME}", SpanKind.SERVER)
    first = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0 < first < (span.end_time - span.start_time) / 1e9
    expected = {
        "http.request.method": "POST",
        "http.route": COMPLETIONS,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "gpt-architecture",
        "gen_ai.request.model": NAME,
        "gen_ai.response.model": NAME,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.response.time_to_first_chunk": first,
        "gen_ai.usage.input_tokens": len(TEXT),
        "gen_ai.usage.output_tokens": 5,
        "gpt_architecture.request_id": "celle-ci",
        "gpt_architecture.key": "equipe-a",
    }
    assert dict(span.attributes) == expected
    assert span.resource.attributes["service.name"] == "gpt-architecture"
    assert TEXT not in span.to_json()
    assert KEY not in span.to_json()
    (line,) = [each for each in journal.records if getattr(each, "fields", {}).get("trace_id")]
    assert line.fields["trace_id"] == f"{span.context.trace_id:032x}"


def test_every_way_to_ask_has_its_operation():
    """Conversations et vecteurs ; ce qui n'écrit rien est nommé par sa route."""
    events = [Produced(piece=Piece(text="oui", token=1)), END]
    with traced(make_context(ScriptedEngine(events), chat=True)) as (client, spans):
        messages = [{"role": "user", "content": "bonjour"}]
        client.post(CHAT, json={"messages": messages})
        client.post("/v1/responses", json={"input": "bonjour"})
        client.post("/v1/messages", json={"messages": messages, "model": NAME, "max_tokens": 4})
        client.post(EMBEDDINGS, json={"input": "abc"})
        client.get("/v1/models")
        client.post(CHAT, json={})
        client.get("/nulle/part")
    chat, responses, messages, vectors, models, refused, nowhere = spans
    assert {each.name for each in (chat, responses, messages)} == {f"chat {NAME}"}
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert vectors.name == f"embeddings {NAME}"
    assert vectors.attributes["gen_ai.usage.input_tokens"] == 3
    assert models.name == "GET /v1/models"
    assert refused.name == f"POST {CHAT}"
    assert refused.attributes["error.type"] == "invalid_request_error"
    assert refused.status.status_code is StatusCode.UNSET  # la faute est à qui demande
    assert nowhere.name == "GET (inconnue)"


def test_a_failure_is_an_error():
    """500 : le span porte l'erreur, la phrase de l'exception n'y est pas."""
    engine = ScriptedEngine([Failed(error=RuntimeError("cause précise"))])
    with traced(make_context(engine)) as (client, spans):
        assert client.post(COMPLETIONS, json={"prompt": "a"}).status_code == 500
    (span,) = spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "server_error"
    assert "cause précise" not in span.to_json()


def test_a_caller_s_trace_goes_on():
    """`traceparent` : même trace, même parent, et son choix de ne rien garder est suivi."""
    with traced(make_context(ScriptedEngine())) as (client, spans):
        for flags in ("01", "00"):
            sent = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "a=b"}
            client.get("/v1/models", headers=sent)
    (span,) = spans
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.context.trace_state.get("a") == "b"


@pytest.mark.parametrize("sent", ["", "00-0-0-0", "x" * 4000, f"00-{'0' * 32}-{PARENT}-01"])
def test_a_bad_trace_starts_a_new_one(sent):
    with traced(make_context(ScriptedEngine())) as (client, spans):
        assert client.get("/v1/models", headers={"traceparent": sent}).status_code == 200
    (span,) = spans
    assert span.parent is None
    assert span.context.trace_id


def ask(tracing):
    """Une requête suivie, puis l'arrêt du service."""
    observer = Observer(tracing=tracing)
    with client_of(make_context(ScriptedEngine()), observer=observer) as client:
        assert client.get("/v1/models").status_code == 200
    observer.close()


@pytest.mark.slow
def test_a_collector_receives_the_spans(monkeypatch):
    """Par l'adresse donnée, ou par les variables d'OpenTelemetry, son nom de service compris."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mon-service")
    with Collector() as collector:
        ask(tracing_to(collector.url))
        ask(tracing_to(f"{collector.url}/v1/traces/"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        ask(tracing_to(None))
    assert collector.paths == ["/v1/traces"] * 3
    assert [span.name for _, span in collector.spans] == ["GET /v1/models"] * 3
    named = {each.key: each.value.string_value for each in collector.spans[0][0].attributes}
    assert named["service.name"] == "mon-service"


@pytest.mark.parametrize("status", [None, 400, 500])
def test_a_dead_collector_loses_spans_and_nothing_else(status, monkeypatch, journal):
    """Ni réponse perdue, ni arrêt bloqué ; une seule ligne le dit, en français."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with Collector(status or 200) as collector:
        url = collector.url
        if status is not None:
            ask(tracing_to(url))
    if status is None:
        ask(tracing_to(url))
    assert journal.at_least(logging.WARNING) == [
        "le collecteur de traces (127.0.0.1) ne prend pas les spans : ils sont perdus."
    ]


def test_a_span_that_cannot_be_made_costs_nothing(monkeypatch, journal):
    """Une panne ici se dit au journal ; la réponse est intacte."""
    tracing = Tracing(InMemorySpanExporter())
    monkeypatch.setattr(tracing, "_record", lambda *_: 1 / 0)
    ask(tracing)
    (said,) = journal.at_least(logging.WARNING)
    assert said.startswith("span non fait")


def test_without_the_library(monkeypatch, journal):
    """Demandé : une phrase et la commande ; par une variable seulement : le service va sans."""
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    with pytest.raises(MissingDependencyError, match="otel"):
        tracing_to("http://127.0.0.1:4318")
    assert tracing_to(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}) is None
    (said,) = journal.at_least(logging.WARNING)
    assert "pip install" in said
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingDependencyError, match="otel"):
        Tracing(InMemorySpanExporter())


ASKED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ASKED, "OTEL_SDK_DISABLED": "true"},
        {**ASKED, "OTEL_TRACES_EXPORTER": "none"},
        {**ASKED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_environment_that_wants_no_traces(environment):
    assert tracing_to(None, environment) is None


@pytest.mark.parametrize("url", ["", "localhost:4318", "ftp://x", "http://", "http://x:y"])
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigurationError, match="otlp"):
        tracing_to(url, {})
