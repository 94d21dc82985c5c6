"""Ce qui se répète : dans un texte, entre textes, depuis un corpus ; contre le calcul naïf."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.evaluation.repetition import (
    Overlap,
    distinct_n,
    ngrams,
    overlaps,
    repeated_places,
    repetition,
    self_bleu,
)

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


@pytest.mark.slow
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


@pytest.mark.slow
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


class TestDistinct:
    @pytest.mark.parametrize(
        ("tokens", "n", "expected"),
        [
            ([1, 2, 3, 4], 1, 1.0),
            ([1, 1, 1, 1], 1, 0.25),
            ([1, 2, 1, 2, 1], 1, 0.4),
            ([1, 2, 1, 2, 1], 2, 0.5),  # 12 21 12 21 : deux sur quatre
            ([1, 2, 3, 1, 2], 2, 0.75),
            ([1, 1, 1, 1, 1], 4, 0.5),
            ([1, 2, 3, 4], 4, 1.0),
            ([1, 2, 3], 4, 1.0),  # aucun quadruplet
            ([], 1, 1.0),
        ],
    )
    def test_by_hand(self, tokens, n, expected):
        assert distinct_n(tokens, n) == expected


class TestRepetition:
    def test_by_hand(self):
        # 1234 2341 3412 4123 1234 2341 : deux déjà vus sur six
        assert repetition([1, 2, 3, 4, 1, 2, 3, 4, 1]) == pytest.approx(2 / 6)

    def test_short_text_repeats_nothing(self):
        assert repetition([1, 1, 1]) == 0.0

    def test_places(self):
        assert repeated_places([1, 2, 3, 4, 9, 1, 2, 3, 4, 8]) == {5, 6, 7, 8}

    def test_places_of_a_loop(self):
        assert repeated_places([7] * 6) == {1, 2, 3, 4, 5}

    def test_no_place(self):
        assert repeated_places([1, 2, 3, 4, 5]) == frozenset()
        assert repeated_places([]) == frozenset()


def naive_self_bleu(texts):
    """La définition, mot à mot : chaque texte contre tous les autres."""
    scores = []
    for place, text in enumerate(texts):
        others = texts[:place] + texts[place + 1 :]
        logs = []
        for n in range(1, min(4, len(text)) + 1):
            counts = Counter(ngrams(text, n))
            clipped = sum(
                min(count, max(Counter(ngrams(other, n))[gram] for other in others))
                for gram, count in counts.items()
            )
            logs.append(
                -math.inf if n == 1 and not clipped else math.log((clipped or 0.1) / counts.total())
            )
        closest = min((len(other) for other in others), key=lambda n: (abs(n - len(text)), n))
        brevity = 1.0 if not text or len(text) >= closest else math.exp(1 - closest / len(text))
        scores.append(brevity * math.exp(sum(logs) / len(logs)) if logs else 0.0)
    return sum(scores) / len(scores)


class TestSelfBleu:
    def test_by_hand(self):
        """« a b c d e » et « a b c d f » : 4/5, 3/4, 2/3, 1/2 des n-grammes en commun."""
        expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
        assert self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]) == pytest.approx(expected)

    def test_brevity_by_hand(self):
        """Un texte de 4 contre un de 8 qui le contient : exp(1 − 8/4), et précisions 1."""
        short, long = [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]
        of_short = math.exp(1 - 8 / 4)
        of_long = (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25
        assert self_bleu([short, long]) == pytest.approx((of_short + of_long) / 2)

    def test_smoothing_by_hand(self):
        """Deux mots en commun, aucun à la suite : les ordres 2 à 4 comptent 0,1."""
        expected = (2 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25
        assert self_bleu([[1, 9, 2, 8], [2, 7, 1, 6]]) == pytest.approx(expected)

    def test_counts_are_clipped(self):
        """« 1 1 1 1 » contre « 1 2 3 4 » : un seul 1 compte."""
        one = (1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25
        assert self_bleu([[1, 1, 1, 1], [1, 2, 3, 4]]) == pytest.approx(one)

    def test_extremes(self):
        assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1.0)
        assert self_bleu([[1, 2]] * 2) == pytest.approx(1.0)  # plus court que quatre
        assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]) == 0.0

    def test_needs_two_texts(self):
        assert self_bleu([]) is None
        assert self_bleu([[1, 2, 3]]) is None

    @given(st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=2, max_size=5))
    def test_is_the_definition(self, texts):
        assert self_bleu(texts) == pytest.approx(naive_self_bleu(texts), abs=1e-12)
