"""Les suites communes à un texte et à un corpus, contre une recherche naïve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.evaluation.verbatim import Overlap, overlaps, suffix_order

few_letters = st.lists(st.integers(0, 3), min_size=1, max_size=40)  # beaucoup de redites
wide_ids = st.lists(st.integers(50_200, 50_260), min_size=1, max_size=40)
tokens = st.one_of(few_letters, wide_ids)


def naive_length(corpus, text, start):
    """La plus grande longueur que l'on retrouve en essayant tout."""
    best = 0
    for end in range(start + 1, len(text) + 1):
        size = end - start
        pieces = (corpus[place : place + size] for place in range(len(corpus) - size + 1))
        if text[start:end] not in pieces:
            break
        best = size
    return best


@given(corpus=tokens, texts=st.lists(st.one_of(st.just([]), tokens), max_size=4), block=st.data())
@settings(deadline=None, max_examples=150)
def test_lengths_are_those_of_a_naive_search(corpus, texts, block):
    size = block.draw(st.integers(1, len(corpus) + 3))
    found = overlaps(TokenArray(corpus), texts, block_tokens=size)
    assert len(found) == len(texts)
    for text, overlap in zip(texts, found, strict=True):
        assert list(overlap.lengths) == [
            naive_length(corpus, text, start) for start in range(len(text))
        ]
        for start, (length, place) in enumerate(zip(overlap.lengths, overlap.places, strict=True)):
            if length:
                assert corpus[place : place + length] == text[start : start + length]
            else:
                assert place == -1


@given(corpus=tokens, depth=st.integers(1, 50))
@settings(deadline=None)
def test_suffixes_are_in_order(corpus, depth):
    order = suffix_order(np.array(corpus, dtype=np.int64), depth)
    assert sorted(order) == list(range(len(corpus)))
    heads = [corpus[place : place + depth] for place in order]
    assert heads == sorted(heads)


def test_a_copy_longer_than_a_block():
    corpus = list(range(1000))
    (found,) = overlaps(TokenArray(corpus), [[7, *range(100, 900), 7]], block_tokens=64)
    assert found.longest == 800
    assert found.passages(2) == [(1, 801, 100)]


def test_one_repeated_token():
    """Le pire cas du tri par doublement : tous les suffixes se ressemblent."""
    (found,) = overlaps(TokenArray([5] * 5000), [[5] * 300])
    assert found.lengths == tuple(range(300, 0, -1))


def test_progress_goes_to_the_end():
    seen = []
    overlaps(
        TokenArray([1, 2, 3, 4, 5]), [[3]], block_tokens=2, on_progress=lambda *at: seen.append(at)
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_text():
    assert overlaps(TokenArray([1, 2]), []) == []


class TestOverlap:
    @given(corpus=few_letters, text=few_letters, n=st.integers(1, 8))
    @settings(deadline=None)
    def test_ngrams_are_counted_as_sets_would(self, corpus, text, n):
        known = {tuple(corpus[i : i + n]) for i in range(len(corpus) - n + 1)}
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        (found,) = overlaps(TokenArray(corpus), [text])
        assert found.count(n) == (sum(gram in known for gram in grams), len(grams))

    @pytest.mark.parametrize(
        ("shortest", "expected"),
        [
            (1, [(0, 3, 10), (2, 6, 20), (7, 8, 30)]),
            (3, [(0, 3, 10), (2, 6, 20)]),
            (4, [(2, 6, 20)]),
            (9, []),
        ],
    )
    def test_passages_are_maximal(self, shortest, expected):
        overlap = Overlap(lengths=(3, 2, 4, 3, 2, 1, 0, 1), places=(10, 11, 20, 21, 22, 23, -1, 30))
        assert overlap.passages(shortest) == expected

    def test_nothing(self):
        empty = Overlap(lengths=(), places=())
        assert (empty.longest, empty.count(2), empty.passages(1)) == (0, (0, 0), [])
