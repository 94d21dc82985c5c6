"""L'intérieur du modèle, tel que le studio le demande : exact, borné, gardé par les clés."""

import threading

import pytest
from http_helpers import check_envelope, client_of
from serving_helpers import PATIENCE
from studio_helpers import PROMPT, WINDOW, Bytes, byte_model, studio_context, write_checkpoints

from gpt_architecture.evaluation.inside.ablation import study_ablation
from gpt_architecture.evaluation.inside.embeddings import nearest_tokens
from gpt_architecture.evaluation.inside.heads import find_heads
from gpt_architecture.evaluation.inside.learning import follow_learning
from gpt_architecture.evaluation.inside.lens import read_layers
from gpt_architecture.evaluation.inside.neurons import neuron_peaks, study_neuron
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.studio import inside
from gpt_architecture.serving.studio.inside import NEURON_TOKENS, SENTENCE_TOKENS

IDS = Bytes().encode(PROMPT)
TEXT = "Le passeur leva la lampe, puis il détacha le bateau. " * 6


@pytest.fixture(scope="module")
def client():
    with studio_context() as context, client_of(context) as found:
        yield found


def post(client, path, **body):
    response = client.post(f"/studio/api/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-3, abs=2e-5)


def test_heads_are_those_of_the_library(client):
    answer = client.get("/studio/api/heads").json()
    expected = find_heads(byte_model(), vocab_size=Bytes.vocab_size, window=WINDOW)
    for name in ("induction", "duplicate", "previous", "first"):
        for mine, theirs in zip(answer[name], getattr(expected, name).tolist(), strict=True):
            close(mine, theirs)
    close(answer["repeat_loss"], expected.repeat_loss)
    assert [tuple(each[:2]) for each in answer["removals"]] == [
        (each.layer, each.head) for each in expected.removals
    ]
    assert client.get("/studio/api/heads").json() == answer


def test_the_lens_is_that_of_the_library(client):
    answer = post(client, "lens", prompt=PROMPT)
    expected = read_layers(byte_model(), IDS, window=WINDOW)
    assert "".join(answer["names"]) == PROMPT
    assert answer["ids"] == expected.top_ids.tolist()
    close(answer["probabilities"][2][3], expected.top_probabilities[2, 3].tolist())
    close(answer["divergences"][0], expected.divergences[0].tolist())
    close(answer["norms"][1], expected.norms[1].tolist())
    assert answer["texts"][str(answer["ids"][0][0][0])] is not None


@pytest.mark.parametrize("mode", ["mean", "zero"])
def test_the_ablation_is_that_of_the_library(client, mode):
    answer = post(client, "ablation", prompt=PROMPT, mode=mode, follow=ord("a"))
    expected = study_ablation(byte_model(), IDS, mode=mode, target=ord("a"), window=WINDOW)
    close(answer["probability"], expected.probability)
    assert answer["target"] == [ord("a"), "a"]
    for mine, theirs in zip(answer["effects"], expected.effects, strict=True):
        part = theirs.part
        assert (mine["kind"], mine["layer"], mine["head"]) == (part.kind, part.layer, part.head)
        close(mine["probability"], theirs.probability)
        close(mine["divergence"], theirs.divergence)
        assert mine["token"][0] == theirs.token


def test_a_neuron_is_that_of_the_library(client):
    ids = Bytes().encode(TEXT)
    answer = post(client, "neuron", prompt=TEXT, layer=1, neuron=4)
    expected = study_neuron(byte_model(), ids, 1, 4, window=WINDOW, vocab_size=Bytes.vocab_size)
    assert [each["position"] for each in answer["examples"]] == [
        each.position for each in expected.examples
    ]
    close(answer["mean"], expected.mean)
    peaks = neuron_peaks(byte_model(), ids, 1, window=WINDOW)
    assert [each["neuron"] for each in answer["peaks"]] == [each.neuron for each in peaks[:30]]
    assert post(client, "neuron", prompt=TEXT, layer=1)["neuron"] == peaks[0].neuron


def test_neighbours_are_those_of_the_library(client):
    answer = post(client, "neighbours", prompt="a")
    expected = nearest_tokens(byte_model(), ord("a"), top=24, vocab_size=Bytes.vocab_size)
    assert [each[0] for each in answer["neighbours"]] == [each.token for each in expected]
    assert len(answer["points"]) == 25
    assert 0 < answer["shares"][1] <= answer["shares"][0] < 1
    assert post(client, "neighbours", prompt=[ord("a")]) == answer


def test_learning_reads_each_checkpoint(tmp_path):
    """Sans point de reprise, puis avec ; un point abîmé ne dit aucun chemin."""
    folder = tmp_path / "essai"
    folder.mkdir()
    with studio_context(run_directory=folder) as context, client_of(context) as client:
        asked = {"prompt": PROMPT, "follow": "e"}
        found = check_envelope(client.post("/studio/api/learning", json=asked), 404)
        assert "save_every" in found["message"]
        store = write_checkpoints(folder)
        answer = post(client, "learning", **asked)
        expected = follow_learning(folder, PROMPT, follow="e")
        assert [each["step"] for each in answer["moments"]] == [2, 4, 6]
        for mine, theirs in zip(answer["moments"], expected.moments, strict=True):
            close(mine["probability"], theirs.probability)
            assert mine["val_loss"] == theirs.val_loss
            assert mine["text"] == theirs.text
        (store / "step-000004" / "model.safetensors").write_bytes(b"abime")
        found = check_envelope(client.post("/studio/api/learning", json=asked), 404)
        assert str(tmp_path) not in found["message"]


LONG = "a" * (SENTENCE_TOKENS + 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("lens", {"prompt": LONG}),
        ("lens", {"prompt": ["a", "b"]}),
        ("lens", {"prompt": [Bytes.vocab_size]}),
        ("lens", {"prompt": "a", "autre": 1}),
        ("ablation", {"prompt": LONG}),
        ("ablation", {"prompt": "a", "mode": "autre"}),
        ("ablation", {"prompt": "a", "follow": Bytes.vocab_size}),
        ("ablation", {"prompt": "a", "follow": -1}),
        ("neuron", {"prompt": "a" * (NEURON_TOKENS + 1)}),
        ("neuron", {"prompt": "a", "layer": 2}),
        ("neuron", {"prompt": "a", "layer": 0, "neuron": 96}),
        ("neuron", {"prompt": ""}),
        ("neighbours", {"prompt": "ab"}),
        ("learning", {"prompt": ""}),
        ("learning", {"prompt": "a" * 2_001}),
    ],
)
def test_bounds_are_said(client, path, body):
    check_envelope(client.post(f"/studio/api/{path}", json=body), 400)


