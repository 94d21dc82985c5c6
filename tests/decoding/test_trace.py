"""La trace des filtres : probabilités refaites à la main, et rien n'y change le texte."""

import json
import math

import pytest
import torch
from decoding_helpers import ByteTokenizer, LetterTokenizer, sharp_model

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.decoding.trace import MAX_STEPS, Tracer
from gpt_architecture.errors import ConfigurationError

NO = -math.inf


def logits_of(*probabilities):
    """Des logits dont le softmax rend ces probabilités ; 0 : retiré."""
    return torch.tensor([math.log(p) if p else NO for p in probabilities])


def tracer_of(tokenizer=None, **settings):
    options = {name: settings.pop(name) for name in ("top", "limit") if name in settings}
    return Tracer([0], GenerationConfig(**settings), tokenizer or LetterTokenizer(), **options)


def one_step(stages, token, **settings):
    """La trace d'un seul choix ; stages : nom → logits."""
    tracer = tracer_of(**settings)
    for name, logits in stages.items():
        tracer.observe(name, logits)
    tracer.accept(Piece(text="", token=token))
    (step,) = tracer.trace.steps
    return step


STAGES = {
    "modèle": logits_of(0.5, 0.25, 0.125, 0.125),
    "top_k": logits_of(2 / 3, 1 / 3, 0, 0),
    "top_p": logits_of(1, 0, 0, 0),
}


class TestByHand:
    def test_probabilities_after_each_stage(self):
        step = one_step(STAGES, 0)
        found = {each.token: each.probabilities for each in step.candidates}
        assert found[0] == pytest.approx((0.5, 2 / 3, 1.0))
        assert found[1] == (pytest.approx(0.25), pytest.approx(1 / 3), None)
        assert found[2] == (pytest.approx(0.125), None, None)

    def test_the_first_filter_that_removes_is_named(self):
        step = one_step(STAGES, 0)
        assert [each.removed_by for each in step.candidates] == [None, "top_p", "top_k", "top_k"]

    def test_summaries(self):
        model, top_k, top_p = one_step(STAGES, 0).stages
        assert [model.name, top_k.name, top_p.name] == list(STAGES)
        assert [model.kept, top_k.kept, top_p.kept] == [4, 2, 1]
        assert model.entropy == pytest.approx(1.75, abs=1e-5)  # ½·1 + ¼·2 + 2·⅛·3 bits
        assert top_p.entropy == pytest.approx(0.0, abs=1e-5)
        assert [model.removed_mass, top_k.removed_mass, top_p.removed_mass] == pytest.approx(
            [0.0, 0.25, 1 / 3]
        )

    def test_a_stage_without_effect(self):
        half = logits_of(0.5, 0.5)
        step = one_step({"modèle": half, "a": half, "b": logits_of(1, 0), "c": logits_of(1, 0)}, 0)
        assert step.active == (0, 2)
        assert step.inert == ("a", "c")

    def test_draw(self):
        step = one_step({"modèle": logits_of(0.5, 0.3, 0.2), "x": logits_of(0, 0.4, 0.6)}, 1)
        assert (step.chosen.rank, step.rank) == (2, 2)
        assert step.chosen.raw == pytest.approx(0.3)
        assert step.chosen.final == pytest.approx(0.4)

    def test_equal_probabilities_share_their_rank(self):
        step = one_step({"modèle": logits_of(0.4, 0.2, 0.2, 0.2)}, 3)
        assert [each.rank for each in step.candidates] == [1, 2, 2, 2]

    def test_without_filter(self):
        step = one_step({"modèle": logits_of(0.75, 0.25)}, 1)
        assert [each.removed_by for each in step.candidates] == [None, None]
        assert step.chosen.final == step.chosen.raw == pytest.approx(0.25)


