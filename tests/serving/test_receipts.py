"""Les reçus : ce qu'ils disent, ce qu'un rejeu en fait, et ceux qu'il ne croit pas."""

import hashlib
import json
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from certificate_helpers import nudged
from http_helpers import client_of, make_context, running_engine
from receipt_helpers import (
    KEY,
    KINDS,
    ask,
    attests,
    build,
    key_pairs,
    loaded,
    resealed,
    take,
    with_metadata,
)

from gpt_architecture import load, replay, serve
from gpt_architecture.api.identity import identity_of
from gpt_architecture.api.receipts import replayed, replaying
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.errors import ReceiptError
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.serving.identity import SECTIONS, Identity
from gpt_architecture.serving.openai.receipts import MAX_BYTES, Receipt
from gpt_architecture.storage.chain import Signer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SAMPLED = {"prompt": "Le passeur", "max_tokens": 12, "ignore_eos": True, "receipt": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build(tmp_path_factory.mktemp("recus"))


@pytest.fixture(scope="module")
def gpt(path):
    return loaded(path, "fp32")


@pytest.fixture(scope="module")
def url(gpt):
    with serve(gpt, name="essai", api_keys=[KEY]) as service:
        yield service.url


@pytest.fixture(scope="module")
def engine(gpt):
    """De quoi rejouer sans recharger."""
    with replaying(gpt) as context:
        yield context


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    pytest.importorskip("cryptography", reason="cryptography n'est pas installé")
    return key_pairs(tmp_path_factory.mktemp("cles"))


@pytest.fixture
def receipt(url):
    """Le reçu d'un texte échantillonné, sans graine demandée."""
    return ask(url, COMPLETIONS, SAMPLED)[1]


def verdict(engine, receipt):
    return replayed(engine, Receipt.of(receipt))


def causes(found):
    return [each.cause for each in found.differences]


class TestUnderLoad:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_answer_is_replayed(self, path, kind):
        """Flux ou non, n, arrêts, contraintes, départs au milieu ; puis après un redémarrage."""
        gpt, pairs, options = loaded(path, kind), [], ({}, {"slots": 3, "drafts": 2})
        for number, each in enumerate(options):
            with serve(gpt, api_keys=[KEY], **each) as service:
                taken = take(service.url, 14, seed=f"{kind}-{number}")
            pairs += taken.pairs
        assert len(pairs) == 28
        with replaying(gpt) as context:
            for body, texts, receipt in pairs:
                assert attests(texts, receipt), body
                found = verdict(context, receipt)
                assert found.same, (body, found.lines)
                assert found.texts == texts
                assert found.fingerprints[0] == found.fingerprints[1]

    def test_a_quantised_file_answers_for_one_quantised_on_load(self, path, tmp_path):
        from gpt_architecture import quantize

        with serve(loaded(path, "int8"), api_keys=[KEY]) as service:
            texts, receipt = ask(service.url, COMPLETIONS, SAMPLED)
        quantize(path, scheme="int8", output=tmp_path / "m.safetensors", progress=False)
        for model in (path, tmp_path / "m.safetensors"):
            found = replay(receipt, model)
            assert (found.same, found.texts) == (True, texts)
        other = replay(receipt, load(path))
        assert causes(other) == ["modèle"]
        assert "int8 au reçu, fp32 ici" in other.differences[0].message


class TestWhatItSays:
    def test_the_seed_drawn_is_in_it_and_the_key_is_not(self, url, receipt):
        body = receipt["request"]["body"]
        assert type(body["seed"]) is int
        again = ask(url, COMPLETIONS, {**SAMPLED, "seed": body["seed"]})[1]
        assert again["answers"] == receipt["answers"]
        assert again["request"] == receipt["request"]
        assert KEY not in json.dumps(receipt)

    def test_only_what_counts_is_in_the_request(self, url):
        extra = {"user": "moi", "model": "essai", "stream": True, "lookup": 4, "store": True}
        _, found = ask(url, COMPLETIONS, {**SAMPLED, "seed": 3, **extra, "temperature": 1.0})
        assert found["request"] == {
            "route": COMPLETIONS,
            "body": {
                "prompt": ["Le passeur"],
                "ignore_eos": True,
                "n": 1,
                "seed": 3,
                "max_tokens": 12,
                "temperature": 1,
            },
        }

    def test_a_schema_keeps_the_order_of_its_properties(self, url, engine):
        schema = {"type": "object", "properties": {"z": {"enum": [1]}, "a": {"enum": [2]}}}
        schema["required"] = ["z", "a"]
        texts, found = ask(url, COMPLETIONS, {**SAMPLED, "max_tokens": 30, "json_schema": schema})
        assert texts == ['{"z":1,"a":2}']
        kept = json.loads(json.dumps(found, sort_keys=True))  # d'autres trient les clés
        assert verdict(engine, kept).texts == texts

    def test_its_digest_needs_only_json_and_hashlib(self, receipt):
        body = {name: each for name, each in receipt.items() if name not in ("sha256", "signature")}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        assert receipt["sha256"] == hashlib.sha256(text.encode()).hexdigest()

    def test_none_unless_asked_but_always_a_fingerprint(self, url, receipt):
        from http_helpers import post

        headers = {"Authorization": f"Bearer {KEY}"}
        body = {name: each for name, each in SAMPLED.items() if name != "receipt"}
        answer = post(url, COMPLETIONS, body, headers=headers).json()
        assert "receipt" not in answer
        assert answer["system_fingerprint"] == receipt["system_fingerprint"]
        assert answer["system_fingerprint"].startswith("fp_")
        refused = post(url, COMPLETIONS, {**body, "receipt": 1}, headers=headers)
        assert refused.status_code == 400

    def test_without_an_identity_it_is_refused(self):
        empty = Future()
        empty.set_result(None)
        with running_engine() as engine:
            context = replace(make_context(engine), identity=empty)
            with client_of(context) as client:
                body = {"prompt": "a", "max_tokens": 1}
                answer = client.post(COMPLETIONS, json={**body, "receipt": True})
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_receipt")
                assert client.post(COMPLETIONS, json=body).json()["system_fingerprint"] is None

    def test_the_official_client_reads_it(self, url, engine):
        import openai

        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=30)
        options = {"model": "essai", "max_tokens": 6, "extra_body": {"receipt": True}}
        asked = [{"role": "user", "content": "La lampe ?"}]
        whole = client.chat.completions.create(messages=asked, **options)
        chunks = list(client.completions.create(prompt="Le", stream=True, **options))
        for found in (whole.receipt, chunks[-1].receipt):
            assert verdict(engine, found).same
        assert chunks[-1].choices == []
        assert {each.system_fingerprint for each in (whole, *chunks)} == {
            whole.receipt["system_fingerprint"]
        }


