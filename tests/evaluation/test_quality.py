"""Mesures de textes générés, refaites à la main."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.evaluation.quality import (
    distinct_n,
    ngrams,
    repeated_places,
    repetition,
    self_bleu,
)


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
