"""Ce qu'un client malveillant ou maladroit envoie : une erreur d'OpenAI, jamais un 500."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress

import httpx2
import pytest
from http_helpers import (
    HTTP,
    NAME,
    LateEngine,
    ScriptedEngine,
    SlowModel,
    check_envelope,
    client_of,
    closed,
    make_context,
    post,
    serving,
    small_model,
    small_service,
    wait_until,
)

from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Failed, Finished, Overloaded, Produced
from gpt_architecture.serving.http.middleware import GuardMiddleware
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.openai.streaming import unless_gone

COMPLETIONS = "/v1/completions"
JSON = {"Content-Type": "application/json"}

HOSTILE = {
    "vide": b"",
    "pas du JSON": b"{",
    "pas un objet": b"[1]",
    "null": b"null",
    "pas de l'UTF-8": b'{"prompt": "\xff"}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "temperature": Infinity}',
    "infini par debordement": b'{"prompt": "a", "temperature": 1e999}',
    "moitie de caractere": b'{"prompt": "a\\ud800"}',
    "moitie de caractere dans une cle": b'{"prompt": "a", "json_schema": {"\\uDFFF": 1}}',
    "true comme entier": b'{"prompt": "a", "max_tokens": true}',
    "true comme nombre": b'{"prompt": "a", "temperature": true}',
    "true comme token": b'{"prompt": [true]}',
    "flottant comme entier": b'{"prompt": "a", "max_tokens": 1.0}',
    "texte comme entier": b'{"prompt": "a", "n": "1"}',
    "entier comme booleen": b'{"prompt": "a", "stream": 1}',
    "n enorme": b'{"prompt": "a", "n": 1000000000}',
    "n nul": b'{"prompt": "a", "n": 0}',
    "max_tokens enorme": b'{"prompt": "a", "max_tokens": 1000000000}',
    "max_tokens negatif": b'{"prompt": "a", "max_tokens": -2}',
    "entier demesure": b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
    "graine de 65 bits": b'{"prompt": "a", "seed": 18446744073709551616}',
    "logprobs enorme": b'{"prompt": "a", "logprobs": 1000000}',
    "temperature negative": b'{"prompt": "a", "temperature": -1}',
    "top_p > 1": b'{"prompt": "a", "top_p": 1.5}',
    "trop d'arrets": json.dumps({"prompt": "a", "stop": ["a"] * 1000}).encode(),
    "arret qui n'est pas un texte": b'{"prompt": "a", "stop": [null]}',
    "arret immense": json.dumps({"prompt": "a", "stop": "a" * 10_000}).encode(),
    "liste vide": b'{"prompt": []}',
    "listes vides": b'{"prompt": [[]]}',
    "types meles": b'{"prompt": ["a", 1]}',
    "token inconnu": b'{"prompt": [999]}',
    "token negatif": b'{"prompt": [-1]}',
    "cent mille debuts": json.dumps({"prompt": ["a"] * 100_000}).encode(),
    "debuts fois n": json.dumps({"prompt": ["a"] * 33, "n": 2}).encode(),
    "JSON profond": b'{"prompt": "a", "json_schema": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
    "JSON abyssal": b"[" * 100_000,
    "champ d'OpenAI qui n'est pas d'ici": b'{"prompt": "a", "prediction": {}}',
    "best_of": b'{"prompt": "a", "best_of": 3}',
    "suffix": b'{"prompt": "a", "suffix": "b"}',
    "biais illisible": b'{"prompt": "a", "logit_bias": {"un": 1}}',
    "biais ailleurs": b'{"prompt": "a", "logit_bias": {"5000": 1}}',
    "biais demesure": b'{"prompt": "a", "logit_bias": {"5": 1e9}}',
    "stream_options sans flux": b'{"prompt": "a", "stream_options": {"include_usage": true}}',
    "regex mal ecrite": b'{"prompt": "a", "regex": "("}',
    "lettre inconnue": '{"prompt": "é"}'.encode(),
    "deux contraintes": b'{"prompt": "a", "regex": "a", "choices": ["a"]}',
}


@pytest.fixture(scope="module")
def service():
    """Le petit modèle, servi sur une vraie prise."""
    limits = {"body_bytes": 1 << 20, "body_seconds": 0.5, "header_seconds": 0.5}
    with small_service(limits=limits) as (url, engine):
        yield url, engine


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_get_an_envelope(service, name):
    """Chaque corps hostile est refusé par 400, en nommant ce qui ne va pas."""
    url, _ = service
    error = check_envelope(post(url, COMPLETIONS, HOSTILE[name]), 400)
    assert error["type"] == "invalid_request_error"


def test_the_service_survives_them(service):
    """Après tout cela, une requête honnête aboutit."""
    url, engine = service
    answer = post(url, COMPLETIONS, {"prompt": "bonjour", "max_tokens": 3, "temperature": 0})
    assert answer.status_code == 200
    assert engine.stats().failed == 0


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        ({"prompt": "a", "max_tokens": True}, "max_tokens", "entier"),
        ({"prompt": "a", "n": 0}, "n", "au moins 1"),
        ({"prompt": "a", "tools": [1]}, "tools", "pris en charge"),
        ({"prompt": 3}, "prompt", "texte"),
        ({"prompt": "a", "model": "gpt-4"}, "model", NAME),
    ],
)
def test_errors_name_the_field(service, body, param, word):
    """L'erreur nomme le champ, en français."""
    error = check_envelope(post(service[0], COMPLETIONS, body), 400, 404)
    assert error["param"] == param
    assert word in error["message"]