class TestIdentity:
    def test_it_outlives_a_restart(self, path, receipt):
        fresh = loaded(path, "fp32")
        assert identity_of(fresh, fresh.runner).fingerprint == receipt["system_fingerprint"]

    def test_each_section_changes_it(self, receipt):
        facts = {name: receipt[name] for name in SECTIONS}
        first = Identity(facts).fingerprint
        for name in SECTIONS:
            for inside in facts[name]:
                changed = {**facts, name: {**facts[name], inside: "autre"}}
                assert Identity(changed).fingerprint != first, (name, inside)

    def test_one_ulp_changes_it(self, gpt):
        known = identity_of(gpt, gpt.runner).facts["model"]["sha256"]
        model = GPTModel(gpt.config)
        model.load_state_dict(gpt.model.state_dict())
        assert identity_of(gpt, model.eval()).facts["model"]["sha256"] == known
        with torch.no_grad():
            model.final_norm.shift.copy_(nudged(model.final_norm.shift))
        for runner in (model, pack(model)):
            assert identity_of(gpt, runner).facts["model"]["sha256"] != known

    def test_the_heads_count_though_no_weight_says_them(self, gpt):
        cfg = replace(gpt.config, n_heads=4)
        other = GPTModel(cfg)
        other.load_state_dict(gpt.model.state_dict())
        found = [identity_of(gpt, each).facts["model"]["sha256"] for each in (gpt.model, other)]
        assert found[0] != found[1]

    @pytest.mark.parametrize("kind", ["int8", "int4"])
    def test_the_layout_of_the_weights_does_not(self, gpt, kind, monkeypatch):
        """Avec ou sans noyaux, avant ou après qu'ils sont rangés."""
        packed = pack(gpt.model, kind)
        known = identity_of(gpt, packed).facts["model"]
        monkeypatch.setattr("gpt_architecture.kernels.decode.passes._compiles", lambda cfg: False)
        plain = pack(gpt.model, kind)
        assert not plain.compiled
        found = identity_of(gpt, plain).facts
        assert found["model"] == known
        assert found["arithmetic"]["engine"] == "torch"

    def test_settled_weights_have_the_same(self, gpt):
        packed = pack(gpt.model)
        known = identity_of(gpt, packed).facts["model"]
        packed.settle()
        assert identity_of(gpt, packed).facts["model"] == known

    def test_a_failure_is_said_and_stops_nothing(self, gpt, caplog):
        assert identity_of(gpt, object()) is None
        assert "empreinte" in caplog.text


