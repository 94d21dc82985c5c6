"""Les propositions du service : le même texte au bit près, en moins de passages."""

import inspect
import re

import pytest
import torch
from decoding_helpers import sharp_model
from serving_helpers import TOKENIZER, Gate, ask, request, running, submit

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT as MOST
from gpt_architecture.decoding.proposers import CostPace, Draft, expected_speed
from gpt_architecture.decoding.settings import (
    Sampler,
    Setting,
    SettingsRegistry,
    register_sampler,
)
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.scripts.serve import EngineOptions
from gpt_architecture.serving.engine.batching import DRAFTING_ROWS as ROWS
from gpt_architecture.serving.engine.batching import Drafts
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import Failed, Finished, Messenger
from gpt_architecture.serving.engine.scheduler import EngineJob

PROMPTS = ("bonjour", "le chat dort, le chat")
KINDS = {
    "glouton": {},
    "tirage": {"strategy": "temperature", "temperature": 0.7, "seed": 1},
    "filtres": {"strategy": "top_p", "p": 0.9, "seed": 2, "temperature": 1.5},
    "mirostat": {"strategy": "mirostat", "seed": 3},
    "pénalités": {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "interdictions": {"banned": ("a", " c"), "no_repeat_ngram": 3, "min_tokens": 9},
    "arrêt": {"stop": (" c",)},
}


@pytest.fixture(scope="module")
def packed():
    return pack(sharp_model(context_length=128))


def written(box):
    """Tokens, textes et probabilités, que le moindre bit changerait, et la fin."""
    return [(piece.token, piece.text, piece.score) for piece in box.pieces], box.events[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 8])
def test_the_text_is_the_same_with_or_without_drafts(packed, kind, slots):
    wanted = [request(each, max_tokens=25, logprobs=2, **KINDS[kind]) for each in PROMPTS]
    with running(packed, slots=slots, drafts=0) as engine:
        plain = [written(ask(engine, each)) for each in wanted]
        assert engine.stats().drafted_tokens == 0
    with running(packed, slots=slots) as engine:
        assert [written(ask(engine, each)) for each in wanted] == plain
        assert engine.stats().drafted_tokens > 0
        boxes = submit(engine, *wanted, *wanted)
        for box, (pieces, _) in zip(boxes, plain * 2, strict=True):
            box.wait()
            assert written(box)[0] == pieces


def test_a_filter_that_fails_stops_only_its_request(packed, monkeypatch):
    """Deviner emploie les filtres d'une suite : leur panne n'est ni au modèle ni aux autres."""
    mine = SettingsRegistry()
    mine.declare(GenerationConfig)
    for module in ("settings", "config", "named_settings", "pipeline"):
        monkeypatch.setattr(f"gpt_architecture.decoding.{module}.SETTINGS", mine)

    def build(value):
        def fail(token_ids, logits):
            if token_ids.shape[-1] > 12:
                raise ValueError("panne d'un filtre")
            return logits

        return fail

    register_sampler(Sampler(name="bad", build=build, setting=Setting(help="Essai.", minimum=0)))
    bad = request("bonjour", max_tokens=25, strategy="sample", samplers={"bad": 1.0})
    good = request(PROMPTS[1], max_tokens=25, strategy="sample", temperature=0.7, seed=1)
    with running(packed, slots=8) as engine:
        boxes = submit(engine, bad, good)
        for box in boxes:
            box.wait()
        assert isinstance(boxes[0].events[-1], Failed)
        assert isinstance(boxes[1].events[-1], Finished)
        assert engine.stats().restarts == 0
        assert engine.stats().drafted_tokens > 0


@pytest.mark.slow
def test_a_constraint_is_followed_token_by_token():
    tokenizer = get_tokenizer("gpt2")
    cfg = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=64, emb_dim=16, n_heads=2, n_layers=1
    )
    torch.manual_seed(0)
    model = pack(GPTModel(cfg).eval())
    wanted = request(
        tuple(tokenizer.encode("Le chat")),
        regex="( dort,){1,6} fin",
        max_tokens=20,
        ignore_eos=False,
        logprobs=1,
    )
    boxes = []
    for drafts in (0, MOST):
        with running(model, tokenizer, drafts=drafts) as engine:
            boxes.append(ask(engine, wanted))
            drafted = engine.stats().drafted_tokens
    assert re.fullmatch("( dort,){1,6} fin", boxes[1].text)
    assert written(boxes[1]) == written(boxes[0])
    assert drafted > 0


@pytest.mark.parametrize("kind", ["glouton", "tirage", "filtres"])
def test_a_text_takes_fewer_passes(packed, kind):
    steps = {}
    for drafts in (0, MOST):
        with running(packed, drafts=drafts) as engine:
            ask(engine, request(PROMPTS[0], max_tokens=60, **KINDS[kind]))
            stats = engine.stats()
            steps[drafts] = stats.steps
            assert stats.completion_tokens == 60
    assert steps[0] >= 60
    assert steps[MOST] < steps[0] / 2
    assert steps[0] - steps[MOST] == stats.accepted_tokens <= stats.drafted_tokens


