"""Le studio d'un service de plusieurs noms : tout y répond sous celui que la page choisit."""

import gc
import weakref

import numpy as np
import pytest
import torch
from adapter_helpers import merged
from http_helpers import check_envelope, client_of
from studio_helpers import (
    PROMPT,
    WINDOW,
    Bytes,
    byte_model,
    judge_model,
    many_names,
    polite_file,
    studio_context,
)
from test_studio_routes import decoded, written

from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.inside.ablation import study_ablation
from gpt_architecture.evaluation.inside.heads import find_heads
from gpt_architecture.evaluation.inside.lens import read_layers
from gpt_architecture.evaluation.inside.neurons import study_neuron
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.studio import inside

IDS = Bytes().encode(PROMPT)
NAMES = ("petit", "poli", "autre")


@pytest.fixture(scope="module")
def client():
    with many_names() as (context, pool), client_of(create_app(context, pool=pool)) as found:
        yield found


def alone(name):
    """Le réseau de ce nom, servi seul : l'adaptateur y est fondu."""
    base = byte_model(7 if name == "autre" else 0)
    return merged(base, polite_file(base)) if name == "poli" else base


def post(client, path, name, **body):
    response = client.post(f"/studio/api/{path}", json={"model": name, "prompt": PROMPT, **body})
    assert response.status_code == 200, response.text
    return response.json()


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_the_page_knows_the_names_it_can_choose(client):
    """Le modèle, son adaptateur, les autres et leur état ; une fiche ne ment pas sur qui répond."""
    first = client.get("/studio/api/info").json()
    kinds = [(each["name"], each["kind"]) for each in first["models"]]
    assert kinds == [
        ("petit", "model"),
        ("poli", "adapter"),
        ("autre", "other"),
        ("abime", "other"),
    ]
    assert (first["name"], first["adapter_of"]) == ("petit", None)
    adapted = client.get("/studio/api/info", params={"model": "poli"}).json()
    assert (adapted["name"], adapted["adapter_of"]) == ("poli", "petit")
    assert adapted["card"][0] == [
        "adaptateur",
        "« poli », de rang 3, ajouté à « petit », dont le reste de cette fiche parle",
    ]
    other = client.get("/studio/api/info", params={"model": "autre"}).json()
    assert (other["name"], other["adapter_of"]) == ("autre", None)
    states = {each["name"]: each["state"] for each in other["models"]}
    assert states["autre"] == "chargé"


@pytest.mark.parametrize("name", NAMES)
def test_each_name_writes_its_own(client, name):
    """Le texte, la distribution : ceux du modèle de ce nom, l'adaptateur comme s'il était fondu."""
    network = alone(name)
    greedy = {"model": name, "prompt": PROMPT, "temperature": 0, "max_tokens": 4, "stream": True}
    _, tokens, _ = written(client.post("/studio/api/generate", json=greedy))
    ids = list(IDS)
    for token in tokens:
        with torch.inference_mode():
            ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
        assert token["id"] == ids[-1]
    answer = post(client, "next", name)
    with torch.inference_mode():
        expected = network(torch.tensor([IDS]))[0, -1]
    close(decoded(answer["logits"], "<f4"), expected[answer["ids"]].numpy())