class TestDifferences:
    def test_another_model(self, gpt, receipt):
        model = GPTModel(gpt.config)
        model.load_state_dict(gpt.model.state_dict())
        with torch.no_grad():
            model.final_norm.shift.copy_(nudged(model.final_norm.shift))
        found = replay(receipt, replace(gpt, model=model.eval(), runner=None))
        assert (causes(found), found.texts) == (["modèle"], [])

    def test_another_tokenizer(self, gpt, receipt):
        words = gpt.tokenizer.to_dict()
        (name,) = [key for key, value in words.items() if isinstance(value, dict | str)][:1]
        other = tokenizer_from_dict(words)
        other.to_dict = lambda: {**words, name: "autre"}
        assert causes(replay(receipt, replace(gpt, tokenizer=other))) == ["tokenizer"]

    def test_another_template_counts_for_a_conversation_only(self, url, gpt, receipt):
        talk = {"messages": [{"role": "user", "content": "Oui ?"}], "receipt": True}
        _, chat = ask(url, CHAT, {**talk, "max_tokens": 4})
        other = with_metadata(gpt, chat_template="{{ messages[0].content }}")
        assert causes(replay(chat, other)) == ["gabarit"]
        assert replay(receipt, other).same

    @pytest.mark.parametrize("place", [0, 5, 11])
    def test_another_answer_is_located(self, engine, receipt, place):
        answer = json.loads(json.dumps(receipt["answers"][0]))
        answer["tokens"][place] += 1
        found = verdict(engine, resealed(receipt, answers=[answer]))
        assert causes(found) == ["réponse"]
        assert (found.differences[0].index, found.differences[0].position) == (0, place)
        assert "Rien de ce qui répond ne diffère" in found.notes[-1]
        touched = verdict(engine, {**receipt, "answers": [answer]})
        assert causes(touched) == ["reçu", "réponse"]

    @pytest.mark.parametrize(
        ("change", "cause"),
        [
            ({"tokens": []}, "réponse"),
            ({"sha256": "0" * 64}, "réponse"),
            ({"bytes": 1}, "réponse"),
            ({"finish_reason": "stop"}, "réponse"),
            ({"logprobs": "0" * 64}, "probabilités"),
        ],
    )
    def test_everything_it_says_is_compared(self, engine, receipt, change, cause):
        answer = {**receipt["answers"][0], **change}
        assert causes(verdict(engine, resealed(receipt, answers=[answer]))) == [cause]
        both = resealed(receipt, answers=[answer, answer])
        assert causes(verdict(engine, both)) == ["réponse"]

    def test_another_system_is_an_explanation_not_a_difference(self, engine, receipt):
        elsewhere = {
            "software": {**receipt["software"], "sha256": "1" * 64},
            "arithmetic": {**receipt["arithmetic"], "torch": "2.0.0"},
        }
        found = verdict(engine, sealed_by_its_system(receipt, **elsewhere))
        assert found.same
        assert [note.split(" : ")[0] for note in found.notes] == ["Sans effet ici"] * 2
        assert "version de PyTorch : 2.0.0" in found.notes[1]
        answer = {**receipt["answers"][0], "sha256": "0" * 64}
        found = verdict(engine, sealed_by_its_system(receipt, **elsewhere, answers=[answer]))
        assert causes(found) == ["réponse", "logiciel", "arithmétique"]

    def test_another_request_is_another_answer(self, engine, receipt):
        body = {**receipt["request"]["body"], "seed": receipt["request"]["body"]["seed"] + 1}
        request = {**receipt["request"], "body": body}
        assert "réponse" in causes(verdict(engine, resealed(receipt, request=request)))

    def test_rewritten_by_javascript_it_is_the_same(self, url, engine):
        """`JSON.stringify` écrit 1 pour 1.0, et garde l'ordre qu'il veut."""
        options = {"temperature": 2.0, "top_p": 1.0, "logit_bias": {"35": 4.0}, "min_p": 1e-5}
        _, receipt = ask(url, COMPLETIONS, {**SAMPLED, **options})
        numbers = [each for each in _leaves(receipt) if isinstance(each, float)]
        assert numbers == [1e-5]
        assert verdict(engine, dict(reversed(receipt.items()))).same


def sealed_by_its_system(receipt, **changes):
    """Le reçu qu'un autre système aurait fait : son nom court est le sien."""
    content = {**receipt, **changes}
    named = Identity({name: content[name] for name in SECTIONS}).fingerprint
    return resealed(content, system_fingerprint=named)


def _leaves(value):
    inside = value.values() if isinstance(value, dict) else value
    for each in inside:
        if isinstance(each, dict | list):
            yield from _leaves(each)
        else:
            yield each