def test_other_refusals_have_the_envelope(service):
    """Adresse, méthode ou type de contenu : la même enveloppe."""
    url, _ = service
    check_envelope(HTTP.get(url + "/nulle/part"), 404)
    check_envelope(HTTP.get(url + COMPLETIONS), 405)
    check_envelope(HTTP.post(url + COMPLETIONS, data={"prompt": "a"}), 400)
    text = {"Content-Type": "text/plain"}
    check_envelope(post(url, COMPLETIONS, {"prompt": "a"}, headers=text), 400)


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "/v1/models/../../etc/passwd", "/studio/../x"]
)
def test_paths_do_not_escape(service, path):
    """Remonter l'arborescence ne mène nulle part."""
    with connect(service[0]) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = receive(link)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


@pytest.mark.slow
def test_large_bodies_are_refused_unread(service):
    """Un corps trop grand est refusé, annoncé ou non."""
    url, _ = service
    for size in (2, 2, 8, 8):  # la réponse arrive même au milieu de l'envoi
        check_envelope(post(url, COMPLETIONS, b" " * (size << 20)), 413)
    with connect(url) as link:
        link.sendall(head("Content-Length: 99999999999"))
        assert receive(link).startswith(b"HTTP/1.1 413")
    with connect(url) as link:
        link.sendall(head("Transfer-Encoding: chunked"))
        with suppress(OSError):  # le service répond puis ferme
            for _ in range(40):
                link.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        answer = receive(link)
        assert not answer or answer.startswith(b"HTTP/1.1 413")


def test_a_megabyte_of_headers_is_refused(service):
    """Des en-têtes démesurés ne sont pas gardés."""
    with connect(service[0]) as link:
        with suppress(OSError):
            link.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n")
        answer = receive(link)
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    if answer:
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["type"]


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"\x00" * 100])
def test_what_is_not_http_is_refused(service, garbage):
    """Du TLS, du bruit : 400 puis la connexion est fermée."""
    with connect(service[0]) as link:
        link.sendall(garbage + b"\r\n\r\n")
        answer = receive(link)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"invalid_request_error" in answer


@pytest.mark.slow
def test_slow_clients_are_let_go(service):
    """Des en-têtes ou un corps qui n'arrivent pas : 408."""
    with connect(service[0]) as link:
        link.sendall(b"GET /health HTTP/1.1\r\n")
        assert receive(link).startswith(b"HTTP/1.1 408")
    with connect(service[0]) as link:
        link.sendall(head("Content-Length: 100") + b'{"prompt"')
        answer = receive(link)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer


