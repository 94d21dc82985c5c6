"""Les navigateurs : pages d'ailleurs (CORS), et HEAD sur toute adresse qui répond à GET."""

import threading

import pytest
from http_helpers import (
    HTTP,
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    serving,
    wait_until,
)

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Overloaded
from gpt_architecture.serving.http.access import KeyRing, check_origin
from gpt_architecture.serving.http.server import LoadingGate

KEY = "premiere-clef-0123456789"
PAGE, OTHER = "http://localhost:5173", "https://autre.fr"
PREFLIGHT = {  # ce qu'envoie Chrome pour le client JavaScript officiel
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-arch,"
    "x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout",
    "Access-Control-Request-Private-Network": "true",
}
COMPLETIONS = "/v1/completions"


def asked(client, origin, **changes):
    """La réponse à ce qu'un navigateur demande avant d'appeler."""
    return client.options(COMPLETIONS, headers={"Origin": origin, **PREFLIGHT, **changes})


def check_allowed(response, origin=PAGE):
    """La page peut appeler, avec sa clé et ses en-têtes."""
    assert response.status_code == 200, response.text
    assert response.headers["access-control-allow-origin"] == origin
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].split(",")
    assert {"authorization", "content-type", "x-stainless-lang"} <= set(allowed)
    assert response.headers["access-control-allow-private-network"] == "true"


def check_readable(response, status):
    """Une erreur que le navigateur montre à sa page, avec de quoi réessayer."""
    check_envelope(response, status)
    assert response.headers["access-control-allow-origin"] == PAGE
    exposed = response.headers["access-control-expose-headers"].lower()
    assert {"retry-after", "x-request-id"} <= set(exposed.split(", "))


@pytest.mark.parametrize("origin", [PAGE, "*"])
def test_the_official_javascript_client_gets_in(origin):
    """Son préliminaire passe, puis sa requête, et ce que la page lit des erreurs aussi."""
    context = make_context(ScriptedEngine(error=Overloaded(64, 3.2)))
    with client_of(context, origins=[origin], keys=KeyRing([KEY])) as client:
        check_allowed(asked(client, PAGE), PAGE if origin == PAGE else "*")
        headers = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
        answer = client.get("/v1/models", headers=headers)
        assert answer.headers["access-control-allow-origin"] == origin


def test_a_page_reads_errors():
    """Clé absente, service plein, adresse inconnue : la page voit l'erreur, et quand réessayer."""
    context = make_context(ScriptedEngine(error=Overloaded(64, 3.2)))
    with client_of(context, origins=[PAGE], keys=KeyRing([KEY])) as client:
        headers = {"Origin": PAGE}
        body = {"prompt": "a"}
        check_readable(client.post(COMPLETIONS, json=body, headers=headers), 401)
        headers["Authorization"] = f"Bearer {KEY}"
        check_readable(client.post(COMPLETIONS, json=body, headers=headers), 429)
        check_readable(client.post(COMPLETIONS, content=b"{", headers=headers), 400)
        check_readable(client.get("/nulle-part", headers=headers), 404)
        check_readable(client.get(COMPLETIONS, headers=headers), 405)


