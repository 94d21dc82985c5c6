"""Les routes du service, sur le petit modèle : ce qu'elles écrivent est ce que le modèle dit."""

import hashlib
import json
import math
import platform
from dataclasses import replace

import pytest
import torch
from decoding_helpers import LetterTokenizer
from http_helpers import (
    NAME,
    WINDOW,
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    running_engine,
    small_model,
)

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.serving.context import digest_of

PROMPT = "le passeur"


@pytest.fixture(scope="module")
def client():
    """Un client du petit modèle, avec un gabarit de conversation."""
    with running_engine() as engine, client_of(make_context(engine, chat=True)) as found:
        yield found


@pytest.fixture(scope="module")
def oracle():
    """Le même modèle, hors du service."""
    return Generator(small_model(), LetterTokenizer())


def complete(client, **body):
    """Réponse de /v1/completions."""
    response = client.post("/v1/completions", json={"prompt": PROMPT, **body})
    assert response.status_code == 200, response.text
    return response.json()


def events(response):
    """Les objets d'un flux, terminé par [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_greedy_text_is_the_model_s(client, oracle):
    """Sans tirage, le texte est celui du générateur."""
    answer = complete(client, temperature=0, max_tokens=12)
    (expected,) = oracle.generate([PROMPT], GenerationConfig(max_tokens=12))[0]
    (choice,) = answer["choices"]
    assert choice["text"] == expected.text
    assert choice["finish_reason"] == expected.finish
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["completion_tokens"] == len(expected.tokens)
    assert answer["object"] == "text_completion"
    assert answer["model"] == NAME


def test_sampling_settings_reach_the_model(client, oracle):
    """Chaque réglage change la suite comme il change celle du générateur."""
    settings = {
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 12,
        "min_p": 0.01,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"4": 2.5},
        "seed": 7,
        "n": 3,
        "max_tokens": 20,
    }
    answer = complete(client, **settings)
    config = GenerationConfig(
        strategy="sample",
        temperature=0.8,
        p=0.9,
        k=12,
        min_p=0.01,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        logit_bias={4: 2.5},
        seed=7,
        n=3,
        max_tokens=20,
    )
    expected = oracle.generate([PROMPT], config)[0]
    assert [choice["text"] for choice in answer["choices"]] == [each.text for each in expected]
    assert len({choice["text"] for choice in answer["choices"]}) > 1


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 3, "n": 2, "echo": True}])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_stream_says_the_same(client, settings, logprobs):
    """Les morceaux d'un flux, réunis, font la réponse entière."""
    body = {"max_tokens": 15, "logprobs": logprobs, **settings}
    whole = complete(client, **body)
    response = client.post(
        "/v1/completions",
        json={
            "prompt": PROMPT,
            "stream": True,
            "stream_options": {"include_usage": True},
            **body,
        },
    )
    *chunks, last = events(response)
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        assert [each["finish_reason"] for each in mine if each["finish_reason"]] == [
            choice["finish_reason"]
        ]
        if logprobs is not None:
            for name in ("tokens", "token_logprobs", "text_offset"):
                joined = [x for each in mine if each["logprobs"] for x in each["logprobs"][name]]
                # à l'arrondi près : d'autres suites avançaient peut-être au même pas
                expected = choice["logprobs"][name]
                assert joined == (expected if name == "tokens" else pytest.approx(expected))
    assert last["choices"] == []
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [last["usage"][name] for name in counts] == [whole["usage"][name] for name in counts]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_every_form_of_prompt(client):
    """Texte, textes, identifiants, listes d'identifiants : les mêmes suites."""
    ids = LetterTokenizer().encode(PROMPT)
    expected = complete(client, temperature=0)["choices"][0]["text"]
    for prompt, count in ((PROMPT, 1), ([PROMPT] * 2, 2), (ids, 1), ([ids, ids], 2)):
        answer = complete(client, prompt=prompt, temperature=0)
        assert [choice["text"] for choice in answer["choices"]] == [expected] * count
        assert [choice["index"] for choice in answer["choices"]] == list(range(count))
        assert answer["usage"]["prompt_tokens"] == count * len(ids)


