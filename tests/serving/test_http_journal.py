"""Ce qui reste d'une requête : son nom dans la réponse, sa ligne au journal, ses compteurs."""

import io
import json
import logging
import re
import socket
import threading

import pytest
from http_helpers import (
    HTTP,
    NAME,
    LateEngine,
    ScriptedEngine,
    SlowModel,
    client_of,
    make_context,
    running_engine,
    serving,
    small_model,
    wait_until,
)

from gpt_architecture.cli.logs import FrenchText, JsonLines, TimedText, configure_logs
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.errors import GenerationError
from gpt_architecture.reports.console import shape_asides
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Failed, Finished, Overloaded, Produced
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.http.observer import Observer, RequestFilter
from gpt_architecture.serving.http.server import LoadingGate

COMPLETIONS = "/v1/completions"
KEY = "clef-de-passage-0123456789"
TEXT = "le passeur"


@pytest.fixture
def journal():
    """Le journal d'un service, en JSON ; l'appeler rend ses lignes."""
    loggers = [logging.getLogger(name) for name in ("gpt_architecture", "asyncio", "py.warnings")]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    written = io.StringIO()
    configure_logs(JsonLines(), RequestFilter())
    loggers[0].handlers[0].setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    for logger, handlers, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
    logging.captureWarnings(False)
    shape_asides(None)


def access(lines):
    """Les lignes des requêtes."""
    return [line for line in lines if "route" in line]


def samples(text, name):
    """Les valeurs d'une mesure : étiquettes → nombre."""
    found = {}
    for labels, value in re.findall(rf"^{name}{{(.*)}} (.*)$", text, re.MULTILINE):
        found[tuple(re.findall(r'"([^"]*)"', labels))] = float(value)
    return found


