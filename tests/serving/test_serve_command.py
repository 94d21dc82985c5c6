"""La commande serve, dans un vrai processus : elle répond, se vide et s'arrête comme il faut."""

import json
import signal
import threading
import time

import pytest
from http_helpers import HTTP, check_envelope, post, wait_until
from serve_process import ready, served

pytestmark = pytest.mark.process


def test_sigterm_under_load_loses_nothing(trained):
    """SIGTERM au milieu des requêtes : toutes celles qui sont acceptées aboutissent ; code 143."""
    body = {"prompt": "Le passeur", "max_tokens": 24, "ignore_eos": True, "seed": 1}
    outcomes, lock = [], threading.Lock()

    def ask(url, stream):
        try:
            response = post(url, "/v1/completions", {**body, "stream": stream})
            text = response.text
        except Exception as error:
            text, response = type(error).__name__, None
        with lock:
            outcomes.append((stream, response, text))

    with served(trained, "--slots", "2") as (url, process):
        ready(url)
        threads = [threading.Thread(target=ask, args=(url, i % 2 == 0)) for i in range(12)]
        for thread in threads:
            thread.start()

        def accepted():
            lines = HTTP.get(url + "/metrics").text.splitlines()
            counts = [
                float(line.split()[-1])
                for line in lines
                if line.startswith(("vllm:num_requests_", "vllm:request_success_total"))
            ]
            return sum(counts) == len(threads)

        wait_until(accepted)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(60) == 143
        errors = process.stderr.read()
    for stream, response, text in outcomes:
        assert response is not None, text
        assert response.status_code == 200, text
        if stream:
            assert text.endswith("data: [DONE]\n\n")
            assert '"finish_reason":"length"' in text
        else:
            assert response.json()["usage"]["completion_tokens"] == 24
    assert len(outcomes) == 12
    assert "Traceback" not in errors
    assert "Arrêt demandé" in errors


def test_same_seed_same_text_as_infer(trained, cli):
    """Le service et infer écrivent la même chose ; infer --server aussi."""
    settings = ("--prompt", "Le passeur", "--max-tokens", 12, "--seed", 5, "--temperature", 0.8)
    local = cli("infer", "--model", trained / "gpt-model.pt", *settings, "--json")
    expected = json.loads(local.out)["completion"]
    with served(trained) as (url, _):
        ready(url)
        body = {"prompt": "Le passeur", "max_tokens": 12, "seed": 5, "temperature": 0.8}
        answer = post(url, "/v1/completions", body).json()
        assert answer["choices"][0]["text"] == expected


def test_keys_come_from_the_environment(trained):
    """GPT_ARCHITECTURE_API_KEYS protège le service, et ne paraît pas à l'écran."""
    key = "cle-de-passage-0123456789"
    with served(trained, env={"GPT_ARCHITECTURE_API_KEYS": key}) as (url, process):
        ready(url)
        check_envelope(HTTP.get(url + "/v1/models"), 401)
        headers = {"Authorization": f"Bearer {key}"}
        assert HTTP.get(url + "/v1/models", headers=headers).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert key not in process.stdout.read() + process.stderr.read()


def test_options_of_the_door_reach_the_service(trained):
    """--strict refuse un champ inconnu ; --allow-origin laisse entrer sa page."""
    page = "http://localhost:5173"
    preflight = {"Origin": page, "Access-Control-Request-Method": "POST"}
    with served(trained, "--strict", "--allow-origin", page) as (url, _):
        answer = HTTP.options(url + "/v1/completions", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == page
        ready(url)
        answer = HTTP.options(url + "/v1/completions", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == page
        refused = post(url, "/v1/completions", {"prompt": "Le", "tempurature": 1})
        assert check_envelope(refused, 400)["param"] == "tempurature"


def test_a_bad_model_ends_the_command(tmp_path, cli):
    """Modèle absent : une phrase, et le service s'arrête au lieu de rester sourd."""
    start = time.monotonic()
    outcome = cli("serve", tmp_path / "absent.pt", "--port", 0)
    outcome.check_one_line_error(1, "absent.pt")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--port", 70_000), "port"),
        (("--slots", 0), "slots"),
        (("--timeout", 0), "timeout"),
        (("--host", "203.0.113.7"), "203.0.113.7"),
        (("--api-key-file", "absent.txt"), "absent.txt"),
        (("--allow-origin", "http://localhost:5173/"), "écrivez http://localhost:5173"),
    ],
)
def test_bad_options_are_refused_at_once(cli, options, word):
    """Une option impossible : code 2 et une phrase, avant de charger quoi que ce soit."""
    cli("serve", *options).check_one_line_error(2, word)
