"""Qui entre : clés, pages d'ailleurs, et ce que l'on répond avant que le modèle soit là."""

import socket
import threading

import pytest
from http_helpers import (
    HTTP,
    NAME,
    LateEngine,
    ScriptedEngine,
    check_envelope,
    check_page,
    client_of,
    make_context,
    post,
    serving,
    wait_until,
)

from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.http.access import KeyRing, read_keys
from gpt_architecture.serving.http.server import LoadingGate, bind

KEYS = ("premiere-clef-0123456789", "seconde-clef-0123456789")


@pytest.fixture
def client():
    """Un client d'un service à deux clés."""
    with client_of(make_context(ScriptedEngine()), keys=KeyRing(KEYS)) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEYS[0]}",
        KEYS[0],
        f"Bearer {KEYS[0]}x",
        f"Bearer {KEYS[0][:-1]}",
        f"Bearer {KEYS[0].upper()}",
        "Bearer é".encode(),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/tokenizer_info", "/studio/api/x", "/nulle-part"])
def test_wrong_keys_are_refused(client, header, path):
    """Sans la bonne clé, rien ne se dit, pas même ce qui existe."""
    headers = {} if header is None else {"Authorization": header}
    response = client.get(path, headers=headers)
    assert check_envelope(response, 401)["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(client, key):
    """Chaque clé ouvre, et le mot Bearer s'écrit comme on veut."""
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {key}"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_probes_need_no_key(client):
    """Les sondes et la référence restent ouvertes."""
    for path in ("/health", "/live", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/version").status_code == 401


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "statuses"),
    [
        ("starting", (200, 503, 503)),
        ("ready", (200, 200, 200)),
        ("draining", (200, 503, 503)),
        ("dead", (503, 503, 503)),
    ],
)
def test_each_probe_asks_its_own_question(state, statuses):
    """Faut-il relancer ? Accepte-t-il du travail ? Un service plein répond encore aux deux."""
    context = make_context(ScriptedEngine(state=state), requests=1)
    with serving(create_app(context), limits=context.limits) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: HTTP.get(url + "/v1/models").status_code == 429)
            probes = [HTTP.get(url + path) for path in ("/live", "/ready", "/health")]
    assert tuple(answer.status_code for answer in probes) == statuses
    for answer in probes:
        if answer.status_code == 503:
            check_envelope(answer, 503)


@pytest.mark.slow
def test_probes_while_loading_and_leaving():
    """Vivant dès le début ; prêt quand le modèle est là, et plus dès que l'arrêt est demandé."""
    ready = threading.Event()

    def build():
        ready.wait(10)
        return create_app(make_context(ScriptedEngine()))

    gate = LoadingGate(build)
    with serving(gate) as url:
        gate.start(lambda: None)
        assert HTTP.get(url + "/live").json() == {"status": "ok"}
        assert check_envelope(HTTP.get(url + "/ready"), 503)["code"] == "loading"
        ready.set()
        wait_until(lambda: HTTP.get(url + "/ready").status_code == 200)
        gate.draining = True
        assert check_envelope(HTTP.get(url + "/ready"), 503)["code"] == "draining"
        assert HTTP.get(url + "/live").status_code == 200
        assert HTTP.get(url + "/v1/models").status_code == 200


@pytest.mark.slow
def test_a_model_that_never_loads_is_not_alive():
    """L'orchestrateur relance ce qui ne se chargera jamais."""
    gate, told = LoadingGate(lambda: 1 / 0), threading.Event()
    gate.start(told.set)
    assert told.wait(10)
    with serving(gate) as url:
        assert check_envelope(HTTP.get(url + "/live"), 503)["code"] == "dead"


def test_the_body_is_not_read_without_a_key(client):
    """Le refus vient avant toute lecture : un corps illisible n'y change rien."""
    check_envelope(client.post("/v1/completions", content=b"{"), 401)


def test_two_headers_are_not_a_key(client):
    """Deux en-têtes valent l'absence : on ne choisit pas le bon."""
    headers = [("Authorization", f"Bearer {key}") for key in KEYS]
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_the_client_is_named_for_the_fair_queue():
    """La file est partagée entre clés, ou entre adresses s'il n'y en a pas."""
    engine = LateEngine()
    for keys, headers in (
        (None, {}),
        (KeyRing(KEYS), {"Authorization": f"Bearer {KEYS[1]}"}),
    ):
        with client_of(make_context(engine), keys=keys) as client:
            thread = threading.Thread(
                target=client.post,
                args=("/v1/completions",),
                kwargs={"json": {"prompt": "a", "stream": True}, "headers": headers},
            )
            count = len(engine.requests)
            thread.start()
            wait_until(lambda count=count: len(engine.requests) > count)
            engine.on_event(failure())
            thread.join(10)
    assert [request.client for request in engine.requests] == ["testclient", "clé 2"]