@pytest.mark.slow
def test_a_client_that_stops_reading_frees_its_slot():
    """Une réponse que personne ne lit est abandonnée, sa place rendue."""
    engine = LateEngine()
    context = make_context(engine, send_seconds=0.3)
    with serving(create_app(context)) as url, connect(url) as link:
        body = b'{"prompt": "a", "stream": true}'
        link.sendall(head(f"Content-Length: {len(body)}") + body)
        wait_until(lambda: engine.requests)
        for _ in range(200):
            if engine.cancelled:
                break
            engine.on_event(Produced(piece=Piece(text="x" * 200_000, token=1)))
            time.sleep(0.01)
        wait_until(lambda: engine.cancelled)


@pytest.mark.slow
def test_a_hundred_departures_leave_nothing_behind():
    """Cent clients partis au milieu d'un flux : toutes les places sont rendues."""
    with small_service(model=SlowModel(small_model(), 0.002), engine={"slots": 4}) as (url, engine):
        body = {"prompt": "le lac", "stream": True, "max_tokens": 200, "ignore_eos": True}
        for _ in range(100):
            with HTTP.stream("POST", url + COMPLETIONS, json=body, timeout=30) as response:
                assert response.status_code == 200
                next(response.iter_lines())
        wait_until(lambda: engine.stats().running + engine.stats().waiting == 0)
        assert engine.stats().finished.get("cancelled", 0) == 100
        assert engine.stats().failed == 0
        with pytest.raises(httpx2.TimeoutException):  # un client qui part avant toute réponse
            HTTP.post(url + COMPLETIONS, json={**body, "stream": False}, timeout=0.2)
        wait_until(lambda: engine.stats().running == 0)


def test_a_departure_keeps_nothing_of_another():
    """Une erreur partagée garderait la pile, et le corps, de chaque client parti."""

    class Gone:
        @staticmethod
        async def receive():
            return {"type": "http.disconnect"}

    async def leave():
        with pytest.raises(ApiError) as left:
            await unless_gone(Gone(), asyncio.sleep(60))
        return left.value

    first, second = asyncio.run(leave()), asyncio.run(leave())
    assert first.status == second.status == 499
    assert first is not second


def test_overload_says_when_to_come_back():
    """Plus de place : 429, avec le délai que propose le moteur."""
    engine = ScriptedEngine(error=Overloaded(64, 3.2))
    with client_of(make_context(engine)) as client:
        response = client.post(COMPLETIONS, json={"prompt": "a"})
        error = check_envelope(response, 429)
        assert error["type"] == "rate_limit_error"
        assert response.headers["retry-after"] == "4"


@pytest.mark.slow
def test_too_many_requests_at_once_are_refused_but_probes_answer():
    """Au-delà du nombre de requêtes, 429 ; /health répond encore."""
    context = make_context(ScriptedEngine(), requests=2)
    with serving(create_app(context), limits=context.limits) as url:
        links = [connect(url) for _ in range(2)]
        for link in links:
            link.sendall(head("Content-Length: 10"))
        wait_until(lambda: HTTP.get(url + "/v1/models").status_code == 429)
        assert HTTP.get(url + "/health").status_code == 200
        for link in links:
            link.close()
        wait_until(lambda: HTTP.get(url + "/v1/models").status_code == 200)


def test_a_probe_does_not_wait_for_a_crowd():
    """Cent requêtes arrivées ensemble sont comprises une par une ; la sonde, dès qu'elle est là."""
    order = []

    async def app(scope, _receive, _send):
        order.append(scope["path"])

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def crowd():
        guard = GuardMiddleware(app, limits=Limits())
        paths = [f"/{number}" for number in range(100)] + ["/health"]
        scopes = [{"type": "http", "path": path, "headers": []} for path in paths]
        await asyncio.gather(*(guard(scope, receive, None) for scope in scopes))

    asyncio.run(crowd())
    assert order == ["/health", *(f"/{number}" for number in range(100))]