def test_what_drafts_left_in_the_cache_serves_no_one_wrongly(packed):
    """Une suite coupée en plein milieu de propositions, puis une autre qui part de la sienne."""
    prompt = tuple(TOKENIZER.encode(PROMPTS[0]))
    for count in range(1, 12):
        with running(packed, slots=1) as engine:
            first = ask(engine, request(prompt, max_tokens=count))
            longer = (*prompt, *first.tokens, *TOKENIZER.encode("dort"))
            second = ask(engine, request(longer, max_tokens=9, logprobs=1))
        with running(packed, slots=1, drafts=0) as engine:
            fresh = ask(engine, request(longer, max_tokens=9, logprobs=1))
        assert second.events[-1].cached_tokens > 0
        assert written(second)[0] == written(fresh)[0]


def test_a_full_window_is_never_exceeded(packed):
    prompt = tuple(TOKENIZER.encode(PROMPTS[0]))
    room = 128 - len(prompt) + 1
    boxes = []
    for drafts in (0, MOST):
        with running(packed, drafts=drafts) as engine:
            boxes.append(ask(engine, request(prompt, max_tokens=room)))
    assert len(boxes[1].tokens) == room
    assert written(boxes[1]) == written(boxes[0])


@pytest.mark.parametrize("window", [24, 128])
def test_two_texts_whose_ends_are_not_the_same_stay_in_their_places(packed, window):
    """Celle qui finit emplit la fenêtre ; celle qui continue voudrait d'autres propositions."""
    prompt = tuple(TOKENIZER.encode(PROMPTS[0]))
    room = window - len(prompt) + 1
    wanted = [request(prompt, max_tokens=room), request(PROMPTS[1][:3], max_tokens=window - 4)]
    found = []
    for drafts in (0, MOST):
        with running(packed, slots=2, drafts=drafts, window=window) as engine:
            boxes = submit(engine, *wanted)
            found.append([box.wait() and written(box)[0] for box in boxes])
            assert engine.stats().restarts == 0
    assert found[0] == found[1]
    assert [len(pieces) for pieces in found[1]] == [room, window - 4]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_light_model_gets_none(precision):
    """Ses poids sont déjà ceux qui proposeraient."""
    with running(pack(sharp_model(context_length=128), precision)) as engine:
        ask(engine, request(PROMPTS[0], max_tokens=30))
        assert engine.stats().drafted_tokens == 0


def test_a_model_that_rounds_with_its_neighbours_gets_none():
    with running(Gate(sharp_model(context_length=128), opened=True)) as engine:
        ask(engine, request(PROMPTS[0], max_tokens=30))
        assert engine.stats().drafted_tokens == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["glouton", "tirage", "filtres", "arrêt"])
@pytest.mark.parametrize("slots", [1, 8])
def test_lookup_changes_no_text_either(packed, kind, slots):
    """Relire le texte propose aussi ; sous charge, les deux façons se partagent le pas."""
    wanted = [request(each, max_tokens=40, logprobs=2, **KINDS[kind]) for each in PROMPTS]
    again = [
        request(each, max_tokens=40, logprobs=2, lookup=6, lookup_ngram=1, **KINDS[kind])
        for each in PROMPTS
    ]
    with running(packed, slots=slots, drafts=0) as engine:
        plain = [written(ask(engine, each))[0] for each in wanted]
        assert engine.stats().drafted_tokens == 0
        assert [written(ask(engine, each))[0] for each in again] == plain
        assert engine.stats().drafted_tokens > 0
    with running(packed, slots=slots) as engine:
        boxes = submit(engine, *wanted, *again)
        for box, pieces in zip(boxes, plain * 2, strict=True):
            box.wait()
            assert written(box)[0] == pieces


def test_lookup_needs_no_packed_model():
    model = sharp_model(context_length=128)
    found = []
    for lookup in ({}, {"lookup": 5, "lookup_ngram": 1}):
        with running(model) as engine:
            box = ask(engine, request(PROMPTS[1], max_tokens=60, **lookup))
            found.append((box.tokens, engine.stats().accepted_tokens > 0))
    assert found[0][0] == found[1][0]
    assert [accepted for _, accepted in found] == [False, True]


def test_a_failed_draft_is_a_failure_of_the_model(packed, monkeypatch):
    """La demande échoue, la suivante est servie."""

    def broken(*_):
        raise RuntimeError("plus de mémoire")

    with running(packed) as engine:
        engine.wait_started()
        with monkeypatch.context() as patch:
            patch.setattr(packed, "draft", broken)
            box = ask(engine, request(PROMPTS[0], max_tokens=9))
            assert "plus de mémoire" in str(box.events[-1].error)
        assert len(ask(engine, request(PROMPTS[0], max_tokens=9)).tokens) == 9
        assert engine.stats().restarts == 1