class TestCandidates:
    raw = logits_of(*(2.0**-n for n in range(1, 21)))

    def test_most_likely_first_and_no_more(self):
        step = one_step({"modèle": self.raw}, 0, top=4)
        assert [each.token for each in step.candidates] == [0, 1, 2, 3]

    def test_the_chosen_one_is_there(self):
        step = one_step({"modèle": self.raw}, 15, top=3)
        assert [each.token for each in step.candidates] == [0, 1, 2, 15]
        assert step.chosen.token == 15

    def test_what_survives_the_filters_is_there(self):
        """Sous contrainte, aucun des plus probables n'est possible."""
        filtered = self.raw.clone()
        filtered[:12] = NO
        step = one_step({"modèle": self.raw, "contrainte": filtered}, 12, top=2)
        assert [each.token for each in step.candidates] == [0, 1, 12, 13]

    def test_a_vocabulary_smaller_than_top(self):
        assert len(one_step({"modèle": logits_of(0.5, 0.5)}, 0, top=50).candidates) == 2

    def test_a_logit_without_text(self):
        step = one_step({"modèle": torch.zeros(LetterTokenizer.vocab_size + 3)}, 0, top=100)
        assert [each.text for each in step.candidates][-3:] == ["", "", ""]


class TestText:
    def test_an_accent_cut_in_two(self):
        tracer = tracer_of(ByteTokenizer())
        for byte in "né".encode():
            tracer.observe("modèle", torch.zeros(257))
            tracer.accept(Piece(text="", token=byte))
        trace = tracer.trace
        assert [step.written for step in trace.steps] == ["n", "", "é"]
        assert trace.steps[1].chosen.text == "\ufffd"
        assert trace.text == "né"

    def test_what_was_held_back_comes_at_the_end(self):
        tracer = tracer_of(ByteTokenizer())
        tracer.observe("modèle", torch.zeros(257))
        tracer.accept(Piece(text="", token="é".encode()[0], finish="length"))
        assert tracer.trace.steps[0].written == "\ufffd"
        assert tracer.trace.finish == "length"


class TestBounds:
    def test_steps_beyond_the_limit_are_counted(self):
        tracer = tracer_of(limit=2)
        for _ in range(5):
            tracer.observe("modèle", torch.zeros(5))
            tracer.accept(Piece(text="", token=0))
        assert (len(tracer.trace.steps), tracer.trace.omitted) == (2, 3)

    def test_logits_are_not_kept(self):
        tracer = tracer_of()
        tracer.observe("modèle", torch.zeros(5))
        tracer.accept(Piece(text="", token=0))
        tracer.accept(Piece(text="fin", token=None, finish="stop"))  # rien n'a été observé
        assert len(tracer.trace.steps) == 1

    @pytest.mark.parametrize(
        ("settings", "word"),
        [
            ({"top": 0}, "top"),
            ({"top": 101}, "top"),
            ({"limit": 0}, "limit"),
            ({"limit": MAX_STEPS + 1}, "limit"),
            ({"strategy": "beam"}, "beam"),
            ({"lookup": 4}, "lookup"),
        ],
    )
    def test_refusals(self, settings, word):
        with pytest.raises(ConfigurationError, match=word):
            tracer_of(**settings)


SETTINGS = [
    {"strategy": "greedy"},
    {"strategy": "top_k", "k": 5},
    {"strategy": "sample", "temperature": 0.7, "k": 12, "p": 0.8, "min_p": 0.02},
    {"strategy": "mirostat", "mirostat_tau": 1.5},
    {"strategy": "sample", "repetition_penalty": 1.3, "no_repeat_ngram": 2, "typical_p": 0.9},
]