def with_body(receipt, **changes):
    body = {**receipt["request"]["body"], **changes}
    body = {name: each for name, each in body.items() if each is not None}
    return resealed(receipt, request={**receipt["request"], "body": body})


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE = {
    "sans format": lambda r: {**r, "format": "autre"},
    "autre version": lambda r: {**r, "version": 2},
    "version vraie": lambda r: {**r, "version": True},
    "sans modèle": lambda r: {name: each for name, each in r.items() if name != "model"},
    "empreinte": lambda r: {**r, "model": {"sha256": "x"}},
    "sans réponse": lambda r: {**r, "answers": []},
    "cent réponses": lambda r: {**r, "answers": r["answers"] * 100},
    "tokens": lambda r: {**r, "answers": [{**r["answers"][0], "tokens": ["a"]}]},
    "signature": lambda r: {**r, "signature": {"head": "x"}},
    "route": lambda r: {**r, "request": {"route": "/metrics", "body": {}}},
    "route étrange": lambda r: {**r, "request": {"route": [1], "body": {}}},
    "sans graine": lambda r: with_body(r, seed=None),
    "graine": lambda r: with_body(r, seed=10**30),
    "champ inconnu": lambda r: with_body(r, fichier="/etc/passwd"),
    "outils": lambda r: with_body(r, tools=[{"type": "function"}]),
    "trop de textes": lambda r: with_body(r, n=65),
    "trop de tokens": lambda r: with_body(r, max_tokens=10**9),
    "hors contexte": lambda r: with_body(r, prompt=[[1] * 500]),
    "hors vocabulaire": lambda r: with_body(r, prompt=[[10**6]]),
    "température": lambda r: with_body(r, temperature=99),
    "deux contraintes": lambda r: with_body(r, regex="a", choices=["a"]),
    "expression": lambda r: with_body(r, regex="(" * 40, ignore_eos=None),
    "démesurée": lambda r: with_body(r, regex=".*" * 5000, ignore_eos=None),
    "profonde": lambda r: with_body(r, json_schema=deep(40)),
    "très profonde": lambda r: {**r, "more": deep(99)},
    "grosse": lambda r: with_body(r, prompt=["a" * (3 << 20)]),
    "conversation": lambda r: {**r, "request": {"route": CHAT, "body": {"seed": 1}}},
}


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_it_is_refused_in_one_sentence(self, engine, receipt, name):
        with pytest.raises(ReceiptError) as refused:
            verdict(engine, HOSTILE[name](receipt))
        assert len(str(refused.value)) < 600
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "data", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": NaN}', b"[" * 10**5, b"1" * 9999]
    )
    def test_a_file_that_is_none(self, tmp_path, data):
        path = tmp_path / "r.json"
        path.write_bytes(data)
        with pytest.raises(ReceiptError, match=r"r\.json"):
            Receipt.of(path)

    def test_a_missing_file_or_a_huge_one(self, tmp_path):
        with pytest.raises(ReceiptError, match="absent"):
            Receipt.of(tmp_path / "r.json")
        (tmp_path / "r.json").write_bytes(b" " * (MAX_BYTES + 1))
        with pytest.raises(ReceiptError, match="plus de"):
            Receipt.of(str(tmp_path / "r.json"))

    def test_what_it_says_cannot_command_a_terminal(self, engine, receipt):
        odd = {**receipt["arithmetic"], "torch": "\x1b[2J\n" + "x" * 9999, "\x1b[1m": [[[]]]}
        found = verdict(engine, sealed_by_its_system(receipt, arithmetic=odd))
        assert found.same
        assert all("\x1b" not in line and len(line) < 700 for line in found.lines)

    def test_a_whole_answer_is_a_receipt_too(self, engine, receipt):
        assert verdict(engine, {"id": "x", "choices": [], "receipt": receipt}).same


class TestSignature:
    def test_signed_checked_or_not(self, gpt, keys):
        with serve(gpt, api_keys=[KEY], sign_key=keys / "une.pem") as service:
            _, receipt = ask(service.url, COMPLETIONS, {**SAMPLED, "stream": True})
        found = replay(receipt, gpt, public_key=keys / "une.pub")
        assert (found.same, found.notes) == (True, ["Signature vérifiée."])
        assert causes(replay(receipt, gpt, public_key=keys / "autre.pub")) == ["signature"]
        found = replay(receipt, gpt)
        assert found.same
        assert "n'est pas vérifiée" in found.notes[0]
        bare = {**receipt, "signature": None}
        assert causes(replay(bare, gpt, public_key=keys / "une.pub")) == ["signature"]
        forged = {**resealed(receipt, created=0), "signature": receipt["signature"]}
        assert causes(replay(forged, gpt, public_key=keys / "une.pub")) == ["signature"]
        assert "PRIVATE" not in json.dumps(receipt)

    def test_a_certificate_signature_is_not_one_of_a_receipt(self, gpt, receipt, keys):
        signature = Signer(keys / "une.pem").sign(receipt["sha256"])
        forged = {**receipt, "signature": signature}
        assert causes(replay(forged, gpt, public_key=keys / "une.pub")) == ["signature"]