def job_of(text, number=1, max_tokens=50):
    """Une demande qui n'a rien écrit."""
    with running(sharp_model(context_length=128), drafts=0) as engine:
        each = request(text, max_tokens=max_tokens)
        return EngineJob(number, each, engine._sequence(each), lambda _: None, Messenger().keep)


class Sevens:
    """Propose des 7, et note à combien de suites."""

    def __init__(self):
        self.asked = []

    def pace(self):
        return CostPace()

    def propose(self, sequences, cache, count):
        self.asked.append((cache, count))
        return [Draft(tokens=(7,) * count)] * len(sequences)


class Pool:
    def view(self, slots):
        return tuple(slots)


def drafts_of(most=MOST, proposer=None):
    return Drafts(Pool(), proposer or Sevens(), most)


def started(drafts, *jobs):
    """Donne une place à des demandes qui ont lu leur début, sauf le dernier token."""
    for slot, job in enumerate(jobs):
        job.slot, job.computed = slot, len(job.ids) - 1
        job.speculation = drafts.for_job(job)
    return jobs


def learn(job, proposed, kept):
    job.speculation._pace.learn(proposed, kept)


def sizes_of(drafts, *jobs):
    return [len(draft.tokens) for draft in drafts.of(jobs)]


class TestDrafts:
    def test_the_room_is_shared(self):
        drafts = drafts_of()
        jobs = [job_of(PROMPTS[0], number) for number in range(ROWS + 1)]
        for job in started(drafts, *jobs):
            for _ in range(50):
                learn(job, MOST, MOST)
        assert sizes_of(drafts, jobs[0]) == [MOST]
        for count in range(1, ROWS + 2):
            found = sizes_of(drafts, *jobs[:count])
            assert len(found) == count
            assert sum(size + 1 for size in found) <= max(ROWS, count)
        assert not any(sizes_of(drafts, *jobs))

    def test_what_fails_is_no_longer_proposed_but_tried_again(self):
        drafts, (job,) = drafts_of(), (job_of(PROMPTS[0]),)
        started(drafts, job)
        sizes = []
        for _ in range(60):
            sizes += sizes_of(drafts, job)
            if sizes[-1]:
                learn(job, sizes[-1], 0)
        assert sizes[0] > 1
        assert sorted(sizes[:5], reverse=True) == sizes[:5]
        assert set(sizes[10:]) == {0, 1}
        assert 1 <= sum(sizes[10:]) <= 4

    def test_what_succeeds_again_is_proposed_again(self):
        drafts, job = drafts_of(), job_of(PROMPTS[0])
        started(drafts, job)
        for kept in [0] * 12 + [1] * 400:
            if size := sizes_of(drafts, job)[0]:
                learn(job, size, size if kept else 0)
        assert sizes_of(drafts, job) == [MOST]

    def test_a_new_text_starts_afresh(self):
        drafts, job = drafts_of(), job_of(PROMPTS[0])
        started(drafts, job)
        first = size = sizes_of(drafts, job)[0]
        while size:
            learn(job, size, 0)
            size = sizes_of(drafts, job)[0]
        started(drafts, job)
        assert sizes_of(drafts, job)[0] == first > 1

    def test_the_end_of_the_text_is_not_passed(self):
        drafts = drafts_of()
        for most, count in ((2, 1), (1, 0)):
            assert sizes_of(drafts, *started(drafts, job_of(PROMPTS[0], max_tokens=most))) == [
                count
            ]

    def test_the_first_to_end_limits_the_others(self):
        proposer = Sevens()
        drafts = drafts_of(proposer=proposer)
        near, far, last = started(
            drafts, *(job_of(PROMPTS[0], n, max_tokens=m) for n, m in ((1, 2), (2, 50), (3, 1)))
        )
        assert sizes_of(drafts, near, far) == [1, 1]
        assert sizes_of(drafts, last, far) == [0, 3]
        assert proposer.asked == [((0, 1), 1), ((1,), 3)]

    def test_a_text_still_read_gets_none_nor_do_the_others(self):
        drafts = drafts_of()
        reading, writing = started(drafts, job_of(PROMPTS[0], 1), job_of(PROMPTS[0], 2))
        reading.computed = 0
        assert sizes_of(drafts, reading, writing) == [0, 0]

    def test_none_wanted_none_made(self):
        drafts = drafts_of(0)
        assert sizes_of(drafts, *started(drafts, job_of(PROMPTS[0]))) == [0]

    def test_the_speed_is_that_of_hand(self):
        assert expected_speed(0.3, 0) == 1
        assert expected_speed(1.0, 5) == pytest.approx(6 / 2.75)
        assert expected_speed(0.5, 2) == pytest.approx(1.75 / 1.7)


def test_the_option_and_the_engine_agree():
    default = inspect.signature(Engine).parameters["drafts"].default
    assert EngineOptions().drafts == default == MOST


@pytest.mark.parametrize("wrong", [-1, MOST + 1, 1.5])
def test_a_wrong_count_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="drafts"):
        EngineOptions(drafts=wrong)
    with pytest.raises(ConfigurationError, match="drafts"):
        Engine(sharp_model(), TOKENIZER, drafts=wrong)