def test_a_closed_engine_is_a_503():
    """Un moteur qui s'arrête : 503, et quand réessayer."""
    with client_of(make_context(ScriptedEngine(error=closed()))) as client:
        response = client.post(COMPLETIONS, json={"prompt": "a"})
        check_envelope(response, 503)
        assert "retry-after" in response.headers


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (RuntimeError("secret du modèle"), 500, "interne"),
        (ConfigurationError("x", expected="y", remedy="z"), 400, "attendu"),
    ],
)
def test_a_failed_sequence_before_its_first_token(error, status, word, caplog):
    """Une panne avant le premier token décide du code HTTP, en flux comme d'un coup."""
    caplog.set_level("CRITICAL")
    with client_of(make_context(ScriptedEngine([Failed(error=error)]))) as client:
        for stream in (False, True):
            response = client.post(COMPLETIONS, json={"prompt": "a", "stream": stream})
            message = check_envelope(response, status)["message"]
            assert word in message
            assert "secret" not in message


@pytest.mark.slow
def test_a_failure_in_the_middle_ends_the_stream_with_an_error():
    """Après le premier token, la panne est un événement du flux, et le flux finit."""
    engine = LateEngine([Produced(piece=Piece(text="début", token=1))])
    context = make_context(engine)
    body = {"prompt": "a", "stream": True}
    with (
        serving(create_app(context)) as url,
        HTTP.stream("POST", url + COMPLETIONS, json=body) as response,
    ):
        lines = response.iter_lines()
        assert "début" in next(lines)
        engine.on_event(Failed(error=RuntimeError("secret")))
        rest = [line for line in lines if line]
    assert '"error"' in rest[0]
    assert "secret" not in rest[0]
    assert rest[-1] == "data: [DONE]"


def test_time_runs_out():
    """Le temps laissé à la requête est écoulé : 504."""
    end = Finished(reason="timeout", prompt_tokens=1, completion_tokens=0, cached_tokens=0)
    engine = ScriptedEngine([end])
    with client_of(make_context(engine, request_seconds=5.0)) as client:
        before = time.monotonic()
        check_envelope(client.post(COMPLETIONS, json={"prompt": "a"}), 504)
        assert before < engine.requests[0].deadline <= time.monotonic() + 5.0


def test_a_refused_sequence_cancels_the_others():
    """Une requête de plusieurs suites est acceptée entière, ou pas du tout."""

    class Full(ScriptedEngine):
        def submit(self, request, on_event):
            if len(self.requests) == 2:
                raise Overloaded(2, 1.0)
            return super().submit(request, on_event)

    engine = Full()
    with client_of(make_context(engine)) as client:
        check_envelope(client.post(COMPLETIONS, json={"prompt": "a", "n": 4}), 429)
    assert sorted(set(engine.cancelled)) == [0, 1]


def test_a_long_conversation_is_laid_out_elsewhere(monkeypatch):
    """Mettre en forme deux mégaoctets de messages prend un quart de seconde : hors de la boucle."""
    threads = []

    def spy(messages, template, **options):
        threads.append(threading.current_thread().name)
        return render_chat(messages, template, **options)

    monkeypatch.setattr("gpt_architecture.serving.openai.planning.render_chat", spy)
    message = {"role": "user", "content": "bonjour"}
    long = {"role": "user", "content": "a " * 20_000}
    with client_of(make_context(ScriptedEngine(), chat=True)) as client:
        for messages in ([message], [long], [message] * 100):
            client.post("/tokenize", json={"messages": messages})
    loop, *others = threads
    assert loop not in others
    assert all(name.startswith("asyncio") for name in others)


@pytest.mark.slow
def test_limits_are_checked():
    """Une borne nulle n'a pas de sens."""
    with pytest.raises(ConfigurationError, match="prompts"):
        Limits(prompts=0)
    with pytest.raises(ConfigurationError, match="body_seconds"):
        Limits(body_seconds=0.0)


def connect(url):
    """Une connexion nue."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(line):
    """Les en-têtes d'un POST, avec une ligne de plus."""
    return (
        f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"{line}\r\n\r\n"
    ).encode()


def receive(link):
    """Tout ce que le service répond avant de fermer."""
    answer = b""
    with suppress(ConnectionError):
        while chunk := link.recv(65536):
            answer += chunk
    return answer
