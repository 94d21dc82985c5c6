"""Deviner les prochains tokens d'une suite, sans la faire avancer."""

import pytest
import torch
from decoding_helpers import LetterTokenizer

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import Continuation

TOKENIZER = LetterTokenizer()
SIZE = TOKENIZER.vocab_size
KINDS = {
    "tirage": {"strategy": "temperature", "temperature": 0.8},
    "top-p": {"strategy": "top_p", "p": 0.9, "temperature": 1.3},
    "top-k": {"strategy": "top_k", "k": 5},
    "biais": {"strategy": "temperature", "logit_bias": {3: 2.0}},
}


def sequence_of(**settings):
    config = GenerationConfig(**{"max_tokens": 50, "seed": 7, "ignore_eos": True, **settings})
    return Continuation(TOKENIZER.encode("bonjour"), config, TOKENIZER, vocab_size=SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_same_logits_it_guesses_what_will_be_drawn(kind):
    rows = torch.randn(20, SIZE, generator=torch.Generator().manual_seed(1))
    sequence, untouched = sequence_of(**KINDS[kind]), sequence_of(**KINDS[kind])
    guess = sequence.guesser()
    guesses = [guess(row) for row in rows]
    drawn = [sequence.step(row).token for row in rows]
    assert guesses == drawn
    assert [untouched.step(row).token for row in rows] == drawn  # deviner n'a rien consommé
    assert len(set(drawn)) > 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "mirostat"},
        {"strategy": "temperature", "xtc_probability": 0.5},
    ],
)
def test_what_it_cannot_follow_it_guesses_greedily(settings):
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    sequence = sequence_of(**settings)
    state = sequence.generator.get_state()
    assert sequence.guesser()(logits) == int(logits.argmax())
    assert torch.equal(sequence.generator.get_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_draft_still_names_a_token(kind):
    """La vérification, elle, dira que le modèle est malade."""
    guess = sequence_of(**KINDS[kind]).guesser()
    assert 0 <= guess(torch.full((SIZE,), torch.nan)) < SIZE
