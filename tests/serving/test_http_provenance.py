"""`POST /v1/provenance` : les sources d'un texte, derrière la clé, entre des bornes."""

import time
from dataclasses import replace

import pytest
from http_helpers import NAME, ScriptedEngine, check_envelope, client_of, make_context

from gpt_architecture.data.provenance.build import build_index
from gpt_architecture.data.shards.prepare import write_tokens
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.serving import provenance
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.pool import Lodger, ModelPool

GPT2 = get_tokenizer("gpt2")
TEXT = "Le passeur leva la lampe deux fois, puis il détacha le bateau."
KEY = "clef-de-seize-caracteres"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "d"
    train = GPT2.encode(f"<|endoftext|>{TEXT}<|endoftext|>Rien.", allowed_special="all")
    write_tokens(folder, TokenArray(train), TokenArray([1] * 40), GPT2, name="contes.txt")
    return build_index(folder)


@pytest.fixture
def context(index):
    """Un service dont le moteur n'a rien à faire."""
    return replace(make_context(ScriptedEngine(), tokenizer=GPT2), index=index)


def ask(client, **body):
    return client.post("/v1/provenance", json={"model": NAME, **body})


def test_text_and_ids_have_the_same_sources(context):
    with client_of(context) as client:
        found = ask(client, input=TEXT).json()
        assert ask(client, input=GPT2.encode(TEXT)).json() == found
    assert (found["object"], found["model"]) == ("provenance", NAME)
    (passage,) = found["passages"]
    assert (passage["start"], passage["end"], passage["text"]) == (0, found["tokens"], TEXT)
    assert (passage["occurrences"], passage["beyond_chance"]) == (1, True)
    assert passage["places"] == [
        {"document": 1, "name": "contes.txt", "offset": 0, "before": "", "after": ""}
    ]
    assert found["index"]["documents"] == 2
    assert found["chance"] == {"length": 0, "measured": True} or found["chance"]["measured"]


def test_bounds_are_those_asked(context):
    with client_of(context) as client:
        found = ask(client, input=TEXT, min_tokens=100).json()
        assert (found["passages"], found["longest"]) == ([], found["tokens"])
        found = ask(client, input=TEXT, passages=1, places=0).json()
        assert found["passages"][0]["places"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[1]]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [50257]}, "input"),
        ({"input": "a" * 20_000}, "input"),
        ({"input": TEXT, "min_tokens": 0}, "min_tokens"),
        ({"input": TEXT, "passages": 51}, "passages"),
        ({"input": TEXT, "places": 21}, "places"),
        ({"input": TEXT, "places": -1}, "places"),
        ({"input": TEXT, "tools": [{}]}, "tools"),
    ],
)
def test_a_wrong_body_is_refused_by_its_field(context, body, param):
    with client_of(context) as client:
        error = check_envelope(ask(client, **body), 400)
        assert error["param"] == param


def test_another_model_is_not_found(context):
    with client_of(context) as client:
        check_envelope(ask(client, model="autre", input=TEXT), 404)


def test_a_model_without_an_index_is_told_who_has_one(context):
    """L'index est celui des données d'un seul modèle ; un autre n'est pas chargé pour le dire."""

    def load(name):
        raise AssertionError(f"{name} est chargé")

    pool = ModelPool(["autre"], lambda _name: Lodger(size=1, window=8), load)
    with client_of(create_app(context, pool=pool)) as client:
        error = check_envelope(ask(client, model="autre", input=TEXT), 404)
        assert (error["code"], error["param"]) == ("no_index", "model")
        assert "« autre » n'a pas d'index" in error["message"]
        assert f"« {NAME} »" in error["message"]
        error = check_envelope(ask(client, model="aucun", input=TEXT), 404)
        assert error["code"] == "model_not_found"
        assert ask(client, model=None, input=TEXT).json()["model"] == NAME


def test_an_endless_search_is_said(context, monkeypatch):
    monkeypatch.setattr(provenance, "trace_sources", lambda *_arguments, **_named: time.sleep(0.5))
    short = replace(context, limits=Limits(request_seconds=0.05))
    with client_of(short) as client:
        check_envelope(ask(client, input=TEXT), 504)


def test_without_an_index_the_answer_says_how_to_make_one(context):
    with client_of(replace(context, index=None)) as client:
        error = check_envelope(ask(client, input=TEXT), 404)
        assert error["code"] == "no_index"
        assert "evaluate --index" in error["message"]
        assert client.get("/studio/api/info").json()["sources"] is False
    with client_of(context) as client:
        assert client.get("/studio/api/info").json()["sources"] is True


def test_training_text_is_behind_the_key(context):
    """Sans la bonne clé, rien des données ne sort."""
    with client_of(context, keys=KeyRing([KEY])) as client:
        refused = ask(client, input=TEXT)
        check_envelope(refused, 401)
        assert "bateau" not in refused.text
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"input": TEXT}
        assert client.post("/v1/provenance", json=body, headers=headers).status_code == 200
