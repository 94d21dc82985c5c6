"""La commande serve, dans un vrai processus : elle répond, se vide et s'arrête comme il faut."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from cli_helpers import run_process
from http_helpers import HTTP, check_envelope, post, wait_until
from serve_process import ready, served

import gpt_architecture

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


def test_sighup_reads_the_keys_again(trained, tmp_path):
    """De nouvelles clés sans s'arrêter ; un fichier mauvais laisse les anciennes, et se dit."""
    before, after = "clef-d-avant-0123456789", "clef-d-apres-0123456789"
    path = tmp_path / "cles.txt"
    path.write_text(f"avant {before}\n", encoding="utf-8")

    def accepts(key):
        headers = {"Authorization": f"Bearer {key}"}
        return HTTP.get(url + "/v1/models", headers=headers).status_code == 200

    with served(trained, "--api-key-file", str(path)) as (url, process):
        ready(url)
        assert accepts(before)
        assert not accepts(after)
        for content in (f"apres {after}\n", "courte\n", "", None):
            path.unlink() if content is None else path.write_text(content, encoding="utf-8")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: accepts(after))
            time.sleep(0.3)  # trois tours de boucle : ce qui devait être relu l'est
            assert accepts(after)
            assert not accepts(before)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        lines = process.stderr.read()
    assert "info clés relues : apres\n" in lines
    assert lines.count(" erreur clés non relues, celles d'avant restent : ") == 3
    for secret in (before, after, "courte"):
        assert secret not in lines


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="ce système n'a pas de pseudo-terminaux")
def test_a_closed_terminal_still_ends_the_service(trained, tmp_path):
    """SIGHUP d'un terminal qui se ferme n'est pas une demande de relecture : code 129."""
    path = tmp_path / "cles.txt"
    path.write_text("avant clef-d-avant-0123456789\n", encoding="utf-8")
    leader, terminal = os.openpty()
    code = (
        "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = ["-m", "gpt_architecture", "serve", str(trained / "gpt-model.pt"), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--api-key-file", str(path)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
        encoding="utf-8",
    ) as process:
        os.close(terminal)
        url = process.stdout.readline().split()[2]
        wait_until(lambda: HTTP.get(url + "/live").status_code == 200)
        os.close(leader)
        assert process.wait(60) == 129


def test_the_json_journal_is_json_to_the_last_line(trained, tmp_path):
    """Adresse, chargement, requêtes, arrêt : une ligne, un objet ; la version et l'empreinte."""
    with served(trained, "--log-format", "json", "--log-requests") as (url, process):
        ready(url)
        body = {"prompt": "Le passeur", "max_tokens": 3, "ignore_eos": True}
        answer = post(url, "/v1/completions", body)
        assert HTTP.get(url + "/ready").status_code == 200
        version = HTTP.get(url + "/version").json()
        (card,) = HTTP.get(url + "/v1/models").json()["data"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.stdout.read() == ""
    assert all(line["time"] and line["level"] == "info" for line in lines)
    messages = " ".join(line["message"] for line in lines)
    assert "prêt" in messages
    assert "Arrêt demandé" in messages
    (line,) = [line for line in lines if line.get("route") == "/v1/completions"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["completion_tokens"] == 3
    assert version["version"] == gpt_architecture.__version__
    digest = hashlib.sha256((trained / "gpt-model.pt").read_bytes()).hexdigest()
    assert card["sha256"] == digest


def test_errors_that_end_the_command_are_json_too(tmp_path):
    """Un modèle illisible : une ligne JSON, au niveau d'une erreur."""
    command = [sys.executable, "-W", "error", "-m", "gpt_architecture", "serve"]
    options = [tmp_path / "absent.pt", "--port", 0, "--log-format", "json"]
    outcome = run_process(*command, *options)
    assert outcome.code == 1
    *_, last = [json.loads(line) for line in outcome.err.splitlines()]
    assert last["level"] == "error"
    assert "absent.pt" in last["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="l'OpenMP de GCC dit ses réglages")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '10000'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
    ],
)
def test_idle_threads_leave_their_core(tmp_path, monkeypatch, asked, expected):
    """Le réglage précède le chargement de PyTorch, et cède à celui de l'utilisateur."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "gpt_architecture", "serve", tmp_path / "absent.pt"]
    env = {"OMP_DISPLAY_ENV": "VERBOSE", **asked}
    assert expected in run_process(*command, "--port", 0, env=env).err


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