def test_a_quantized_model_shows_nothing():
    with studio_context(network=None) as context, client_of(context) as client:
        for path in ("lens", "ablation", "neuron", "neighbours"):
            found = check_envelope(client.post(f"/studio/api/{path}", json={"prompt": "a"}), 400)
            assert "quantifié" in found["message"]
        check_envelope(client.get("/studio/api/heads"), 400)


def test_keys_guard_what_is_inside():
    key = "clef-de-seize-caracteres"
    with studio_context() as context, client_of(context, keys=KeyRing([key])) as client:
        for path in ("lens", "ablation", "neuron", "neighbours", "learning"):
            check_envelope(client.post(f"/studio/api/{path}", json={"prompt": "a"}), 401)
        check_envelope(client.get("/studio/api/heads"), 401)


def test_the_tokens_looked_at_are_those_the_key_pays():
    """Regarder un modèle le fait calculer : une clé limitée ne le fait pas sans fin."""
    key = "clef-de-seize-caracteres"
    keys = KeyRing([f"sobre {key} tokens/min={2 * len(IDS)}"])
    headers = {"Authorization": f"Bearer {key}"}
    with studio_context() as context, client_of(context, keys=keys) as client:
        codes = [
            client.post(f"/studio/api/{path}", json={"prompt": PROMPT}, headers=headers).status_code
            for path in ("lens", "attention", "ablation")
        ]
    assert codes == [200, 200, 429]


def test_heads_and_learning_are_paid_too(tmp_path):
    """Noter les têtes, lire des points de reprise : des tokens lus ; une note gardée, aucun."""
    write_checkpoints(tmp_path)
    key = "clef-de-seize-caracteres"
    headers = {"Authorization": f"Bearer {key}"}
    asked = {"prompt": PROMPT, "follow": "e"}
    for ask, again in (
        (lambda client: client.get("/studio/api/heads", headers=headers), 200),
        (lambda client: client.post("/studio/api/learning", json=asked, headers=headers), 429),
    ):
        keys = KeyRing([f"sobre {key} tokens/min=1"])
        context = studio_context(run_directory=tmp_path)
        with context as served, client_of(served, keys=keys) as client:
            assert [ask(client).status_code for _ in range(2)] == [200, again]
            lens = client.post("/studio/api/lens", json={"prompt": PROMPT}, headers=headers)
            assert lens.status_code == 429


def test_a_view_too_long_ends_in_time(monkeypatch):
    """504 passé le délai ; ce qu'il a mesuré est gardé pour qui le redemande."""
    go, calls = threading.Event(), []

    def slow(*given, **options):
        calls.append(go.wait(PATIENCE))
        return find_heads(*given, **options)

    monkeypatch.setattr(inside, "find_heads", slow)
    limits = Limits(request_seconds=0.2)
    with studio_context(limits=limits) as context, client_of(context) as client:
        error = check_envelope(client.get("/studio/api/heads"), 504)
        assert error["code"] == "timeout"
        go.set()
        for _ in range(int(PATIENCE / limits.request_seconds)):
            if (found := client.get("/studio/api/heads")).status_code == 200:
                break
        assert found.json()["induction"]
    assert calls == [True]
