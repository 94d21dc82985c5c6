"""Le moteur : chaque demande écrit ce qu'elle écrirait seule, quoi que fassent les autres."""

from itertools import pairwise

import pytest
import torch
from decoding_helpers import sharp_model
from serving_helpers import TOKENIZER, Gate, Inbox, ask, request, running, submit

from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import (
    EngineClosed,
    EngineRequest,
    Finished,
    PromptScored,
)

CONTEXT = 64
PROMPTS = ["a", "bonjour", "le chat dort, le chien aussi", "il pleut, il mouille", "oui"]
SETTINGS = [
    {},
    {"strategy": "temperature", "temperature": 1.3, "seed": 1},
    {"strategy": "top_p", "p": 0.8, "seed": 2},
    {"strategy": "top_k", "k": 5, "seed": 3, "repetition_penalty": 1.4},
    {"strategy": "mirostat", "seed": 4},
    {"strategy": "sample", "min_p": 0.05, "seed": 5, "frequency_penalty": 0.7},
    {"banned": ("e",), "logit_bias": {3: 4.0}},
]


@pytest.fixture(params=[{}, {"tie_weights": True, "qkv_bias": True}], ids=["livre", "gpt2"])
def model(request):
    return sharp_model(context_length=CONTEXT, **request.param)


def mixed(count=28):
    """Des demandes toutes différentes : longueurs, filtres, graines."""
    return [
        request(PROMPTS[i % len(PROMPTS)], max_tokens=3 + i, **SETTINGS[i % len(SETTINGS)])
        for i in range(count)
    ]


def oracle(model, each):
    """Ce que le générateur écrit, une demande à la fois."""
    (found,) = Generator(model, TOKENIZER).generate([list(each.prompt)], each.config)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "chunk"), [(1, 64), (3, 1), (8, 5)])
def test_a_request_writes_what_the_generator_writes_alone(model, slots, chunk):
    requests = mixed()
    with running(model, slots=slots, prefill_chunk=chunk) as engine:
        boxes = submit(engine, *requests)
        for each, box in zip(requests, boxes, strict=True):
            end, alone = box.wait(), oracle(model, each)
            assert box.tokens == list(alone.tokens)
            assert box.text == alone.text
            assert (end.reason, end.completion_tokens) == (alone.finish, len(alone.tokens))
            assert end.prompt_tokens == len(each.prompt)


def test_stop_logprobs_and_end_of_text_are_the_generator_s(model):
    config = {"stop": ("a",), "logprobs": 3, "strategy": "temperature", "seed": 8, "max_tokens": 30}
    for each in (request("le chat", **config), request("oui", ignore_eos=False, max_tokens=40)):
        with running(model) as engine:
            box, alone = ask(engine, each), oracle(model, each)
        assert box.text == alone.text
        assert box.events[-1].reason == alone.finish
        scores = [piece.score for piece in box.pieces if piece.score is not None]
        assert [score.token for score in scores] == [score.token for score in alone.scores]
        for found, expected in zip(scores, alone.scores, strict=True):
            assert found.logprob == pytest.approx(expected.logprob, abs=1e-5)
            assert [token for token, _ in found.top] == [token for token, _ in expected.top]


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("generate", [True, False])
def test_a_prompt_is_scored_as_the_generator_scores_it(model, chunk, generate):
    text = "le chat dort, le chien aussi"
    expected = Generator(model, TOKENIZER).score(text, top=2)
    with running(model, prefill_chunk=chunk) as engine:
        ask(engine, request(text))  # ce qu'il laisse dans le cache ne doit pas manquer aux notes
        box = ask(engine, request(text, score_prompt=2, generate=generate, max_tokens=2))
    first, *scores = box.scores
    assert first is None
    assert [score.token for score in scores] == [score.token for score in expected]
    for found, wanted in zip(scores, expected, strict=True):
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-5)
        assert [token for token, _ in found.top] == [token for token, _ in wanted.top]
    assert isinstance(box.events[0], PromptScored)
    assert box.events[-1].completion_tokens == (2 if generate else 0)
    assert box.events[-1].cached_tokens == 0


