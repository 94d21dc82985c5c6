"""Dernier mot et choix multiple : contre le calcul à la main."""

import math

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.evaluation.examples import LastWord, MultipleChoice
from gpt_architecture.evaluation.tasks import (
    ChoiceOutcome,
    ChoiceResult,
    measure_choices,
    measure_last_words,
)

TEXT = "le passeur leva la lampe puis il prit son bateau et la rivière"


@pytest.fixture
def pair():
    """Un modèle aux logits marqués, et un tokenizer de mots."""
    tokenizer = SimpleTokenizerV2.from_text(TEXT)
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=8, emb_dim=24, n_heads=3, n_layers=2
    )
    return GPTModel(config).eval(), tokenizer


def log_prob(model, tokenizer, context, continuation):
    """log p des mots de `continuation` après `context`, mot par mot."""
    ids = tokenizer.encode(context)
    total = 0.0
    for token in tokenizer.encode(continuation):
        with torch.no_grad():
            total += model(torch.tensor([ids]))[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return total


def greedy_word(model, tokenizer, context):
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(context)]))[0, -1]
    return tokenizer.decode([int(logits.argmax())])


def test_last_word(pair):
    """Un mot que le modèle écrirait, un qu'il n'écrirait pas : 1 sur 2, et la perplexité."""
    model, tokenizer = pair
    context = "le passeur leva"
    right = greedy_word(model, tokenizer, context)
    wrong = next(word for word in TEXT.split() if word != right)
    examples = [
        LastWord(line=number, context=context, word=word)
        for number, word in enumerate((right, wrong), start=1)
    ]
    steps = []
    found = measure_last_words(
        *(model, tokenizer, examples),
        window=8,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    expected = [log_prob(model, tokenizer, context, word) for word in (right, wrong)]
    assert found.correct == (True, False)
    assert found.accuracy == 0.5
    assert found.log_probs == pytest.approx(expected, abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(-sum(expected) / 2))
    assert found.perplexity_interval is not None
    assert 0 < found.accuracy_interval[0] < 0.5 < found.accuracy_interval[1] < 1
    assert steps[-1] == (2, 2)


def test_choices(pair):
    """Les log p de chaque suite sont ceux du calcul mot par mot."""
    model, tokenizer = pair
    choices = ("la lampe", "son bateau et la rivière")
    example = MultipleChoice(line=4, context="il prit", choices=choices, label=0)
    found = measure_choices(model, tokenizer, [example], window=8)
    (outcome,) = found.outcomes
    expected = [log_prob(model, tokenizer, "il prit", choice) for choice in choices]
    assert outcome.log_probs == pytest.approx(expected, abs=1e-5)
    assert (outcome.line, outcome.lengths) == (4, (8, 24))
    assert found.chance == 0.5


def test_acc_and_acc_norm_differ():
    """La plus probable, et la plus probable par caractère."""
    outcome = ChoiceOutcome(line=1, label=1, log_probs=(-4.0, -5.0), lengths=(4, 10))
    assert (outcome.chosen, outcome.chosen_norm) == (0, 1)
    other = ChoiceOutcome(line=2, label=0, log_probs=(-1.0, -1.0), lengths=(3, 3))
    assert other.chosen == 0  # à égalité, la première, comme numpy.argmax
    result = ChoiceResult(outcomes=(outcome, other))
    assert (result.acc, result.acc_norm) == (0.5, 1.0)
    assert result.acc_norm_interval[1] == 1.0


def test_a_long_context_is_cut(pair):
    """Un contexte plus long que la fenêtre perd son début ; la note est celle de la fin."""
    model, tokenizer = pair
    context = "le passeur leva la lampe puis il prit son bateau et"
    example = LastWord(line=1, context=context, word="la")
    (found,) = measure_last_words(model, tokenizer, [example], window=8).log_probs
    kept = " ".join(context.split()[-8:])
    assert found == pytest.approx(log_prob(model, tokenizer, kept, "la"), abs=1e-5)
