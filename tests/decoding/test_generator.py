"""Le générateur : débuts et configurations en entrée, suites complètes en sortie."""

import pytest
import torch
from decoding_helpers import ByteTokenizer, DictatedModel, LetterTokenizer, sharp_model
from torch.nn import functional as F

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.simple import (
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
)
from gpt_architecture.errors import ConfigurationError

TOKENIZER = LetterTokenizer()
PROMPTS = ["bonjour", "le", "il pleut, il mouille", "a"]


@pytest.fixture
def model():
    return sharp_model()


@pytest.fixture
def generator(model):
    return Generator(model, TOKENIZER)


def dictated(text, tokenizer, **settings):
    """Les morceaux d'un modèle qui dicte `text`, puis la fin de texte."""
    tokens = [*tokenizer.encode(text), tokenizer.eos_id, *[0] * 8]
    model = DictatedModel(tokens, vocab_size=tokenizer.vocab_size)
    config = GenerationConfig(max_tokens=40, **settings)
    return list(Generator(model, tokenizer).stream("a", config))


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


class TestGenerate:
    @pytest.mark.parametrize(
        ("strategy", "oracle", "options"),
        [
            ("greedy", generate_text_simple, {}),
            ("temperature", generate_text_temperature, {"temperature": 0.8}),
            ("top_k", generate_text_top_k, {"k": 4, "temperature": 0.8}),
            ("top_p", generate_text_top_p, {"p": 0.6, "temperature": 0.8}),
        ],
    )
    def test_the_seed_strategies_are_the_oracles(self, model, strategy, oracle, options):
        """Même graine, mêmes tokens que la fonction lisible, sans cache."""
        config = GenerationConfig(
            strategy=strategy, max_tokens=30, seed=7, ignore_eos=True, **options
        )
        ids = torch.tensor([TOKENIZER.encode("bonjour")])
        drawn = torch.Generator().manual_seed(7)
        expected = oracle(model, ids, 30, model.cfg.context_length, generator=drawn, **options)
        ((found,),) = Generator(model, TOKENIZER).generate(["bonjour"], config)
        assert list(found.tokens) == expected[0, ids.size(1) :].tolist()

    def test_a_batch_is_each_prompt_alone(self, generator):
        config = GenerationConfig(strategy="top_k", k=8, max_tokens=25, seed=1)
        together = generator.generate(PROMPTS, config)
        assert together == [generator.generate([prompt], config)[0] for prompt in PROMPTS]

    def test_each_prompt_may_have_its_own_settings(self, generator):
        configs = [
            GenerationConfig(max_tokens=3),
            GenerationConfig(max_tokens=9, strategy="temperature", seed=5),
        ]
        first, second = generator.generate(["le", "la"], configs)
        assert len(first[0].tokens) <= 3
        assert second == generator.generate(["la"], configs[1])[0]

    def test_more_sequences_than_the_batch(self, model):
        config = GenerationConfig(strategy="temperature", max_tokens=8, seed=2, n=3)
        narrow = Generator(model, TOKENIZER, max_batch=2).generate(PROMPTS, config)
        assert narrow == Generator(model, TOKENIZER).generate(PROMPTS, config)

    def test_n_sequences_differ_and_the_first_is_that_of_the_seed(self, generator):
        settings = {"strategy": "temperature", "temperature": 1.5, "max_tokens": 12, "seed": 4}
        (found,) = generator.generate(["le"], GenerationConfig(**settings, n=4))
        assert [each.seed for each in found] == [4, 5, 6, 7]
        assert len({each.tokens for each in found}) == 4
        assert found[0] == generator.generate(["le"], GenerationConfig(**settings))[0][0]

    def test_without_seed_texts_differ(self, generator):
        config = GenerationConfig(strategy="temperature", temperature=2.0, max_tokens=30)
        seeds = {generator.generate(["le"], config)[0][0].seed for _ in range(5)}
        assert len(seeds) == 5

    def test_ids_are_accepted_as_prompts(self, generator):
        config = GenerationConfig(max_tokens=5, seed=0)
        ids = TOKENIZER.encode("le chat")
        assert generator.generate([ids], config) == generator.generate(["le chat"], config)

    def test_lengths_and_reasons(self, generator):
        ((found,),) = generator.generate(["le"], GenerationConfig(max_tokens=4, ignore_eos=True))
        assert (found.finish, len(found.tokens), found.prompt_tokens) == ("length", 4, 2)
        assert found.text == TOKENIZER.decode(found.tokens)

    @pytest.mark.parametrize("prompt", ["", [], [-1], [999]])
    def test_bad_prompts_are_refused(self, generator, prompt):
        with pytest.raises(ConfigurationError):
            generator.generate([prompt], GenerationConfig())

    def test_as_many_configurations_as_prompts(self, generator):
        with pytest.raises(ConfigurationError, match="1 configuration pour 2 invites"):
            generator.generate(["a", "b"], [GenerationConfig()])

    def test_no_prompt_gives_nothing(self, generator):
        assert generator.generate([], GenerationConfig()) == []


