"""Les passages : des parts lues ensemble ont les logits de chacune lue seule."""

import random

import pytest
import torch
from decoding_helpers import sharp_model

from gpt_architecture.decoding.cache_reader import CacheReader, Part

VOCABULARY, LENGTH, ROWS = 9, 40, 4
MODEL = sharp_model(vocab_size=VOCABULARY, context_length=LENGTH)


@pytest.fixture(autouse=True)
def reading():
    """Ce que fait qui lit : pas de gradient ; le modèle est déjà en évaluation."""
    with torch.inference_mode():
        yield


@pytest.fixture
def widths(monkeypatch):
    """(Parts, tokens) de chaque passage du modèle."""
    read, forward = [], type(MODEL).forward

    def counting(self, in_idx, cache=None, *, at=None):
        read.append(tuple(in_idx.shape))
        return forward(self, in_idx, cache, at=at)

    monkeypatch.setattr(type(MODEL), "forward", counting)
    return read


def alone(tokens):
    """Logits (T, V) d'une suite entière, sans cache."""
    with torch.no_grad():
        return MODEL(torch.tensor([tokens]))[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_parts_of_all_lengths_have_the_logits_of_each_alone(seed):
    dice = random.Random(seed)  # noqa: S311
    lengths = [dice.randint(2, LENGTH) for _ in range(dice.randint(1, ROWS))]
    rows = [dice.choices(range(VOCABULARY), k=length) for length in lengths]
    places = dice.sample(range(ROWS), len(rows))
    cache, reader, done = MODEL.new_cache(ROWS, LENGTH), CacheReader(MODEL), [0] * len(rows)
    while unread := [index for index, row in enumerate(rows) if done[index] < len(row)]:
        chosen = dice.sample(unread, dice.randint(1, len(unread)))
        counts = [dice.randint(1, lengths[index] - done[index]) for index in chosen]
        parts = [
            Part(
                row=places[index],
                tokens=rows[index][done[index] : done[index] + count],
                every=dice.random() < 0.5,
            )
            for index, count in zip(chosen, counts, strict=True)
        ]
        for index, part, logits in zip(chosen, parts, reader.run(cache, parts), strict=True):
            done[index] += len(part.tokens)
            size = len(part.tokens) if part.every else 1
            wanted = alone(rows[index])[done[index] - size : done[index]]
            torch.testing.assert_close(logits, wanted)
    assert [cache.lengths[place] for place in places] == lengths


def test_short_parts_are_completed_when_it_costs_little(widths):
    cache, reader = MODEL.new_cache(3, LENGTH), CacheReader(MODEL)
    reader.run(cache, [Part(row=0, tokens=[1, 2, 3]), Part(row=2, tokens=[4, 5])])
    reader.run(cache, [Part(row=row, tokens=[row]) for row in range(3)])
    assert widths == [(2, 3), (3, 1)]
    assert cache.lengths == [4, 1, 3]


def test_long_parts_pass_alone_when_completing_the_others_would_cost(widths):
    cache = MODEL.new_cache(4, LENGTH)
    parts = [Part(row=row, tokens=[row]) for row in (0, 1, 2)]
    CacheReader(MODEL).run(cache, [*parts, Part(row=3, tokens=[1] * 9)])  # 24 tokens de plus
    assert widths == [(3, 1), (1, 9)]


def test_nothing_is_completed_beyond_the_cache(widths):
    cache, reader = MODEL.new_cache(2, LENGTH), CacheReader(MODEL)
    reader.run(cache, [Part(row=0, tokens=[1] * (LENGTH - 2))])
    reader.run(cache, [Part(row=0, tokens=[1, 2]), Part(row=1, tokens=[3, 4, 5])])
    assert widths[1:] == [(1, 2), (1, 3)]
    assert cache.lengths == [LENGTH, 3]