@pytest.mark.parametrize("settings", SETTINGS)
class TestWithGenerator:
    def run(self, settings):
        config = GenerationConfig(**settings, seed=3, max_tokens=12, ignore_eos=True)
        generator = Generator(sharp_model(), LetterTokenizer())
        tracer = Tracer(generator.encode("abc"), config, generator.tokenizer, top=40)
        pieces = list(tracer.follow(generator.stream("abc", config, observer=tracer.observe)))
        return generator, config, tracer.trace, pieces

    @pytest.mark.slow
    def test_the_text_does_not_change(self, settings):
        generator, config, trace, pieces = self.run(settings)
        plain = list(generator.stream("abc", config))
        assert pieces == plain
        assert [step.token for step in trace.steps] == [
            piece.token for piece in plain if piece.token is not None
        ]
        assert trace.text == "".join(piece.text for piece in plain)
        assert trace.finish == "length"

    @pytest.mark.slow
    def test_raw_probabilities_are_those_of_the_model(self, settings):
        generator, _, trace, _ = self.run(settings)
        ids = generator.encode("abc")
        for step in trace.steps:
            with torch.no_grad():
                raw = generator.model(torch.tensor([ids[-24:]]))[0, -1].softmax(dim=-1)
            for each in step.candidates:
                assert each.raw == pytest.approx(float(raw[each.token]), abs=1e-5)
            ids.append(step.token)

    def test_coherence(self, settings):
        """Tous les candidats étant suivis, leurs probabilités font 1 à chaque étape."""
        _, _, trace, _ = self.run(settings)
        for step in trace.steps:
            assert step.chosen.removed_by is None
            for place, stage in enumerate(step.stages):
                column = [each.probabilities[place] for each in step.candidates]
                assert sum(filter(None, column)) == pytest.approx(1.0, abs=1e-5)
                assert sum(p is not None for p in column) == stage.kept


class TestWhatThePipelineDoesNotHold:
    def trace_of(self, config, vocab_size=LetterTokenizer.vocab_size):
        generator = Generator(sharp_model(vocab_size=vocab_size), LetterTokenizer())
        tracer = Tracer(generator.encode("abc"), config, generator.tokenizer, top=40)
        list(tracer.follow(generator.stream("abc", config, observer=tracer.observe)))
        return tracer.trace

    def test_mirostat_is_a_stage(self):
        config = GenerationConfig(strategy="mirostat", mirostat_tau=0.5, seed=1, max_tokens=5)
        steps = self.trace_of(config).steps
        assert {step.stages[-1].name for step in steps} == {"mirostat"}
        removed = [each for each in steps[0].candidates if each.removed_by == "mirostat"]
        assert removed
        assert all(each.raw < 0.5 + 1e-6 for each in removed)  # surprise > μ = 2τ = 1 bit

    def test_logits_without_text_are_removed_by_name(self):
        vocab_size = LetterTokenizer.vocab_size + 5
        config = GenerationConfig(strategy="sample", seed=1, max_tokens=2)
        step = self.trace_of(config, vocab_size).steps[0]
        assert {
            each.removed_by for each in step.candidates if each.token >= LetterTokenizer.vocab_size
        } == {"vocabulaire"}
        assert step.stages[1].kept == LetterTokenizer.vocab_size


def test_to_dict_is_json():
    step = one_step(STAGES, 0).to_dict()
    assert json.loads(json.dumps(step)) == step
    assert step["draw"] == {"probability": 1.0, "rank": 1}
    assert step["candidates"][3]["removed_by"] == "top_k"
    assert step["candidates"][3]["probabilities"][1:] == [None, None]
    assert [stage["kept"] for stage in step["stages"]] == [4, 2, 1]


def test_trace_to_dict():
    tracer = tracer_of(strategy="top_p", p=0.5, seed=1)
    tracer.observe("modèle", torch.zeros(5))
    tracer.accept(Piece(text="a", token=0, finish="stop"))
    found = tracer.trace.to_dict()
    assert found["config"] == {"strategy": "top_p", "p": 0.5, "seed": 1}
    assert (found["prompt"], found["text"], found["finish"]) == ("a", "a", "stop")
    assert json.loads(json.dumps(found)) == found
