"""`POST /v1/classify` : des textes jugés, entre des bornes ; et qui écrit ne juge pas."""

from dataclasses import replace

import pytest
import torch
from adapter_helpers import an_adapter, beside
from http_helpers import NAME, ScriptedEngine, check_envelope, client_of, make_context

from gpt_architecture.config import GPTConfig, HeadConfig, LoRAConfig
from gpt_architecture.core.lora import adapter_shapes, runtime_adapter
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.evaluation.judgement import judge
from gpt_architecture.serving.adapters import AdapterShelf
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

GPT2 = get_tokenizer("gpt2")
KEY = "clef-de-seize-caracteres"
HEADS = {"classe": HeadConfig(labels=("avis", "spam")), "valeur": HeadConfig(center=3.0, scale=2.0)}


def model_of(head):
    torch.manual_seed(0)
    shape = {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}
    return GPTModel(GPTConfig(**shape, head=head)).eval()


def context_of(head):
    """Un service dont le moteur n'a rien à faire."""
    context = make_context(ScriptedEngine(), tokenizer=GPT2)
    return replace(context, model=model_of(head), window=16)


@pytest.fixture
def context():
    return context_of(HEADS["classe"])


def ask(client, **body):
    return client.post("/v1/classify", json={"model": NAME, **body})


@pytest.mark.parametrize("kind", HEADS)
def test_one_text_or_several(kind):
    context = context_of(HEADS[kind])
    texts = ["Où est mon colis ?", "Gagnez un voyage", "mot " * 40]
    expected = judge(context.model, GPT2, texts, window=16)
    with client_of(context) as client:
        found = ask(client, input=texts).json()
        (alone,) = ask(client, input=texts[0]).json()["data"]
    assert (found["object"], found["model"]) == ("classification", NAME)
    assert [each["index"] for each in found["data"]] == [0, 1, 2]
    assert [each["truncated"] for each in found["data"]] == [False, False, True]
    assert found["usage"]["prompt_tokens"] == sum(each.tokens for each in expected)
    for each, own in zip(found["data"], expected, strict=True):
        assert each["label"] == own.label
        if own.label is None:
            assert each["value"] == pytest.approx(own.value)
            assert each["probabilities"] is None
        else:
            assert each["probabilities"] == pytest.approx(dict(own.probabilities))
            assert each["value"] is None
    assert alone["label"] == found["data"][0]["label"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": ""},
        {"input": "  "},
        {"input": []},
        {"input": ["a", ""]},
        {"input": ["a", 3]},
        {"input": 3},
        {"input": ["a"] * 65},
    ],
    ids=str,
)
def test_bad_inputs(context, body):
    with client_of(context) as client:
        answer = ask(client, **body)
        check_envelope(answer, 400)
        assert answer.json()["error"]["param"] == "input"


def test_another_model_and_the_key(context):
    with client_of(context, keys=KeyRing([KEY])) as client:
        assert ask(client, input="a").status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"model": "autre", "input": "a"}
        assert client.post("/v1/classify", json=body, headers=headers).status_code == 404
        body = {"model": NAME, "input": "a"}
        assert client.post("/v1/classify", json=body, headers=headers).status_code == 200


def test_the_tokens_read_are_those_the_key_pays():
    """Un jugement compte dans ce que la clé permet ; de quoi le refuser, une fois tout lu."""
    context = context_of(HEADS["classe"])
    keys = KeyRing([f"sobre {KEY} tokens/min=40"])
    headers = {"Authorization": f"Bearer {KEY}"}
    with client_of(context, keys=keys) as client:
        codes, read = [], 0
        for _ in range(4):
            body = {"input": ["mot " * 40]}
            answer = client.post("/v1/classify", json=body, headers=headers)
            codes.append(answer.status_code)
            read += answer.json()["usage"]["prompt_tokens"] if answer.status_code == 200 else 0
        text = client.get("/metrics").text
    assert codes == [200, 200, 429, 429]
    assert read == 32
    assert 'gpt_architecture_key_tokens_total{key="sobre",kind="prompt"} 32.0' in text


def test_an_adapter_does_not_judge(context):
    """Le jugement serait celui du modèle seul, sous un autre nom."""
    lora = LoRAConfig(rank=1, targets=("query",))
    shapes = adapter_shapes(context.model.cfg, lora)
    tensors = {
        f"{path}.lora_{letter}": torch.ones((1, d) if letter == "A" else (e, 1))
        for path, (d, e) in shapes.items()
        for letter in "AB"
    }
    adapter = runtime_adapter(context.model.cfg, lora, tensors)
    shelf = AdapterShelf(lambda _path: (adapter, {}), rank_bytes=1)
    shelf.add("un", "un")
    with client_of(replace(context, shelf=shelf)) as client:
        error = check_envelope(
            client.post("/v1/classify", json={"model": "un", "input": "Un ?"}), 400
        )
        assert (error["param"], error["code"]) == ("model", "no_classification")
        assert ask(client, input="Un ?").status_code == 200


def test_a_model_that_writes_does_not_judge():
    with client_of(context_of(None)) as client:
        answer = ask(client, input="a")
        check_envelope(answer, 400)
        assert "train --classify" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Un"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Un ?"}]}),
    ],
)
def test_a_model_that_judges_does_not_write(context, path, body):
    with client_of(context) as client:
        answer = client.post(path, json={"model": NAME, **body})
        check_envelope(answer, 400)
        assert "/v1/classify" in answer.json()["error"]["message"]


@pytest.mark.parametrize("part", ["heads", "lens", "ablation", "neuron"])
def test_the_studio_does_not_read_tokens_in_classes(context, part):
    """Les logits y sont des classes : un refus qui le dit, et non une erreur interne."""
    context = replace(context, network=context.model)
    with client_of(context) as client:
        path = f"/studio/api/{part}"
        found = client.get(path) if part == "heads" else client.post(path, json={"prompt": "mot"})
    assert found.status_code == 400
    assert "ce modèle classe des textes" in found.json()["error"]["message"]


def test_an_adapter_of_a_model_that_writes_is_told_so():
    """Renvoyer à son modèle n'avancerait à rien : il ne juge pas non plus."""
    model = model_of(None)
    shelf = AdapterShelf(lambda _path: (beside(model, an_adapter(model, 1)), {}), rank_bytes=1)
    shelf.add("un", "un")
    with client_of(replace(context_of(None), shelf=shelf)) as client:
        answer = client.post("/v1/classify", json={"model": "un", "input": "Un ?"})
        assert "train --classify" in check_envelope(answer, 400)["message"]


def test_a_field_without_effect_is_accepted(context):
    strict = replace(context, fields=FieldPolicy(strict=True))
    with client_of(strict) as client:
        for body in ({"user": "x"}, {"user": None, "priority": 0}, {"tools": []}):
            assert ask(client, input="a", **body).status_code == 200
        check_envelope(ask(client, input="a", inconnu=1), 400)


def test_it_is_in_the_reference(context):
    with client_of(context) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert "/v1/classify" in paths
        assert "Classer ou noter des textes" in client.get("/docs").text