class TestStops:
    def test_end_of_text_is_not_shown(self):
        pieces = dictated("oui.", TOKENIZER)
        assert text_of(pieces) == "oui."
        assert pieces[-1].finish == "stop"
        assert pieces[-1].token == TOKENIZER.eos_id

    def test_end_of_text_may_be_ignored(self):
        pieces = dictated("oui.", TOKENIZER, ignore_eos=True, stop=("aaa",))
        assert text_of(pieces) == "oui."
        assert len(pieces) == len("oui.") + 1 + 3

    def test_stop_string_across_tokens_is_not_shown(self):
        pieces = dictated("le chat dort.", TOKENIZER, stop=("chat",))
        assert text_of(pieces) == "le "
        assert pieces[-1].finish == "stop"

    def test_what_looked_like_a_stop_is_shown_in_the_end(self):
        assert text_of(dictated("le cha", TOKENIZER, stop=("chat",))) == "le cha"

    def test_stop_ids(self):
        pieces = dictated("abcd", TOKENIZER, stop_ids=(2,))
        assert text_of(pieces[:-1]) == "ab"
        assert pieces[-1].finish == "stop"

    def test_min_tokens_forbids_the_end(self):
        model = DictatedModel([TOKENIZER.eos_id] * 9, vocab_size=TOKENIZER.vocab_size)
        config = GenerationConfig(max_tokens=40, min_tokens=3)
        ((found,),) = Generator(model, TOKENIZER).generate(["a"], config)
        assert found.tokens == (0, 0, 0, TOKENIZER.eos_id)


class TestStream:
    @pytest.mark.parametrize("text", ["déjà l'été", "👩‍🚀 à bord", "日本語です", "naïve café ☕"])
    def test_pieces_make_the_whole_text_and_never_half_a_character(self, text):
        pieces = dictated(text, ByteTokenizer())
        assert text_of(pieces) == text
        assert not any("\ufffd" in piece.text for piece in pieces)

    def test_is_what_generate_returns(self, generator):
        config = GenerationConfig(strategy="top_p", max_tokens=20, seed=3)
        ((found,),) = generator.generate(["le"], config)
        pieces = list(generator.stream("le", config))
        assert text_of(pieces) == found.text
        assert [piece.token for piece in pieces] == list(found.tokens)
        assert pieces[-1].finish == found.finish

    def test_several_sequences_are_refused(self, generator):
        with pytest.raises(ConfigurationError, match="n vaut 2"):
            next(generator.stream("le", GenerationConfig(n=2)))

    def test_observer_sees_every_stage(self, generator):
        seen = []

        def observer(name, logits):
            seen.append((name, int(torch.isfinite(logits).sum())))

        config = GenerationConfig(strategy="top_k", k=3, temperature=0.5, max_tokens=2, seed=1)
        pieces = list(generator.stream("le", config, observer=observer))
        whole = TOKENIZER.vocab_size
        expected = [("modèle", whole), ("temperature", whole), ("top_k", 3)]
        assert seen == expected * len(pieces)


class TestScores:
    def logits(self, model, ids):
        with torch.no_grad():
            return F.log_softmax(model(torch.tensor([ids])), dim=-1)[0]

    def test_chosen_and_top_tokens(self, model, generator):
        config = GenerationConfig(strategy="temperature", seed=1, max_tokens=6, logprobs=3)
        ((found,),) = generator.generate(["bonjour"], config)
        ids = [*TOKENIZER.encode("bonjour"), *found.tokens]
        raw = self.logits(model, ids)
        assert len(found.scores) == len(found.tokens)
        for place, score in enumerate(found.scores, start=len("bonjour") - 1):
            assert score.logprob == pytest.approx(float(raw[place, score.token]), abs=1e-4)
            values, best = raw[place].topk(3)
            assert [token for token, _ in score.top] == best.tolist()
            assert [p for _, p in score.top] == pytest.approx(values.tolist(), abs=1e-4)

    def test_a_text_is_scored_token_by_token(self, model, generator):
        ids = TOKENIZER.encode("il pleut")
        raw = self.logits(model, ids)
        scores = generator.score("il pleut", top=1)
        assert [score.token for score in scores] == ids[1:]
        expected = [float(raw[place, token]) for place, token in enumerate(ids[1:])]
        assert [score.logprob for score in scores] == pytest.approx(expected, abs=1e-4)

    def test_beyond_the_window_each_token_counts_once(self, model):
        text = "il pleut, il mouille, le chat dort, oui" * 2
        ids = TOKENIZER.encode(text)
        scores = Generator(model, TOKENIZER, window=10).score(text)
        assert [score.token for score in scores] == ids[1:]
        start, done = 0, 0
        while done < len(ids) - 1:
            end = min(start + 10, len(ids) - 1)
            raw = self.logits(model, ids[start:end])
            for place in range(done, end):
                expected = float(raw[place - start, ids[place + 1]])
                assert scores[place].logprob == pytest.approx(expected, abs=1e-4)
            done, start = end, max(start + 1, end - 5)

    def test_one_token_has_no_score(self, generator):
        assert generator.score("a") == []


def test_a_larger_model_vocabulary_is_never_drawn():
    """Des logits sans texte, en fin de vocabulaire, ne sont jamais choisis."""
    model = sharp_model(vocab_size=TOKENIZER.vocab_size + 40)
    config = GenerationConfig(strategy="temperature", temperature=100.0, seed=0, max_tokens=200)
    ((found,),) = Generator(model, TOKENIZER, window=8).generate(["a"], config)
    assert max(found.tokens) < TOKENIZER.vocab_size


def test_a_draft_of_another_vocabulary_is_refused(model):
    with pytest.raises(ConfigurationError, match="modèle auxiliaire"):
        Generator(model, TOKENIZER, draft=sharp_model(vocab_size=7))
