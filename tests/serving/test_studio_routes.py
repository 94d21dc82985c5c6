"""Ce que le studio demande au service : exact, borné, gardé par les mêmes clés."""

import base64
import json
import os

import numpy as np
import pytest
import torch
from http_helpers import ScriptedEngine, check_envelope, check_page, client_of, make_context
from studio_helpers import (
    PROMPT,
    SAMPLE,
    WEB,
    WINDOW,
    Bytes,
    byte_model,
    studio_context,
    write_journal,
)

from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.formats.journal import append_record
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.studio.routes import MAX_POINTS

IDS = Bytes().encode(PROMPT)
SAFE = ("default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'")


@pytest.fixture(scope="module")
def client():
    """Un client du studio."""
    with studio_context() as context, client_of(context) as found:
        yield found


def decoded(text, dtype):
    """Les nombres d'un champ en base64."""
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def written(response):
    """Le début et les tokens d'un flux du studio."""
    assert response.status_code == 200, response.text
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    first, *chunks = map(json.loads, lines[:-1])
    text = "".join(chunk["text"] for chunk in chunks)
    return first["prompt"], [token for chunk in chunks for token in chunk["tokens"]], text


# --- Les fichiers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("app.js", "text/javascript"),
        ("studio.css", "text/css"),
        ("icon.svg", "image/svg"),
    ],
)
def test_files_are_typed_and_protected(client, name, kind):
    """Le bon type, une politique stricte, une copie gardée mais toujours vérifiée."""
    response = client.get(f"/studio/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert all(rule in response.headers["content-security-policy"] for rule in SAFE)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (WEB / (name or "index.html")).read_bytes()
    known = {"If-None-Match": response.headers["etag"]}
    again = client.get(f"/studio/{name}", headers=known)
    assert again.status_code == 304
    assert again.content == b""
    assert client.get(f"/studio/{name}", headers={"If-None-Match": '"autre"'}).status_code == 200


def test_the_address_without_a_slash_leads_to_the_page(client):
    """Un renvoi relatif, qui tient derrière un préfixe."""
    response = client.get("/studio", follow_redirects=False)
    assert response.status_code == 307
    assert response.headers["location"] == "studio/"


def test_the_root_leads_to_the_page_even_with_keys():
    """Qui n'écrit que l'adresse du service arrive au studio."""
    context = make_context(ScriptedEngine())
    with client_of(context, keys=KeyRing(["clef-de-seize-caracteres"])) as client:
        response = client.get("/", follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (307, "studio/")
        assert client.get("/").headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("state", "words"),
    [("starting", "se charge"), ("draining", "n'en accepte plus"), ("dead", "Relancez")],
)
def test_the_page_says_when_the_engine_is_not_ready(state, words):
    """Seul un moteur qui peut devenir prêt fait recharger la page ; les fichiers restent servis."""
    with client_of(make_context(ScriptedEngine(state=state))) as client:
        for path in ("/", "/studio", "/studio/", "/studio/index.html"):
            page = check_page(client.get(path), reloads=state == "starting")
            assert words in page
        assert client.get("/studio/studio.css").status_code == 200
        check_envelope(client.get("/health"), 503)


@pytest.mark.parametrize(
    "path",
    [
        "/studio/../context.py",
        "/studio/%2e%2e/context.py",
        "/studio/..%2fcontext.py",
        "/studio//etc/passwd",
        "/studio/web/app.js",
        "/studio/app.js%00.css",
        "/studio/api",
        "/studio/api/rien",
    ],
)
def test_nothing_else_is_served(client, path):
    """Un nom qui n'est pas celui d'un fichier du studio n'existe pas."""
    check_envelope(client.get(path), 404)


def test_the_page_needs_nothing_from_elsewhere():
    """Ni adresse externe, ni script ou style dans la page, ni HTML bâti de texte."""
    for path in WEB.iterdir():
        source = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in source, path.name
        for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"):
            assert danger not in source, path.name
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script type="module" src=') == 1


def test_keys_guard_the_data_not_the_page():
    """Avec des clés, la page s'ouvre et demande la sienne ; les données l'exigent."""
    key = "clef-de-seize-caracteres"
    with studio_context() as context, client_of(context, keys=KeyRing([key])) as client:
        assert client.get("/studio/").status_code == 200
        for path in ("info", "run"):
            check_envelope(client.get(f"/studio/api/{path}"), 401)
        for path in ("generate", "next", "attention"):
            check_envelope(client.post(f"/studio/api/{path}", json={"prompt": "a"}), 401)
        found = client.get("/studio/api/info", headers={"Authorization": f"Bearer {key}"})
        assert found.status_code == 200


# --- Les données ---------------------------------------------------------------------------------


def test_info_says_what_can_be_shown(client):
    """Le modèle, ses bornes, les six variantes en réglages du service."""
    info = client.get("/studio/api/info").json()
    assert info["parameters"] == byte_model().cfg.num_parameters()
    assert (info["window"], info["vocabulary"]) == (WINDOW, Bytes.vocab_size)
    assert info["attention"]
    assert not info["training"]
    settings = [
        {key: value for key, value in each.items() if key != "label"} for each in info["variants"]
    ]
    assert settings == [
        {"temperature": 0},
        {"temperature": 0.3},
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"temperature": 1.0, "top_k": 50},
        {"temperature": 1.0, "top_p": 0.9},
    ]


