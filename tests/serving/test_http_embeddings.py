"""Les vecteurs de textes : ceux du modèle, sous la forme d'OpenAI, dans des bornes."""

import base64
import threading
from dataclasses import replace

import numpy as np
import openai
import pytest
import torch
from http_helpers import (
    HTTP,
    NAME,
    WINDOW,
    Letters,
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    serving,
    small_model,
    wait_until,
)

from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.http.access import KeyRing

EMBEDDINGS = "/v1/embeddings"
KEY = "clef-" + "0123456789abcdef"
TEXTS = ["le lac", "bonjour", "a"]


def expected(text, pooling="mean"):
    """Le vecteur d'un texte, calculé d'après ce que lit la tête."""
    seen = []
    model = small_model()
    model.out_head.register_forward_pre_hook(lambda _head, args: seen.append(args[0][0]))
    with torch.inference_mode():
        model(torch.tensor([Letters().encode(text)]))
    states = seen[0].double()
    found = states.mean(dim=0) if pooling == "mean" else states[-1]
    return (found / found.norm()).numpy()


@pytest.fixture(scope="module")
def client():
    """Un client du petit modèle, dont le moteur ne sert à rien ici."""
    with client_of(make_context(ScriptedEngine())) as found:
        yield found


def vectors(answer):
    """Les vecteurs d'une réponse, dans l'ordre des textes."""
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    assert {each["object"] for each in data} == {"embedding"}
    return [each["embedding"] for each in data]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_the_hidden_states(client, pooling):
    """Égaux à ce que la tête lit ; en nombres ou en base64, les mêmes bits."""
    asked = {"input": TEXTS, "pooling": pooling}
    answer = client.post(EMBEDDINGS, json=asked)
    found = vectors(answer)
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, expected(text, pooling), atol=1e-6)
        assert abs(np.linalg.norm(vector) - 1) < 1e-6
    packed = vectors(client.post(EMBEDDINGS, json={**asked, "encoding_format": "base64"}))
    bits = [np.frombuffer(base64.b64decode(each), dtype="<f4") for each in packed]
    assert [each.tolist() for each in bits] == [np.float32(each).tolist() for each in found]
    count = sum(map(len, TEXTS))
    assert answer.json()["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert (answer.json()["object"], answer.json()["model"]) == ("list", NAME)


def test_every_form_of_input_is_the_same_text(client):
    """Un texte, des textes, des identifiants, des listes d'identifiants."""
    ids = [Letters().encode(text) for text in TEXTS]
    several = vectors(client.post(EMBEDDINGS, json={"input": TEXTS}))
    assert vectors(client.post(EMBEDDINGS, json={"input": ids})) == several
    assert vectors(client.post(EMBEDDINGS, json={"input": TEXTS[0]})) == several[:1]
    assert vectors(client.post(EMBEDDINGS, json={"input": ids[0]})) == several[:1]


def test_dimensions_are_cut_then_normalised(client):
    """Les premières, remises à la norme 1."""
    (whole,) = vectors(client.post(EMBEDDINGS, json={"input": "bonjour"}))
    (cut,) = vectors(client.post(EMBEDDINGS, json={"input": "bonjour", "dimensions": 5}))
    np.testing.assert_allclose(cut, np.array(whole[:5]) / np.linalg.norm(whole[:5]), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["a", 3]}, "input"),
        ({"input": [99]}, "input"),
        ({"input": "a" * (WINDOW + 1)}, "input"),
        ({"input": "É"}, None),
        ({"input": "a", "dimensions": 25}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "cls"}, "pooling"),
        ({"input": "a", "normalize": False}, "normalize"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
    ],
)
def test_what_has_no_vector_is_refused(client, body, param):
    """400, une phrase qui nomme le champ."""
    error = check_envelope(client.post(EMBEDDINGS, json=body), 400)
    assert error["param"] == param


@pytest.mark.parametrize(
    "more", [{"user": "x"}, {"dimensions": None}, {"normalize": True}, {"parse_special": False}]
)
def test_what_asks_for_nothing_is_accepted(client, more):
    plain = client.post(EMBEDDINGS, json={"input": "a"}).json()
    assert client.post(EMBEDDINGS, json={"input": "a", **more}).json() == plain