@pytest.mark.parametrize("name", NAMES)
def test_each_name_shows_its_own_inside(client, name):
    """Attention, têtes, couches, pièces, neurones : ceux du réseau qui écrit sous ce nom."""
    network = alone(name)
    maps = post(client, "attention", name)
    expected = attention_of(network, IDS)
    found = decoded(maps["weights"], np.uint8).reshape(tuple(expected.shape)) / 255
    np.testing.assert_allclose(found, expected.numpy(), atol=0.5 / 255 + 1e-3)
    heads = client.get("/studio/api/heads", params={"model": name}).json()
    noted = find_heads(network, vocab_size=Bytes.vocab_size, window=WINDOW)
    close(heads["induction"], noted.induction.numpy())
    close(heads["repeat_loss"], noted.repeat_loss)
    reading = read_layers(network, IDS, window=WINDOW)
    lens = post(client, "lens", name)
    close(lens["entropies"], reading.entropies.numpy())
    effects = study_ablation(network, IDS, window=WINDOW).effects
    answer = post(client, "ablation", name)["effects"]
    close([each["divergence"] for each in answer], [each.divergence for each in effects])
    study = study_neuron(network, IDS, 1, 4, window=WINDOW, vocab_size=Bytes.vocab_size)
    one = post(client, "neuron", name, layer=1, neuron=4)
    close(one["mean"], study.mean)
    close([each[1] for each in one["raised"]], [value for _, value in study.raised])


def test_the_names_differ(client):
    """Rien de ce qui précède ne tiendrait si tous montraient le même."""
    maps = {post(client, "attention", name)["weights"] for name in NAMES}
    notes = [client.get("/studio/api/heads", params={"model": name}).json() for name in NAMES]
    assert len(maps) == len({each["repeat_loss"] for each in notes}) == 3


def test_what_was_measured_leaves_with_its_network(monkeypatch):
    """Les notes des têtes, mesurées une fois par réseau, ne retiennent pas un modèle rendu."""
    measured = []

    def counting(network, **options):
        measured.append(network.cfg)
        return find_heads(network, **options)

    monkeypatch.setattr(inside, "find_heads", counting)
    with (
        many_names() as (context, pool),
        client_of(create_app(context, pool=pool)) as client,
    ):
        for name in (*NAMES, *NAMES):
            assert client.get("/studio/api/heads", params={"model": name}).status_code == 200
        assert len(measured) == 3
        network = weakref.ref(pool.loaded["autre"].network)
        pool.close()
        gc.collect()
        assert network() is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("post", each) for each in ("generate", "next", "attention", "lens", "ablation")),
        *(("post", each) for each in ("neuron", "neighbours")),
        *(("get", each) for each in ("info", "heads")),
    ],
)
def test_an_unknown_or_broken_name_is_said(client, method, path):
    for name, status in (("absent", 404), ("abime", 503)):
        if method == "get":
            answer = client.get(f"/studio/api/{path}", params={"model": name})
        else:
            answer = client.post(f"/studio/api/{path}", json={"model": name, "prompt": "a"})
        error = check_envelope(answer, status)
        assert f"« {name} »" in error["message"]
    if method == "get":
        check_envelope(client.get(f"/studio/api/{path}", params={"model": "x" * 257}), 400)


def test_a_quantized_base_hides_the_inside_of_its_adapters():
    """Jamais la carte d'un autre réseau : une phrase."""
    with (
        many_names(network=None) as (context, pool),
        client_of(create_app(context, pool=pool)) as client,
    ):
        answer = client.post("/studio/api/attention", json={"model": "poli", "prompt": "a"})
        assert "quantifié" in check_envelope(answer, 400)["message"]


@pytest.mark.parametrize("head", [{"labels": ("avis", "spam")}, {"center": 2.0}], ids=str)
def test_a_model_that_judges_says_what_it_does(head):
    """Ses classes, ou aucune s'il note ; ce qui lit des tokens est refusé, non cassé."""
    model = judge_model(**head)
    with studio_context(model) as context, client_of(context) as client:
        info = client.get("/studio/api/info").json()
        assert info["judges"] == {"labels": list(head.get("labels", ()))}
        assert client.post("/studio/api/attention", json={"prompt": "a"}).status_code == 200
        for path in ("next", "generate", "lens"):
            answer = client.post(f"/studio/api/{path}", json={"prompt": "a"})
            assert "/v1/classify" in check_envelope(answer, 400)["message"]
    with studio_context() as context, client_of(context) as client:
        assert client.get("/studio/api/info").json()["judges"] is None