def test_generate_writes_what_completions_writes(client):
    """Même texte que `/v1/completions`, avec les identifiants et les candidats de chaque token."""
    settings = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0.9, "seed": 3, "logprobs": 4}
    prompt, tokens, text = written(
        client.post("/studio/api/generate", json={**settings, "stream": True})
    )
    (choice,) = client.post("/v1/completions", json=settings).json()["choices"]
    assert prompt == IDS
    assert text == choice["text"]
    logprobs = [token["logprob"] for token in tokens]
    assert logprobs == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-4)
    assert [token["text"] for token in tokens] == choice["logprobs"]["tokens"]
    for token in tokens:
        logprobs = [logprob for _, _, logprob in token["top"]]
        assert len(logprobs) == 4
        assert logprobs == sorted(logprobs, reverse=True)
    whole = client.post("/studio/api/generate", json=settings).json()
    assert "".join(chunk["text"] for chunk in whole["chunks"][1:]) == text


def test_continuing_from_another_candidate_is_exact(client):
    """Le candidat choisi, donné par identifiant, est suivi comme si le modèle l'avait écrit."""
    greedy = {"temperature": 0, "max_tokens": 6, "logprobs": 3, "stream": True}
    prompt, tokens, _ = written(
        client.post("/studio/api/generate", json={**greedy, "prompt": PROMPT})
    )
    before = [*prompt, *(token["id"] for token in tokens[:2])]
    other = tokens[2]["top"][1][0]
    again, after, _ = written(
        client.post("/studio/api/generate", json={**greedy, "prompt": [*before, other]})
    )
    assert again == [*before, other]
    expected = byte_model()(torch.tensor([again]))[0, -1].argmax()
    assert after[0]["id"] == int(expected)


def test_next_is_the_whole_distribution(client):
    """Tous les logits du modèle, décroissants, ex æquo par identifiant."""
    answer = client.post("/studio/api/next", json={"prompt": PROMPT}).json()
    with torch.inference_mode():
        expected = byte_model()(torch.tensor([IDS]))[0, -1]
    order = sorted(range(len(expected)), key=lambda each: (-float(expected[each]), each))
    assert answer["prompt"] == IDS
    assert answer["ids"] == order
    np.testing.assert_allclose(
        decoded(answer["logits"], "<f4"), expected[order].numpy(), rtol=1e-5, atol=1e-5
    )
    assert answer["names"][order.index(ord("a"))] == "a"
    by_ids = client.post("/studio/api/next", json={"prompt": IDS}).json()
    assert by_ids["ids"] == answer["ids"]


def test_attention_is_the_model_s(client):
    """Les poids de `attention_of`, au demi-niveau près, et le nom des tokens."""
    answer = client.post("/studio/api/attention", json={"prompt": PROMPT}).json()
    expected = attention_of(byte_model(), IDS)
    shape = (answer["layers"], answer["heads"], len(IDS), len(IDS))
    found = decoded(answer["weights"], np.uint8).reshape(shape) / 255
    assert shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected.numpy(), atol=0.5 / 255 + 1e-6)
    assert "".join(answer["names"]) == PROMPT


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("attention", {"prompt": "a" * 49}),
        ("attention", {"prompt": ["a", "b"]}),
        ("attention", {"prompt": []}),
        ("next", {"prompt": "a" * (WINDOW + 1)}),
        ("next", {"prompt": [Bytes.vocab_size]}),
        ("next", {"prompt": "a", "autre": 1}),
        ("next", {}),
        ("generate", {"prompt": ["a", "b"]}),
        ("generate", {"prompt": "a", "n": 2}),
        ("generate", {"prompt": "a", "logprobs": 21}),
        ("generate", {"prompt": "a", "max_tokens": WINDOW + 1}),
    ],
)
def test_bounds_are_said(client, path, body):
    """Ce qui dépasse les bornes est refusé en une phrase."""
    check_envelope(client.post(f"/studio/api/{path}", json=body), 400)


def test_a_quantized_model_says_it_has_no_attention():
    """Sans poids d'attention, une phrase et non une panne."""
    with studio_context(network=None) as context, client_of(context) as client:
        error = check_envelope(client.post("/studio/api/attention", json={"prompt": "a"}), 400)
        assert "quantifié" in error["message"]
        assert not client.get("/studio/api/info").json()["attention"]