def test_each_request_leaves_one_line(journal):
    """Heure, niveau, requête, clé, route, code, tokens, durée ; rien du texte, rien de la clé."""
    keys = KeyRing([f"equipe-a {KEY}"])
    with running_engine() as engine:
        observer = Observer(log_requests=True)
        with client_of(make_context(engine), keys=keys, observer=observer) as client:
            headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "abc-1.2_3"}
            body = {"prompt": TEXT, "max_tokens": 5, "ignore_eos": True}
            for stream in (False, True):
                answer = client.post(COMPLETIONS, json={**body, "stream": stream}, headers=headers)
                assert answer.status_code == 200
                assert answer.headers["x-request-id"] == "abc-1.2_3"
            client.get("/v1/models/petit?secret", headers=headers)
    lines = journal()
    written = [line for line in access(lines) if line["route"] == COMPLETIONS]
    assert len(written) == 2
    for line in written:
        expected = {
            "level": "info",
            "request_id": "abc-1.2_3",
            "key": "equipe-a",
            "method": "POST",
            "status": 200,
            "model": NAME,
            "prompt_tokens": len(TEXT),
            "completion_tokens": 5,
            "error": None,
            "ending": None,
        }
        assert {name: line[name] for name in expected} == expected
        assert 0 < line["first_token_milliseconds"] < line["milliseconds"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d", line["time"])
    assert access(lines)[-1]["route"] == "/v1/models/{name:path}"
    everything = json.dumps(lines)
    assert KEY not in everything
    assert TEXT not in everything
    assert (access(lines)[-1]["model"], "?secret" in everything) == (None, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", ["", "a b", "a" * 129, "é", "a\tb", "<script>", '"', "a\\nerreur : b"]
)
def test_an_unsafe_request_id_is_replaced(given):
    """Ce qu'un client envoie n'entre au journal que s'il ne peut rien y écrire."""
    with client_of(make_context(ScriptedEngine())) as client:
        answer = client.get("/health", headers={"X-Request-Id": given.encode()})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        two = client.get("/health", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
        assert re.fullmatch("[0-9a-f]{32}", two.headers["x-request-id"])


@pytest.mark.slow
def test_every_response_is_named():
    """Refus, pannes, page d'ailleurs, attente, et ce qui n'est pas du HTTP."""
    context = make_context(ScriptedEngine(error=RuntimeError("panne")), body_bytes=100)
    page = {"Origin": "https://exemple.fr", "Access-Control-Request-Method": "POST"}
    options = {"keys": KeyRing([KEY]), "origins": ["https://exemple.fr"]}
    headers = {"Authorization": f"Bearer {KEY}"}
    logging.getLogger("gpt_architecture").setLevel("CRITICAL")
    try:
        with client_of(context, **options) as client:
            answers = [
                client.get("/v1/models"),
                client.get("/nulle-part", headers=headers),
                client.get(COMPLETIONS, headers=headers),
                client.post(COMPLETIONS, json={"prompt": 3}, headers=headers),
                client.post(COMPLETIONS, json={"prompt": "a"}, headers=headers),
                client.post(COMPLETIONS, content=b" " * 101, headers=headers),
                client.options(COMPLETIONS, headers=page),
                client.options(COMPLETIONS, headers={**page, "Origin": "https://autre.fr"}),
            ]
    finally:
        logging.getLogger("gpt_architecture").setLevel("INFO")
    statuses = [answer.status_code for answer in answers]
    assert statuses == [401, 404, 405, 400, 500, 413, 200, 400]
    with serving(LoadingGate(ScriptedEngine)) as url:
        answers += [HTTP.get(url + path) for path in ("/health", "/live", "/studio")]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(b"\x16\x03\x01\r\n\r\n")
            assert b"x-request-id: " in link.recv(65536)
    names = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error",
    [RuntimeError("cause précise"), GenerationError("cause précise", expected="y", remedy="z")],
)
def test_the_cause_of_a_failure_is_in_the_journal(journal, error, stream):
    """La pile d'appels, sous le nom de la requête, au niveau d'une erreur."""
    engine = ScriptedEngine([Failed(error=error)])
    with client_of(make_context(engine), observer=Observer(log_requests=True)) as client:
        answer = client.post(
            COMPLETIONS,
            json={"prompt": TEXT, "stream": stream},
            headers={"X-Request-Id": "celle-ci"},
        )
    assert answer.status_code == 500
    failure, line = journal()
    assert (failure["level"], failure["request_id"]) == ("error", "celle-ci")
    assert failure["exception"].startswith("Traceback")
    assert "cause précise" in failure["exception"]
    assert (line["status"], line["error"]) == (500, "server_error")
    assert TEXT not in json.dumps([failure, line])


@pytest.mark.slow
def test_a_failure_in_the_middle_of_a_stream_is_in_the_journal(journal):
    """Le code 200 est parti : la ligne porte le motif, et la pile d'appels est là."""
    engine = LateEngine([Produced(piece=Piece(text="début", token=1))])
    app = create_app(make_context(engine), observer=Observer(log_requests=True))
    with (
        serving(app) as url,
        HTTP.stream("POST", url + COMPLETIONS, json={"prompt": "a", "stream": True}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        engine.on_event(Failed(error=RuntimeError("cause précise")))
        list(lines)
        wait_until(lambda: len(journal()) == 2)
    failure, line = journal()
    assert failure["request_id"] == line["request_id"] == response.headers["x-request-id"]
    assert "cause précise" in failure["exception"]
    assert (line["status"], line["error"], line["completion_tokens"]) == (200, "server_error", 1)


def test_a_model_failure_names_the_requests_it_ends(journal):
    """Le fil du moteur n'est dans aucune requête : il dit lesquelles il perd."""

    class Broken(SlowModel):
        broken = False

        def __call__(self, *args, **options):
            if self.broken:
                raise RuntimeError("noyau en panne")
            return super().__call__(*args, **options)

    model = Broken(small_model(), 0.0)
    with running_engine(model, drafts=0) as engine, client_of(make_context(engine)) as client:
        engine.wait_started()
        model.broken = True
        headers = {"X-Request-Id": "celle-ci"}
        assert client.post(COMPLETIONS, json={"prompt": "a"}, headers=headers).status_code == 500
    failure, request = journal()
    assert "celle-ci" in failure["message"]
    assert request["request_id"] == "celle-ci"
    for line in (failure, request):
        assert line["level"] == "error"
        assert "noyau en panne" in line["exception"]


@pytest.mark.slow
def test_who_leaves_is_said_to(journal):
    """Abandon avant la réponse, ou au milieu du flux : dit, avec les tokens écrits."""
    engine = LateEngine([Produced(piece=Piece(text="début", token=1))])
    app = create_app(make_context(engine), observer=Observer(log_requests=True))
    with serving(app) as url:
        body = {"prompt": "abc", "stream": True}
        with HTTP.stream("POST", url + COMPLETIONS, json=body) as response:
            next(response.iter_lines())
        wait_until(lambda: len(journal()) == 1)
        content = json.dumps({"prompt": "abc"})
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n{content}".encode()
            )
            wait_until(lambda: len(engine.requests) == 2)
        wait_until(lambda: len(journal()) == 2)
        metrics = HTTP.get(url + "/metrics").text
    lines = [{name: line[name] for name in ("status", "ending")} for line in journal()[:2]]
    assert lines == [{"status": 200, "ending": "abandon"}, {"status": 499, "ending": "abandon"}]
    assert [line["completion_tokens"] for line in journal()[:2]] == [1, 1]
    assert samples(metrics, "http_requests_total")[COMPLETIONS, "POST", "499"] == 1


@pytest.mark.slow
def test_a_slow_reader_is_no_failure(journal):
    """Qui ne lit plus est un abandon, pas une panne du service."""
    engine = LateEngine()
    context = make_context(engine, send_seconds=0.3)
    app = create_app(context, observer=Observer(log_requests=True))
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as link:
            content = b'{"prompt": "a", "stream": true}'
            link.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            wait_until(lambda: engine.requests)
            ended = threading.Event()

            def write():
                while not ended.wait(0.01):
                    engine.on_event(Produced(piece=Piece(text="x" * 200_000, token=1)))

            writer = threading.Thread(target=write)
            writer.start()
            try:
                wait_until(journal)
            finally:
                ended.set()
                writer.join()
    (line,) = journal()
    assert line["ending"] == "abandon"


def test_refusals_are_counted_wherever_they_come_from():
    """429 du moteur, de la porte et des clés, 401, adresses inconnues : chacun dans sa case."""
    end = Finished(reason="length", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    engine = ScriptedEngine([end])
    keys = KeyRing([f"sobre {KEY} requests/min=4", f"libre {KEY}-libre"])
    free = {"Authorization": f"Bearer {KEY}-libre"}
    with client_of(make_context(engine), keys=keys) as client:
        for _ in range(6):
            client.post(
                COMPLETIONS, json={"prompt": "a"}, headers={"Authorization": f"Bearer {KEY}"}
            )
        engine.error = Overloaded(64, 3.2)
        client.post(COMPLETIONS, json={"prompt": "a"}, headers=free)
        for number in range(3):
            client.get(f"/nulle-part/{number}", headers=free)
            client.request(f"X{number}", "/v1/models", headers=free)
        client.get("/v1/models")
        client.get("/v1/models", headers={"Authorization": "Bearer fausse"})
        text = client.get("/metrics").text
    assert samples(text, "http_requests_total") == {
        (COMPLETIONS, "POST", "200"): 4,
        (COMPLETIONS, "POST", "429"): 3,
        ("(inconnue)", "GET", "404"): 3,
        ("/v1/models", "AUTRE", "405"): 3,
        ("/v1/models", "GET", "401"): 2,
    }
    failures = samples(text, "gpt_architecture_key_failures_total")
    assert failures == {("absente",): 1, ("inconnue",): 1}
    by_key = samples(text, "gpt_architecture_key_requests_total")
    assert by_key["sobre", "200"] == 4
    assert by_key["sobre", "429"] == 2
    assert samples(text, "gpt_architecture_key_tokens_total")["sobre", "completion"] == 4
    assert KEY not in text


@pytest.mark.slow
def test_the_gate_s_refusals_are_counted_too():
    """Avant que la porte laisse entrer, et avant que le modèle soit là."""
    context = make_context(ScriptedEngine(), requests=1)
    observer, ready = Observer(), threading.Event()

    def build():
        ready.wait(10)
        return create_app(context, observer=observer)

    gate = LoadingGate(build, observer)
    with serving(gate, limits=context.limits) as url:
        gate.start(lambda: None)
        for path in ("/v1/models", "/n-importe-quoi", "/health"):
            assert HTTP.get(url + path).status_code == 503
        ready.set()
        wait_until(lambda: HTTP.get(url + "/live").status_code == 200)
        wait_until(lambda: HTTP.get(url + "/ready").status_code == 200)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: HTTP.get(url + "/v1/models").status_code == 429)
            found = samples(HTTP.get(url + "/metrics").text, "http_requests_total")
    assert found["(chargement)", "GET", "503"] == 2
    assert found["/health", "GET", "503"] == 1
    assert found["/v1/models", "GET", "429"] == 1


def record(message, *, level=logging.INFO, error=None):
    """Un événement du journal."""
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("x", level, "", 0, message, (), info)


def test_levels_and_causes_are_said():
    """Une erreur n'est pas un avertissement, et sa cause suit."""
    text = FrenchText()
    assert text.format(record("bonjour")) == "bonjour"
    assert text.format(record("hum", level=logging.WARNING)) == "avertissement : hum"
    said = text.format(record("aïe", level=logging.ERROR, error=ValueError("cause")))
    assert said.startswith("erreur : aïe\n  ")
    assert "ValueError: cause" in said
    timed = TimedText().format(record("aïe", level=logging.ERROR))
    assert re.fullmatch(r"[\d-]+T\S+ erreur aïe", timed)


@pytest.mark.parametrize("form", [FrenchText, TimedText, JsonLines])
def test_no_text_forges_a_line(form):
    """Un saut de ligne ou un caractère de commande ne fait ni ligne, ni couleur."""
    hostile = "a\n2026-01-01T00:00:00 erreur b\r\x1b[31mc\x85d\u2028e"
    said = form().format(record("x", level=logging.ERROR, error=ValueError(hostile)))
    assert all(line.startswith("  ") for line in said.splitlines()[1:])
    assert not re.search("[\r\x1b\x85\u2028]", said)
    if form is JsonLines:
        assert json.loads(said)["level"] == "error"