def failure():
    """De quoi finir une suite."""
    from gpt_architecture.serving.engine.messages import Failed

    return Failed(error=ConfigurationError("x", expected="y", remedy="z"))


def test_keys_come_from_a_file(tmp_path):
    """Une clé par ligne, commentaires compris ; un fichier vide ou absent est une erreur."""
    path = tmp_path / "cles.txt"
    path.write_text(f"# équipe\n{KEYS[0]}\n\n  {KEYS[1]}  \n", encoding="utf-8")
    assert read_keys(path) == list(KEYS)
    path.write_text("# rien\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="aucune clé"):
        read_keys(path)
    with pytest.raises(ConfigurationError, match="fichier absent"):
        read_keys(tmp_path / "absent.txt")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-16"):
        read_keys(path)


@pytest.mark.parametrize("key", ["courte", "a" * 15, "avec espace dedans", "é" * 20])
def test_weak_keys_are_refused(key):
    """Une clé trop courte ou illisible n'est pas acceptée, ni répétée dans l'erreur."""
    with pytest.raises(ConfigurationError) as refused:
        KeyRing([key])
    assert key not in str(refused.value)


@pytest.mark.slow
def test_the_gate_answers_while_the_model_loads():
    """503 et quand réessayer, sur toute adresse ; puis l'application, sans relancer."""
    ready = threading.Event()

    def build():
        ready.wait(10)
        return create_app(make_context(ScriptedEngine()))

    gate = LoadingGate(build)
    failures = []
    with serving(gate) as url:
        gate.start(lambda: failures.append(1))
        for path in ("/health", "/v1/models", "/metrics"):
            response = HTTP.get(url + path)
            assert check_envelope(response, 503)["code"] == "loading"
            assert "retry-after" in response.headers
        ready.set()
        wait_until(lambda: HTTP.get(url + "/health").status_code == 200)
        assert HTTP.get(url + "/v1/models").json()["data"][0]["id"] == NAME
    assert failures == []


@pytest.mark.slow
def test_the_gate_shows_a_page_to_a_person():
    """Un navigateur voit une page qui se recharge, et ses fichiers ; un programme, l'enveloppe."""
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with serving(LoadingGate(ScriptedEngine)) as url:
        for path in ("/", "/docs", "/studio", "/studio/", "/studio/index.html"):
            check_page(HTTP.get(url + path, headers=browser), reloads=True)
        for path in ("/studio", "/studio/"):  # ces adresses ne sont que des pages
            check_page(HTTP.get(url + path), reloads=True)
        for path in ("/studio/studio.css", "/studio/icon.svg"):
            assert HTTP.get(url + path).status_code == 200
        for path in ("/v1/models", "/health", "/studio/api/info", "/nulle-part"):
            response = HTTP.get(url + path, headers=browser)
            assert check_envelope(response, 503)["code"] == "loading"
        for path in ("/", "/docs"):
            check_envelope(HTTP.get(url + path, headers={"Accept": "application/json"}), 503)
        check_envelope(post(url, "/v1/completions", {"prompt": "a"}, headers=browser), 503)
        check_envelope(post(url, "/studio/", {}, headers=browser), 405)
        check_envelope(HTTP.get(url + "/studio/rien", headers=browser), 404)


@pytest.mark.slow
def test_a_failed_load_is_reported():
    """Un modèle illisible : l'erreur est gardée, qui attend est prévenu, la page le dit."""

    def build():
        raise ModelFileError("x", expected="y", remedy="z")

    gate, told = LoadingGate(build), threading.Event()
    gate.start(told.set)
    assert told.wait(10)
    assert isinstance(gate.error, ModelFileError)
    with serving(gate) as url:
        check_page(HTTP.get(url + "/studio/"), reloads=False)


def test_a_taken_port_is_a_clear_error():
    """Un port pris, une adresse inconnue : une phrase."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigurationError, match="impossible d'écouter"):
        bind("203.0.113.7", 0)