def test_the_card_of_the_model_is_given():
    """La fiche que la page montre ; un modèle qui n'en a pas n'en montre pas."""
    card = [("Données", "fables <b>"), ("Licence", "non précisée")]
    with studio_context(card=card) as context, client_of(context) as client:
        assert client.get("/studio/api/info").json()["card"] == [list(each) for each in card]
    with studio_context() as context, client_of(context) as client:
        assert client.get("/studio/api/info").json()["card"] == []


def test_the_page_first_asks_for_what_fits():
    """Un petit contexte : l'exemple et ce qu'il fait écrire y tiennent ; au-delà, c'est refusé."""
    with studio_context(window=20) as context, client_of(context) as client:
        info = client.get("/studio/api/info").json()
        assert info["room"] == 20 - len(IDS) + 1
        asked = {"prompt": PROMPT, "temperature": 0, "max_tokens": info["room"]}
        assert client.post("/studio/api/generate", json=asked).status_code == 200
        asked["max_tokens"] += 1
        check_envelope(client.post("/studio/api/generate", json=asked), 400)


# --- L'entraînement ------------------------------------------------------------------------------


@pytest.fixture
def run_client(tmp_path):
    """Un client dont le studio suit un dossier ; rend (client, dossier)."""
    folder = tmp_path / "essai"
    with studio_context(run_directory=folder) as context, client_of(context) as client:
        yield client, folder


def test_a_run_is_followed_as_it_grows(run_client):
    """Rien, puis un début, puis la suite ; rien n'est renvoyé si rien n'a changé."""
    client, folder = run_client
    check_envelope(client.get("/studio/api/run"), 404)
    write_journal(folder, 12)
    first = client.get("/studio/api/run").json()
    assert [step for step, *_ in first["steps"]] == list(range(12))
    assert first["evaluations"] == [[0, 5.0, 5.25], [10, 4.5, 4.75]]
    assert first["samples"] == [[11, SAMPLE]]
    assert (first["total_steps"], first["finished"]) == (100, False)
    same = client.get("/studio/api/run", params={"version": first["version"]}).json()
    assert 0 <= same.pop("silent") < 60
    assert same == {"version": first["version"], "finished": False}
    os.utime(folder / "journal.jsonl", (0, 0))  # tué : plus une ligne, et pas de fin
    assert client.get("/studio/api/run").json()["silent"] > 1e9
    write_journal(folder, 20, end=True)
    more = client.get("/studio/api/run", params={"version": first["version"]}).json()
    assert len(more["steps"]) == 20
    assert more["finished"]
    assert client.get("/studio/api/run", params={"version": more["version"]}).json()["finished"]
    check_envelope(client.get("/studio/api/run", params={"version": "x" * 65}), 400)


def test_what_follows_the_end_does_not_reopen_it(run_client):
    """`evaluate` ajoute ses mesures au journal, pendant l'entraînement ou après sa fin."""
    client, folder = run_client
    for end in (False, True):
        write_journal(folder, 12, end=end)
        append_record(folder / "journal.jsonl", "measures", step=12, detail="x" * 10_000)
        run = client.get("/studio/api/run").json()
        assert run["finished"] is end
        again = client.get("/studio/api/run", params={"version": run["version"]}).json()
        assert again["version"] == run["version"]
        assert again["finished"] is end
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "start", "step": 12, "total_steps": 24}\n')  # une reprise
    run = client.get("/studio/api/run", params={"version": run["version"]}).json()
    assert run["finished"] is False


def test_a_damaged_journal_shows_what_it_has(run_client):
    """Lignes coupées, nombres en toutes lettres, types inattendus : passés sans bruit."""
    client, folder = run_client
    folder.mkdir()
    lines = [
        b'{"kind": "step", "step": 0, "loss": "nan", "lr": 1e-3}',
        b'{"kind": "step", "step": "un", "loss": 1}',
        b'{"kind": "step", "step": true, "loss": 1}',
        b'["step"]',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"kind": "step", "step": 1, "loss": 2.5}',
        b'{"kind": "step", "st',
    ]
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines))
    run = client.get("/studio/api/run").json()
    assert run["steps"] == [[0, None, 1e-3, None], [1, 2.5, None, None]]
    assert (run["total_steps"], run["finished"]) == (0, False)


def test_a_long_run_is_thinned_by_means(run_client):
    """Au plus MAX_POINTS points, dont les pertes sont des moyennes."""
    client, folder = run_client
    write_journal(folder, 2 * MAX_POINTS)
    steps = client.get("/studio/api/run").json()["steps"]
    assert len(steps) == MAX_POINTS
    assert steps[0][:2] == [1, pytest.approx(5.0 - 0.5 / 20)]
    assert steps[-1][0] == 2 * MAX_POINTS - 1
