"""La recherche en faisceau : celle de Transformers, et exhaustive quand le faisceau est large."""

import itertools

import pytest
import torch
from decoding_helpers import LetterTokenizer, sharp_model
from parity_helpers import to_transformers

from gpt_architecture.decoding.beam import beam_search
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import GenerationError

TOKENIZER = LetterTokenizer()


class FiveTokens(LetterTokenizer):
    """Quatre lettres et la fin de texte : toutes les suites courtes s'énumèrent."""

    vocab_size = 5
    eos_id = 4


def search(model, prompt, *, tokenizer=TOKENIZER, window=None, **settings):
    config = GenerationConfig(strategy="beam", **settings)
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    window = model.cfg.context_length if window is None else window
    return beam_search(model, ids, config, tokenizer=tokenizer, window=window)


def every_sequence(model, prompt, length, *, window=None, length_penalty=1.0):
    """{suite: note} de toutes les suites de `length` tokens au plus, sans cache ni faisceau."""
    window = model.cfg.context_length if window is None else window
    open_ones, closed = {(): 0.0}, {}
    for size in range(1, length + 1):
        grown = {}
        for tokens, logprob in open_ones.items():
            ids = torch.tensor([[*prompt, *tokens][-window:]])
            with torch.no_grad():
                logprobs = torch.log_softmax(model(ids)[0, -1], dim=-1).tolist()
            for token, value in enumerate(logprobs):
                ended = token == FiveTokens.eos_id or size == length
                (closed if ended else grown)[*tokens, token] = logprob + value
        open_ones = grown
    return {tokens: value / len(tokens) ** length_penalty for tokens, value in closed.items()}


def ending_model(seed):
    """Un modèle dont la fin de texte est assez probable pour finir des hypothèses en chemin."""
    model = sharp_model(seed, context_length=32)
    with torch.no_grad():
        model.out_head.weight[TOKENIZER.eos_id] *= 2.5
    return model


@pytest.fixture(scope="module", params=[3, 6])
def pair(request):
    """Notre modèle et le même chez Transformers."""
    pytest.importorskip("transformers", reason="parité : transformers n'est pas installé")
    model = ending_model(request.param)
    return model, to_transformers(model)


class TestTransformers:
    """Mêmes poids, mêmes suites que `generate(num_beams=…)`."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("settings", "theirs"),
        [
            ({}, {}),
            ({"beams": 2}, {"num_beams": 2}),
            ({"beams": 7, "n": 7}, {"num_beams": 7, "num_return_sequences": 7}),
            ({"n": 3}, {"num_return_sequences": 3}),
            ({"early_stopping": True, "n": 2}, {"early_stopping": True, "num_return_sequences": 2}),
            ({"length_penalty": 0.0, "n": 2}, {"length_penalty": 0.0, "num_return_sequences": 2}),
            ({"length_penalty": 2.0, "n": 2}, {"length_penalty": 2.0, "num_return_sequences": 2}),
            ({"length_penalty": -1.5, "n": 2}, {"length_penalty": -1.5, "num_return_sequences": 2}),
            ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
            ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
            ({"min_tokens": 6, "n": 2}, {"min_new_tokens": 6, "num_return_sequences": 2}),
            ({"stop_ids": (4, 0), "n": 2}, {"eos_token_id": [31, 4, 0], "num_return_sequences": 2}),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("prompt", ["le chat", "a"])
    def test_same_sequences_and_scores(self, pair, prompt, settings, theirs):
        ours, reference = pair
        found = search(ours, prompt, max_tokens=14, **settings)
        ids = torch.tensor([TOKENIZER.encode(prompt)])
        expected = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=14,
            pad_token_id=31,
            output_scores=True,
            return_dict_in_generate=True,
            **{"num_beams": 4, "eos_token_id": 31, **theirs},
        )
        ends = {31, *settings.get("stop_ids", ())}
        expected_tokens = [trimmed(row, ends) for row in expected.sequences[:, ids.size(1) :]]
        assert [each.tokens for each in found] == expected_tokens
        assert [each.score for each in found] == pytest.approx(
            expected.sequences_scores.tolist(), rel=1e-5
        )
        assert [each.finish == "stop" for each in found] == [
            each.tokens[-1] in ends for each in found
        ]

    def test_cases_end_both_ways(self):
        """Les comparaisons ci-dessus ne prouveraient rien si aucune hypothèse ne finissait."""
        models = [ending_model(3), ending_model(6)]
        found = [each for model in models for each in search(model, "a", n=4, max_tokens=14)]
        assert {each.finish for each in found} == {"stop", "length"}


def trimmed(row, ends):
    """Une ligne de Transformers, remplissage ôté."""
    tokens = row.tolist()
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tuple(tokens[: end + 1])


class TestExhaustive:
    @pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
    def test_a_wide_beam_finds_the_best_of_all(self, length_penalty):
        model = sharp_model(1, vocab_size=5)
        options = {"length_penalty": length_penalty}
        expected = every_sequence(model, [0, 2], 4, **options)
        best = sorted(expected, key=expected.get, reverse=True)[:8]
        found = search(
            model, [0, 2], tokenizer=FiveTokens(), max_tokens=4, beams=128, n=8, **options
        )
        assert [each.tokens for each in found] == best
        assert [each.score for each in found] == pytest.approx(
            [expected[t] for t in best], abs=1e-5
        )

    def test_past_the_window(self):
        """Le début emplit la fenêtre, qui avance d'un token à chaque pas."""
        model = sharp_model(2, vocab_size=5)
        prompt = [0, 1, 2, 3, 2]
        expected = every_sequence(model, prompt, 4, window=6)
        best = sorted(expected, key=expected.get, reverse=True)[:4]
        settings = {"max_tokens": 4, "beams": 128, "n": 4}
        found = search(model, prompt, tokenizer=FiveTokens(), window=6, **settings)
        assert [each.tokens for each in found] == best
        whole = search(model, prompt, tokenizer=FiveTokens(), **settings)
        assert [each.score for each in whole] != [each.score for each in found]

    def test_fewer_sequences_than_asked(self):
        """Deux tokens au plus : 4 suites d'un token et la fin, 20 de deux."""
        model = sharp_model(1, vocab_size=5)
        found = search(model, [0], tokenizer=FiveTokens(), max_tokens=2, beams=64, n=64)
        assert len(found) == 1 + 4 * 5
        assert {each.tokens for each in found} == {
            (4,),
            *itertools.product(range(4), range(5)),
        }


