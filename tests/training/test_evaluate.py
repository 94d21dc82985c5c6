"""L'évaluateur et les exemples : mêmes valeurs que la boucle simple, interruptibles."""

import numpy as np
import pytest
import torch

from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.sampler import make_batch
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.training.evaluate import LossEvaluator, TextSampler, evaluation_starts
from gpt_architecture.training.simple import generate_sample

CPU = torch.device("cpu")
SOURCE = TokenArray(np.random.default_rng(0).integers(0, 61, 100))


class Letters:
    """Un tokenizer d'une lettre par token."""

    def encode(self, text, *, allowed_special=()):
        return [ord(letter) % 61 for letter in text]

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def evaluator(model, starts, batch_size=2):
    starts = np.array(starts)
    sets = [(SOURCE, starts), (SOURCE, starts[:1])]

    def loss(inputs, targets):
        return calc_loss_batch(inputs, targets, model, CPU)

    return LossEvaluator(model, sets, window=8, batch_size=batch_size, loss=loss)


def test_the_mean_over_windows_last_partial_batch_included(tiny_model):
    train_loss, val_loss = evaluator(tiny_model, [0, 8, 16])(lambda: False)
    inputs, targets = make_batch(SOURCE, np.array([0, 8, 16]), 8)
    with torch.no_grad():
        expected = calc_loss_batch(inputs, targets, tiny_model, CPU).item()
        alone = calc_loss_batch(inputs[:1], targets[:1], tiny_model, CPU).item()
    assert train_loss == pytest.approx(expected, rel=1e-6)
    assert val_loss == pytest.approx(alone, rel=1e-6)


def test_nothing_is_drawn_nor_left_changed(tiny_model):
    tiny_model.train()
    before = torch.get_rng_state()
    evaluator(tiny_model, [0, 8])(lambda: False)
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny_model.training
    assert all(p.grad is None for p in tiny_model.parameters())


def test_a_stop_gives_the_hand_back(tiny_model):
    calls = iter([False, True])
    assert evaluator(tiny_model, [0, 8, 16])(lambda: next(calls)) is None


def test_fixed_windows():
    options = {"stride": None, "count": 5}
    first = evaluation_starts(SOURCE, 8, shuffle=False, **options)
    assert first.tolist() == [0, 8, 16, 24, 32]
    mixed = evaluation_starts(SOURCE, 8, shuffle=True, **options)
    assert mixed.tolist() == evaluation_starts(SOURCE, 8, shuffle=True, **options).tolist()
    assert len(set(mixed.tolist())) == 5
    assert len(evaluation_starts(SOURCE, 8, stride=None, count=1000, shuffle=True)) == 12


def test_the_sample_is_that_of_the_simple_loop(tiny_model):
    sampler = TextSampler(tiny_model, Letters(), CPU, "abc", window=8)
    expected = generate_sample(tiny_model, Letters(), "cpu", "abc", context_size=8)
    assert sampler(lambda: False) == expected
    assert sampler(lambda: True) is None