def test_a_single_token_is_scored_without_a_pass(model):
    gate = Gate(model, opened=True)
    with running(gate) as engine:
        box = ask(engine, request("a", score_prompt=0, generate=False))
    assert box.scores == (None,)
    assert box.events[-1] == Finished(
        reason="length", prompt_tokens=1, completion_tokens=0, cached_tokens=0
    )
    assert len(gate.calls) == 1  # celui de la mise en route


@pytest.mark.slow
def test_a_long_prompt_does_not_stall_the_others(model):
    gate = Gate(model)
    gate.open(1)  # la mise en route
    with running(gate, slots=2, prefill_chunk=4) as engine:
        (writing,) = submit(engine, request("oui", max_tokens=50))
        gate.open(1)
        assert writing.started.wait(60)
        (long,) = submit(engine, request("bonjour, " * 5, max_tokens=2))
        gate.open()
        long.wait()
        writing.wait()
    reads = [shape for shape in gate.calls[2:] if shape[1] > 1]
    assert reads, "la longue invite est lue par parts"
    assert max(width for _, width in reads) <= 4
    alone = [shape[0] == 1 and shape[1] > 1 for shape in gate.calls[2:]]
    for before, after in pairwise(alone):
        assert not (before and after), "un token pour qui écrit à chaque part"


def test_requests_wait_until_the_engine_is_ready(model):
    engine = Engine(model, TOKENIZER)
    assert engine.state == "starting"
    (box,) = submit(engine, request())
    assert engine.stats().waiting == 1
    engine.start()
    assert box.wait().reason == "length"
    assert engine.state == "ready"
    engine.stop()
    assert engine.state == "dead"


def test_stats_count_what_happened(model):
    with running(model, slots=2) as engine:
        for box in submit(engine, request("oui"), request("bonjour"), request("le chat")):
            box.wait()
        engine.drain(60)
        stats = engine.stats()
    assert (stats.running, stats.waiting, stats.slots, stats.kv_tokens) == (0, 0, 2, 0)
    assert stats.kv_capacity == 2 * CONTEXT
    assert stats.prompt_tokens == 17
    assert stats.completion_tokens == 18
    assert stats.finished == {"length": 3}
    assert (stats.failed, stats.restarts) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "beam"}, "beam"),
        ({"n": 2}, "un texte par demande"),
    ],
)
def test_what_needs_another_path_is_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        request(**settings)


def test_an_empty_or_idle_request_is_refused():
    with pytest.raises(ConfigurationError, match="aucun token"):
        EngineRequest(prompt=())
    with pytest.raises(ConfigurationError, match="ne note rien"):
        EngineRequest(prompt=(1,), generate=False)


@pytest.mark.parametrize(
    ("each", "words"),
    [
        (request("a" * 60, max_tokens=6), "64 positions"),
        (request((3, 99)), "identifiant 99"),
        (request((-1, 3)), "identifiant -1"),
        (request(regex="a+", max_tokens=3), "par octets"),
    ],
)
def test_a_request_the_model_cannot_follow_is_refused_at_once(model, each, words):
    with running(model) as engine:
        with pytest.raises(ConfigurationError, match=words):
            engine.submit(each, Inbox())
        assert ask(engine, request("a" * 59, max_tokens=6)).events[-1].reason == "length"


def test_nothing_is_accepted_once_stopped(model):
    engine = Engine(model, TOKENIZER)
    (box,) = submit(engine, request())
    engine.stop()  # sans avoir démarré
    assert isinstance(box.wait().error, EngineClosed)
    with pytest.raises(EngineClosed):
        engine.submit(request(), Inbox())


def test_the_model_goes_back_to_its_mode(model):
    model.train()
    with running(model) as engine:
        ask(engine, request())
        assert not model.training
    assert model.training
    assert not torch.is_inference_mode_enabled()