@pytest.mark.parametrize("origins", [[], [PAGE]])
def test_other_pages_stay_out(origins):
    """Une page qu'on n'a pas nommée : un refus en français, et rien que le navigateur montre."""
    with client_of(make_context(ScriptedEngine()), origins=origins) as client:
        refused = asked(client, OTHER, **{"Sec-Fetch-Site": "cross-site"})
        error = check_envelope(refused, 400)
        assert error["code"] == "cors_not_allowed"
        assert OTHER in error["message"]
        answer = client.get("/health", headers={"Origin": OTHER})
        for response in (refused, answer):
            assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_sends_blindly_is_refused(site):
    """Une image ou un formulaire d'ailleurs : rien n'est calculé, sauf si la page est permise."""
    engine = ScriptedEngine()
    blind = {"Sec-Fetch-Site": site}
    with client_of(make_context(engine), origins=[PAGE]) as client:
        form = {"headers": {**blind, "Origin": OTHER}, "content": b'{"prompt": "a"}'}
        for answer in (
            client.get("/v1/models", headers=blind),
            client.get("/studio/api/info", headers=blind),
            client.post(COMPLETIONS, **form),
        ):
            error = check_envelope(answer, 403)
            assert error["code"] == "cors_not_allowed"
        assert not engine.requests
        for headers in ({**blind, "Origin": PAGE}, {"Sec-Fetch-Site": "same-origin"}, {}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        for path in ("/health", "/studio/", "/studio/studio.css", "/docs"):  # un lien suivi
            assert client.get(path, headers=blind).status_code == 200
    with client_of(make_context(engine), origins=["*"]) as client:
        assert client.get("/v1/models", headers=blind).status_code == 200


def test_other_methods_are_refused():
    """Une méthode que le service n'a pas : le refus la nomme."""
    with client_of(make_context(ScriptedEngine()), origins=[PAGE]) as client:
        refused = asked(client, PAGE, **{"Access-Control-Request-Method": "DELETE"})
        assert "DELETE" in check_envelope(refused, 400)["message"]


@pytest.mark.slow
def test_a_page_waits_for_the_model():
    """Pendant le chargement aussi : le préliminaire passe, et le 503 se lit."""
    ready = threading.Event()

    def build():
        ready.wait(10)
        return create_app(make_context(ScriptedEngine()), origins=[PAGE])

    gate = LoadingGate(build, origins=[PAGE])
    with serving(gate) as url:
        gate.start(lambda: None)
        for check in (True, False):
            preflight = HTTP.options(url + COMPLETIONS, headers={"Origin": PAGE, **PREFLIGHT})
            check_allowed(preflight)
            answer = HTTP.get(url + "/health", headers={"Origin": PAGE})
            if check:
                check_readable(answer, 503)
                ready.set()
                wait_until(lambda: HTTP.get(url + "/health").status_code == 200)
            else:
                assert answer.headers.get_list("access-control-allow-origin") == [PAGE]


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", PAGE, "https://exemple.fr", "https://exemple.fr:8443", "http://[::1]:3000"),
        *("tauri://localhost", "chrome-extension://abcdefgh", "http://xn--9ca.fr"),
    ],
)
def test_origins_a_browser_sends_are_accepted(origin):
    """Ce qu'un navigateur envoie est accepté tel quel."""
    check_origin("--allow-origin", origin)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "right"),
    [
        ("http://localhost:5173/", "http://localhost:5173"),
        ("localhost:5173", "http://localhost:5173"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("exemple.fr", "https://exemple.fr"),
        ("https://Exemple.FR", "https://exemple.fr"),
        ("HTTP://exemple.fr", "http://exemple.fr"),
        ("https://exemple.fr:443", "https://exemple.fr"),
        ("http://exemple.fr:80/", "http://exemple.fr"),
        ("http://exemple.fr/page?x#y", "http://exemple.fr"),
        ("http://a:b@exemple.fr", "http://exemple.fr"),
        (" http://exemple.fr ", "http://exemple.fr"),
        ("http://é.fr", "http://xn--9ca.fr"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("http://*.exemple.fr", "*"),
        ("http://localhost:*", "*"),
        ("http://exemple.fr:99999", "http://localhost:5173"),
        ("https://a.fr,https://b.fr", "https://exemple.fr"),
        ("file:///tmp/page.html", "*"),
        ("", "*"),
    ],
)
def test_origins_that_never_match_are_refused_at_start(cli, origin, right):
    """Une origine qu'aucun navigateur n'envoie : refusée, avec la forme juste."""
    with pytest.raises(ConfigurationError) as refused:
        check_origin("--allow-origin", origin)
    assert right in refused.value.remedy
    if "5173" in origin or "*" in origin:
        found = cli("serve", "absent.pt", "--allow-origin", PAGE, "--allow-origin", origin)
        found.check_one_line_error(2, right)


@pytest.mark.slow
def test_head_answers_like_get():
    """HEAD : le code et les en-têtes de GET, sans corps, sur toute adresse qui répond à GET."""
    app = create_app(make_context(ScriptedEngine()))
    with serving(app) as url:
        document = HTTP.get(url + "/openapi.json").json()
        paths = [path for path, methods in document["paths"].items() if "get" in methods]
        paths = [path.replace("{name}", "petit") for path in paths]
        assert {"/health", "/metrics", "/v1/models", "/v1/models/petit"} <= set(paths)
        paths += ["/docs", "/openapi.json", "/", "/studio", "/studio/", "/studio/studio.css"]
        paths += ["/studio/api/info", "/v1/models/autre", "/nulle-part", "/v1/completions"]
        for path in paths:
            get, head = (HTTP.request(method, url + path) for method in ("GET", "HEAD"))
            assert head.status_code == get.status_code, path
            assert head.content == b""
            for name in ("content-type", "content-length", "etag", "location", "allow"):
                assert head.headers.get(name) == get.headers.get(name) or path == "/metrics"
        assert not any("head" in methods for methods in document["paths"].values())


def test_head_answers_in_process():
    """Sans le serveur, qui retire lui-même ce corps : l'application ne l'envoie pas."""
    with client_of(make_context(ScriptedEngine())) as client:
        head = client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


@pytest.mark.slow
def test_head_answers_while_the_model_loads():
    """Pendant le chargement : le même code que GET."""
    with serving(LoadingGate(ScriptedEngine)) as url:
        for path in ("/health", "/studio/", "/studio/studio.css", "/", "/nulle-part"):
            get, head = (HTTP.request(method, url + path) for method in ("GET", "HEAD"))
            assert (head.status_code, head.content) == (get.status_code, b"")
