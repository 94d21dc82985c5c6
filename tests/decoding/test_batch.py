"""Des suites qui avancent ensemble : chacune écrit ce qu'elle écrirait seule."""

import pytest
import torch
from decoding_helpers import LetterTokenizer, sharp_model

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.driver import BatchDecoder
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.decoding.simple import generate_text_simple

TOKENIZER = LetterTokenizer()
PROMPTS = ["a", "bonjour", "le chat", "il pleut, il mouille", "oui"]


@pytest.fixture(params=[{}, {"tie_weights": True, "qkv_bias": True}], ids=["livre", "gpt2"])
def model(request):
    return sharp_model(**request.param)


def continuation(prompt, **settings):
    settings = {"max_tokens": 6, "ignore_eos": True} | settings
    return Continuation(
        TOKENIZER.encode(prompt),
        GenerationConfig(**settings),
        TOKENIZER,
        vocab_size=TOKENIZER.vocab_size,
    )


def run(decoder):
    """Fait avancer jusqu'au bout."""
    while decoder.active:
        list(decoder.step())


def alone(model, prompt, *, window=None, chunk=512, **settings):
    """Les tokens d'une suite qui avance seule."""
    sequence = continuation(prompt, **settings)
    decoder = BatchDecoder(model, window=window, chunk=chunk)
    decoder.add([sequence])
    run(decoder)
    return sequence.tokens


def oracle(model, prompt, new, window):
    ids = torch.tensor([TOKENIZER.encode(prompt)])
    return generate_text_simple(model, ids, new, window)[0, ids.size(1) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("window", [24, 8, 3, 1])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_the_uncached_oracle(model, prompt, window):
    """Au-delà de la fenêtre aussi."""
    assert alone(model, prompt, window=window, max_tokens=30) == oracle(model, prompt, 30, window)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_reading_by_chunks_changes_nothing(model, chunk):
    for prompt in PROMPTS:
        assert alone(model, prompt, chunk=chunk) == alone(model, prompt)


@pytest.mark.slow
@pytest.mark.parametrize("window", [24, 9])
@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("settings", [{}, {"strategy": "top_p", "seed": 3, "temperature": 1.5}])
def test_mixed_lengths_write_what_each_writes_alone(model, window, chunk, settings):
    sequences = [continuation(prompt, max_tokens=20, **settings) for prompt in PROMPTS]
    decoder = BatchDecoder(model, window=window, chunk=chunk)
    decoder.add(sequences)
    run(decoder)
    for prompt, sequence in zip(PROMPTS, sequences, strict=True):
        assert sequence.tokens == alone(model, prompt, window=window, max_tokens=20, **settings)


def test_a_sequence_may_join_or_leave_at_any_moment(model):
    first, second = continuation("bonjour", max_tokens=12), continuation("le", max_tokens=12)
    third = continuation("oui", max_tokens=12)
    decoder = BatchDecoder(model)
    decoder.add([first])
    list(decoder.step())
    decoder.add([second, third])
    list(decoder.step())
    decoder.remove(second)
    run(decoder)
    assert first.tokens == alone(model, "bonjour", max_tokens=12)
    assert third.tokens == alone(model, "oui", max_tokens=12)
    assert second.tokens == alone(model, "le", max_tokens=12)[:1]
    assert second.finish is None


def test_a_shared_prompt_is_read_once(model):
    calls = []

    class Counting:
        cfg, device, new_cache = model.cfg, model.device, model.new_cache

        def __call__(self, in_idx, cache=None, *, at=None):
            calls.append(tuple(in_idx.shape))
            return model(in_idx, cache, at=at)

    sequences = [continuation("bonjour", strategy="temperature", seed=seed) for seed in range(3)]
    decoder = BatchDecoder(Counting())
    decoder.add(sequences)
    assert calls == [(1, 7)]
    run(decoder)
    for seed, sequence in enumerate(sequences):
        assert sequence.tokens == alone(model, "bonjour", strategy="temperature", seed=seed)


def test_finished_sequences_are_no_longer_computed(model):
    short, long = continuation("bonjour", max_tokens=2), continuation("le chat", max_tokens=5)
    decoder = BatchDecoder(model)
    decoder.add([short, long])
    sizes = []
    while decoder.active:
        sizes.append(len(decoder.active))
        list(decoder.step())
    assert sizes == [2, 2, 1, 1, 1]
    assert (short.finish, long.finish) == ("length", "length")