def test_stop_cuts_before(client):
    """Un texte d'arrêt n'est pas rendu, et la fin dit pourquoi."""
    settings = {"seed": 1, "max_tokens": 20, "ignore_eos": True}
    text = complete(client, **settings)["choices"][0]["text"]
    stop = text[5:7]
    (choice,) = complete(client, **settings, stop=[stop, "zzzz"])["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_scores_the_prompt(client, oracle, max_tokens):
    """echo et logprobs notent le début : de quoi mesurer une perplexité (lm-eval)."""
    answer = complete(client, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0)
    (choice,) = answer["choices"]
    found = choice["logprobs"]
    expected = oracle.score(PROMPT)
    assert choice["text"].startswith(PROMPT)
    assert len(choice["text"]) == len(PROMPT) + max_tokens
    assert found["tokens"] == list(choice["text"])
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    for mine, theirs in zip(found["token_logprobs"][1:], expected, strict=False):
        assert math.isclose(mine, theirs.logprob, abs_tol=1e-4)
    for logprob, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= logprob
    assert found["text_offset"] == list(range(len(choice["text"])))
    assert answer["usage"]["completion_tokens"] == max_tokens


def test_nothing_to_compute_needs_no_engine():
    """max_tokens=0 sans note : le début, sans passer par le moteur."""
    engine = ScriptedEngine()
    with client_of(make_context(engine)) as client:
        answer = complete(client, echo=True, max_tokens=0)
        assert answer["choices"][0]["text"] == PROMPT
        streamed = client.post(
            "/v1/completions",
            json={"prompt": PROMPT, "echo": True, "max_tokens": 0, "stream": True},
        )
        assert "".join(e["choices"][0]["text"] for e in events(streamed)) == PROMPT
    assert engine.requests == []


def test_chat_renders_the_template(client, oracle):
    """La conversation est lue par le gabarit du modèle."""
    body = {
        "messages": [
            {"role": "developer", "content": "sois bref"},
            {"role": "user", "content": [{"type": "text", "text": "ou est le bateau?"}]},
        ],
        "temperature": 0,
        "max_completion_tokens": 10,
        "logprobs": True,
        "top_logprobs": 2,
    }
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    prompt = "system, sois bref. user, ou est le bateau?. assistant,"
    (expected,) = oracle.generate([prompt], GenerationConfig(max_tokens=10))[0]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    content = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == expected.text
    assert all(len(each["top_logprobs"]) == 2 for each in content)
    streamed = events(client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in streamed)
    assert text == expected.text


def test_chat_without_template_is_a_clear_400():
    """Un modèle qui continue du texte ne répond pas à des messages."""
    with client_of(make_context(ScriptedEngine())) as client:
        body = {"messages": [{"role": "user", "content": "bonjour"}]}
        error = check_envelope(client.post("/v1/chat/completions", json=body), 400)
        assert error["code"] == "no_chat_template"
        assert "/v1/completions" in error["message"]
        check_envelope(client.post("/tokenize", json=body), 400)


def test_models_and_tokens(client):
    """Modèles, coupe et réunion des tokens."""
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == (NAME, WINDOW)
    assert client.get(f"/v1/models/{NAME}").json() == card
    check_envelope(client.get("/v1/models/autre"), 404)
    cut = client.post("/tokenize", json={"prompt": PROMPT, "return_token_strs": True}).json()
    assert cut["tokens"] == LetterTokenizer().encode(PROMPT)
    assert cut["token_strs"] == list(PROMPT)
    assert cut["count"] == len(PROMPT)
    back = client.post("/detokenize", json={"tokens": cut["tokens"]})
    assert back.json() == {"prompt": PROMPT}
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    check_envelope(client.post("/detokenize", json={"tokens": [10**6]}), 400)
    info = client.get("/tokenizer_info").json()
    assert END_OF_TEXT in info.values()
    assert info["vocab_size"] == LetterTokenizer.vocab_size


def test_context_is_bounded(client):
    """Au-delà du contexte : 400 si la longueur est demandée, ce qui tient sinon."""
    fitting = "a" * (WINDOW - 3)
    answer = complete(client, prompt=fitting, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 4
    for prompt, asked in ((fitting, 5), ("a" * (WINDOW + 1), 0)):
        body = {"prompt": prompt, "max_tokens": asked}
        error = check_envelope(client.post("/v1/completions", json=body), 400)
        assert error["code"] == "context_length_exceeded"
        french, english = error["message"].split("\n")
        count = len(prompt) + asked
        assert f"{WINDOW} tokens ; cette requête en demande {count}" in french
        assert english == (  # ce que des clients cherchent pour raccourcir la conversation
            f"This model's maximum context length is {WINDOW} tokens. However, you requested "
            f"{count} tokens ({len(prompt)} in the messages, {asked} in the completion). Please "
            "reduce the length of the messages or completion."
        )


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_usage_in_every_chunk(client, path, include_usage):
    """continuous_usage_stats : le compte à chaque morceau, jusqu'à celui de la réponse entière."""
    body = {"max_tokens": 6, "n": 2, "seed": 1, "ignore_eos": True}
    body |= (
        {"prompt": PROMPT}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": PROMPT}]}
    )
    whole = client.post(path, json=body).json()["usage"]
    options = {"include_usage": include_usage, "continuous_usage_stats": True}
    chunks = events(client.post(path, json={**body, "stream": True, "stream_options": options}))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert len(set(counts)) > 6
    for chunk in chunks:
        usage = chunk["usage"]
        assert usage["prompt_tokens"] == whole["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert counts[-1] == whole["completion_tokens"]
    assert (chunks[-1]["choices"] == []) == include_usage


@pytest.mark.parametrize(
    ("state", "status"), [("starting", 503), ("draining", 503), ("dead", 503), ("ready", 200)]
)
def test_health_follows_the_engine(state, status):
    """/health : 200 quand le moteur est prêt, 503 sinon."""
    with client_of(make_context(ScriptedEngine(state=state))) as client:
        response = client.get("/health")
        assert response.status_code == status
        if status == 503:
            assert check_envelope(response, 503)["code"] == state
            assert int(response.headers["retry-after"]) > 0


def test_metrics_are_vllm_s(client):
    """Les mesures portent les noms de vLLM, et comptent ce qui vient d'être servi."""
    before = sample(client, "vllm:generation_tokens_total")
    complete(client, temperature=0, max_tokens=5, ignore_eos=True)
    assert sample(client, "vllm:generation_tokens_total") == before + 5
    text = client.get("/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prompt_tokens_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_count",
        "e2e_request_latency_seconds_sum",
        "request_success_total",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
    ):
        assert f"vllm:{name}{{" in text
    assert f'model_name="{NAME}"' in text
    assert "python_info" not in text


def sample(client, name):
    """La valeur d'une mesure."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))


def test_reference_page_is_self_contained(client):
    """La page de référence nomme chaque route et ne demande rien à personne."""
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("HTTP", "")
    assert "<script" not in page.text
    for path in client.get("/openapi.json").json()["paths"]:
        assert f" {path}<" in page.text


def test_the_card_carries_the_digest_of_the_weights(tmp_path):
    """Celle que donne sha256sum : d'un fichier, ou du poids d'un dossier."""
    context = make_context(ScriptedEngine())
    with client_of(context) as client:
        assert client.get("/v1/models").json()["data"][0]["sha256"] is None
    with client_of(replace(context, digest="ab" * 32)) as client:
        assert client.get("/v1/models").json()["data"][0]["sha256"] == "ab" * 32
        assert client.get(f"/v1/models/{NAME}").json()["sha256"] == "ab" * 32
    (tmp_path / "model.pt").write_bytes(b"poids")
    whole = hashlib.sha256(b"poids").hexdigest()
    assert digest_of(tmp_path / "model.pt") == whole
    assert digest_of(tmp_path) is None
    assert digest_of(tmp_path / "absent.pt") is None
    parts = [tmp_path / f"model-0000{number}-of-00002.safetensors" for number in (2, 1)]
    for part in parts:
        part.write_bytes(part.name.encode())
    listing = "".join(
        f"{hashlib.sha256(part.name.encode()).hexdigest()}  {part.name}\n" for part in sorted(parts)
    )
    assert digest_of(tmp_path) == hashlib.sha256(listing.encode()).hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"poids")
    assert digest_of(tmp_path) == whole


def test_versions_are_said():
    """De quoi comparer deux machines."""
    with client_of(replace(make_context(ScriptedEngine()), version="1.2.3")) as client:
        found = client.get("/version").json()
    assert found == {
        "version": "1.2.3",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