def test_another_model_and_a_quantised_one():
    """404 ; et un modèle sans états cachés le dit."""
    context = make_context(ScriptedEngine())
    with client_of(context) as client:
        check_envelope(client.post(EMBEDDINGS, json={"input": "a", "model": "autre"}), 404)
    with client_of(replace(context, embed=None)) as client:
        error = check_envelope(client.post(EMBEDDINGS, json={"input": "a"}), 400)
    assert error["code"] == "no_embeddings"
    assert "quantifié" in error["message"]


def test_a_request_is_bounded():
    """Tant de textes, tant de tokens ; un NaN est une panne qui se dit."""
    bounds = {"embedding_texts": 3, "embedding_tokens": 10}
    with client_of(make_context(ScriptedEngine(), **bounds)) as client:
        for texts, words in ((["a"] * 4, "4 textes"), (["abcdef", "abcdef"], "10 tokens")):
            error = check_envelope(client.post(EMBEDDINGS, json={"input": texts}), 400)
            assert words in error["message"]
        vectors(client.post(EMBEDDINGS, json={"input": ["abcde", "abcde"]}))


def test_keys_quotas_and_counts():
    """Sans clé, rien ; les tokens lus sont ceux que la clé paie."""
    keys = KeyRing([f"sobre {KEY} tokens/min=12"])
    with client_of(make_context(ScriptedEngine()), keys=keys) as client:
        check_envelope(client.post(EMBEDDINGS, json={"input": "a"}), 401)
        for name, value in (("Authorization", f"Bearer {KEY}"), ("X-Api-Key", KEY)):
            headers = {name: value}
            answer = client.post(EMBEDDINGS, json={"input": "abcde"}, headers=headers)
            assert answer.status_code == 200
        error = check_envelope(
            client.post(EMBEDDINGS, json={"input": "abcde"}, headers=headers), 429
        )
        assert error["code"] == "rate_limit_exceeded"
        text = client.get("/metrics").text
    assert 'gpt_architecture_key_tokens_total{key="sobre",kind="prompt"} 10.0' in text


class Stuck:
    """Un calcul qui attend qu'on le laisse finir."""

    def __init__(self):
        self.started, self.go, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, *_ids, **_options):
        self.calls += 1
        self.started.set()
        assert self.go.wait(30)
        return torch.ones(2)


def test_a_text_too_long_to_read_ends_in_time():
    """504 passé le délai, comme pour un texte à écrire."""
    stuck = Stuck()
    context = replace(make_context(ScriptedEngine(), request_seconds=0.2), embed=stuck)
    with client_of(context) as client:
        answer = client.post(EMBEDDINGS, json={"input": ["a", "b"]})
        error = check_envelope(answer, 504)
        stuck.go.set()
    assert error["code"] == "timeout"
    assert stuck.calls == 1


@pytest.mark.slow
def test_who_leaves_reads_no_more():
    """Le client parti, les textes qui restent ne sont pas lus."""
    stuck = Stuck()
    context = replace(make_context(ScriptedEngine()), embed=stuck)
    with serving(create_app(context)) as url, openai_client(url) as client:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).embeddings.create(model=NAME, input=["a", "b", "c"])
        wait_until(lambda: "499" in metrics_of(url))
        stuck.go.set()  # le service sait déjà qu'il est parti
    assert stuck.calls == 1


def metrics_of(url):
    return HTTP.get(url + "/metrics").text


def openai_client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30)


@pytest.mark.slow
def test_the_official_client():
    """Le client d'OpenAI demande du base64 et en fait des nombres."""
    with serving(create_app(make_context(ScriptedEngine()))) as url, openai_client(url) as client:
        found = client.embeddings.create(model=NAME, input=TEXTS)
        plain = client.embeddings.create(
            model=NAME, input=TEXTS, encoding_format="float", extra_body={"pooling": "mean"}
        )
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model=NAME, input="")
    assert [each.embedding for each in found.data] == [
        np.float32(each.embedding).tolist() for each in plain.data
    ]
    assert found.usage.prompt_tokens == sum(map(len, TEXTS))
    assert refused.value.param == "input"