class TestSearch:
    @pytest.fixture
    def model(self):
        return sharp_model(3)

    def test_one_beam_without_end_is_greedy(self, model):
        found = search(model, "le chat", beams=1, max_tokens=30, ignore_eos=True)
        config = GenerationConfig(max_tokens=30, ignore_eos=True)
        ((greedy,),) = Generator(model, TOKENIZER).generate(["le chat"], config)
        assert [each.tokens for each in found] == [greedy.tokens]

    def test_results_are_distinct_and_ordered(self, model):
        found = search(model, "le", beams=6, n=6, max_tokens=10)
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        assert len({each.tokens for each in found}) == 6

    def test_a_stop_string_ends_a_hypothesis(self, model):
        free = search(model, "le", max_tokens=12, ignore_eos=True)[0]
        stop = free.text[3:5]
        found = search(model, "le", max_tokens=12, beams=4, n=4, stop=(stop,), ignore_eos=True)
        assert "stop" in {each.finish for each in found}
        for each in found:
            assert stop not in each.text
            assert (each.finish == "stop") is TOKENIZER.decode(each.tokens).endswith(stop)
            assert each.text == TOKENIZER.decode(each.tokens).removesuffix(stop)

    def test_end_of_text_is_not_shown(self):
        found = search(ending_model(3), "a", n=4, max_tokens=12)
        ended = [each for each in found if each.tokens[-1] == TOKENIZER.eos_id]
        assert ended
        assert all(each.text == TOKENIZER.decode(each.tokens[:-1]) for each in ended)

    def test_logits_without_text_are_never_chosen(self):
        wide = sharp_model(3, vocab_size=64)
        found = search(wide, "le", n=4, max_tokens=12)
        assert max(token for each in found for token in each.tokens) < TOKENIZER.vocab_size

    def test_banned_text_is_absent(self, model):
        free = search(model, "le", max_tokens=12, ignore_eos=True)[0]
        letter = free.text[2]
        found = search(model, "le", n=4, max_tokens=12, banned=(letter,))
        assert all(letter not in each.text for each in found)

    def test_the_generator_gives_the_n_best(self, model):
        config = GenerationConfig(strategy="beam", n=3, max_tokens=9)
        ((*found,),) = Generator(model, TOKENIZER).generate(["le"], config)
        expected = search(model, "le", n=3, max_tokens=9)
        assert [(each.tokens, each.text, each.score, each.finish) for each in found] == [
            (each.tokens, each.text, each.score, each.finish) for each in expected
        ]

    def test_nan_logits_are_refused(self, model):
        with torch.no_grad():
            model.out_head.weight[0, 0] = float("nan")
        with pytest.raises(GenerationError):
            search(model, "le", max_tokens=4)
