"""Les n-grammes de Kneser–Ney : égaux à la formule, écrite avec des dictionnaires."""

import math
from collections import Counter

import numpy as np
import pytest

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.ngrams import KneserNey


class Oracle:
    """La formule, mot à mot : lente, sans tableaux."""

    def __init__(self, segments, vocab_size, order, learned):
        self.vocab_size, self.order = vocab_size, order
        raw = {k: Counter() for k in range(1, order + 1)}
        for tokens, counted in zip(segments, learned, strict=True):
            for end in range(len(tokens)):
                for k in range(1, min(order, end + 1) + 1):
                    if counted[end]:
                        raw[k][tuple(tokens[end - k + 1 : end + 1])] += 1
        self.levels = {}
        for top in range(1, order + 1):
            levels = {top: raw[top]}
            for k in range(1, top):
                levels[k] = Counter(gram[1:] for gram in raw[k + 1])
            self.levels[top] = levels

    def chance(self, token, context, order):
        return self._chance(token, context[max(0, len(context) - order + 1) :], order)

    def _chance(self, token, context, order):
        counts = self.levels[order][len(context) + 1]
        lower = self._chance(token, context[1:], order) if context else 1 / self.vocab_size
        after = {gram[-1]: n for gram, n in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        sizes = Counter(counts.values())
        ones, twos = sizes[1], sizes[2]
        discount = ones / (ones + 2 * twos) if ones and twos else 0.5
        total = sum(after.values())
        kept = max(after.get(token, 0) - discount, 0) / total
        return kept + discount * len(after) / total * lower


def text(seed, size, vocab_size):
    """Des tokens qui se répètent assez pour que chaque ordre ait des comptes."""
    generator = np.random.default_rng(seed)
    steps = generator.choice([1, 1, 1, 2, 5], size)
    return (np.cumsum(steps) * 7 // 3 % vocab_size).astype(np.int64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_the_formula(seed, masked):
    vocab_size, order = 9, 4
    segments = [text(seed, 60, vocab_size - 1), text(seed + 9, 3, vocab_size), text(7, 1, 5)]
    generator = np.random.default_rng(seed)
    learned = [generator.random(each.size) < (0.6 if masked else 2) for each in segments]
    model = KneserNey(segments, vocab_size, order=order, learned=learned)
    oracle = Oracle([each.tolist() for each in segments], vocab_size, order, learned)
    rows = np.stack([text(seed + 20, 12, vocab_size), generator.integers(0, vocab_size, 12)])
    for n in range(1, order + 1):
        found = model.losses(rows, order=n)
        expected = [
            [-math.log(oracle.chance(row[end], tuple(row[:end]), n)) for end in range(1, len(row))]
            for row in rows.tolist()
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_chances_of_all_tokens_sum_to_one(order):
    vocab_size = 11
    model = KneserNey([text(1, 200, vocab_size - 2)], vocab_size, order=order)
    context = text(3, 6, vocab_size)
    rows = np.stack([np.append(context, token) for token in range(vocab_size)])
    assert np.exp(-model.losses(rows)[:, -1]).sum() == pytest.approx(1, abs=1e-12)


def test_longer_contexts_predict_a_regular_text_better():
    tokens = text(5, 3000, 40) // 3 * 2
    model = KneserNey([tokens[:2500]], 40, order=3)
    rows = tokens[None, 2500:]
    unigram, bigram, trigram = (model.losses(rows, order=n).mean() for n in (1, 2, 3))
    assert math.log(40) > unigram + 0.5 > bigram + 1
    assert trigram < bigram + 0.05


@pytest.mark.parametrize("order", [0, 4, True])
def test_an_order_it_has_not_counted_is_refused(order):
    model = KneserNey([text(1, 30, 5)], 5, order=3)
    with pytest.raises(ConfigurationError, match="order"):
        model.losses(np.zeros((1, 4), np.int64), order=order)
