"""Pénalités : Transformers, calculs à la main, et un DRY écrit sans ruse."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.decoding import penalties
from gpt_architecture.errors import ConfigurationError

INF = float("inf")
VOCAB = 11
property_test = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.lists(st.integers(0, 3), min_size=1, max_size=25)
LONG = [1, 2, 3, 4, 1, 2, 5, 1, 2]


def ids(*rows):
    """Des textes de longueurs diverses, complétés à gauche par −1."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[-1] * (longest - len(row)) + list(row) for row in rows])


def logits(rows=1, seed=0):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def removed_amounts(process, row):
    """Ce que le processeur ôte à chaque token d'une ligne, là où il ôte quelque chose."""
    zeros = torch.zeros(1, VOCAB, dtype=torch.float64)
    moved = -process(ids(row), zeros)[0]
    return {token: moved[token].item() for token in moved.nonzero().flatten().tolist()}


class TestRepetition:
    @pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 100.0])
    def test_equals_transformers(self, penalty):
        process = pytest.importorskip(
            "transformers.generation.logits_process", reason="pair : Transformers absent"
        )
        text = torch.randint(0, VOCAB, (6, 9), generator=torch.Generator().manual_seed(1))
        scores = logits(6)
        scores[:, 3] = -INF
        scores[0, 0] = 0.0
        expected = process.RepetitionPenaltyLogitsProcessor(penalty)(text, scores)
        assert torch.equal(penalties.repetition_penalty(penalty)(text, scores), expected)

    def test_by_hand(self):
        scores = torch.tensor([[2.0, -2.0, 1.0, -1.0, 0.0]])
        found = penalties.repetition_penalty(2.0)(ids([0, 1, 1, 4]), scores)
        assert found.tolist() == [[1.0, -4.0, 1.0, -1.0, 0.0]]

    def test_window(self):
        scores = torch.ones(1, VOCAB)
        found = penalties.repetition_penalty(2.0, window=2)(ids([0, 1, 2]), scores)
        assert found[0, :3].tolist() == [1.0, 0.5, 0.5]

    @pytest.mark.parametrize("penalty", [1e-300, 1e-38, 1e38, 1e300])
    def test_extremes_stay_finite(self, penalty):
        scores = torch.tensor([[1e30, -1e30, -INF, 0.0]])
        found = penalties.repetition_penalty(penalty)(ids([0, 1, 2, 3]), scores)
        assert not found.isnan().any()
        assert found.isinf().tolist() == [[False, False, True, False]]


class TestPresenceAndFrequency:
    def test_by_hand(self):
        text = ids([5, 5, 1, 1, 1, 2])
        presence = penalties.presence_penalty(0.5)(text, torch.zeros(1, VOCAB))
        frequency = penalties.frequency_penalty(0.5)(text, torch.zeros(1, VOCAB))
        assert presence[0, [0, 1, 2, 5]].tolist() == [0.0, -0.5, -0.5, -0.5]
        assert frequency[0, [0, 1, 2, 5]].tolist() == [0.0, -1.5, -0.5, -1.0]

    def test_prompt_does_not_count(self):
        """L'usage d'OpenAI et de vLLM : seule la suite compte."""
        text = ids([5, 5, 1, 1, 1, 2])
        frequency = penalties.frequency_penalty(0.5, prompt_length=3)
        assert frequency(text, torch.zeros(1, VOCAB))[0, [1, 2, 5]].tolist() == [-1.0, -0.5, 0.0]
        presence = penalties.presence_penalty(0.5, prompt_length=3)
        assert presence(text, torch.zeros(1, VOCAB))[0, [1, 2, 5]].tolist() == [-0.5, -0.5, 0.0]

    def test_nothing_produced_yet(self):
        scores = logits()
        assert torch.equal(
            penalties.presence_penalty(2.0, prompt_length=3)(ids([1, 2, 3]), scores), scores
        )

    def test_window_counts_the_last_tokens(self):
        found = penalties.frequency_penalty(1.0, window=3)(
            ids([5, 5, 1, 1, 1, 2]), torch.zeros(1, VOCAB)
        )
        assert found[0, [1, 2, 5]].tolist() == [-2.0, -1.0, 0.0]

    def test_negative_encourages(self):
        found = penalties.presence_penalty(-1.0)(ids([4]), torch.zeros(1, VOCAB))
        assert found[0, 4] == 1.0

    @pytest.mark.parametrize("penalty", [1e300, -1e300])
    def test_extremes_stay_finite(self, penalty):
        for build in (penalties.presence_penalty, penalties.frequency_penalty):
            found = build(penalty)(ids([0, 1, 1]), torch.tensor([[0.0, 1.0, 2.0, -INF]]))
            assert found.isfinite().tolist() == [[True, True, True, False]]
            assert found[0, 2] == 2.0


def plain_dry(text, multiplier, base, allowed_length, breakers=(), window=None):
    """DRY d'après sa définition : token → pénalité."""
    text = text if window is None else text[-window:]
    last = len(text) - 1
    ends = {
        end
        for breaker in breakers
        for end in range(len(text))
        if tuple(text[max(end + 1 - len(breaker), 0) : end + 1]) == tuple(breaker)
    }
    found = {}
    for end in range(last):
        length = 0
        while length <= end and text[end - length] == text[last - length]:
            if last - length in ends:
                break
            length += 1
        following = text[end + 1]
        if length >= allowed_length and (following,) not in {tuple(b) for b in breakers}:
            penalty = multiplier * base ** (length - allowed_length)
            found[following] = max(penalty, found.get(following, 0.0))
    return found


class TestDry:
    def test_by_hand(self):
        # « 1 2 » finit le texte et s'y trouve déjà, suivi de 3 puis de 5.
        process = penalties.dry(0.8, base=1.75, allowed_length=2)
        assert removed_amounts(process, LONG) == pytest.approx({3: 0.8, 5: 0.8})
        process = penalties.dry(0.8, base=1.75, allowed_length=1)
        assert removed_amounts(process, LONG) == pytest.approx({3: 1.4, 5: 1.4})
        process = penalties.dry(0.8, base=1.75, allowed_length=3)
        assert removed_amounts(process, LONG) == {}

    def test_longest_repeat_counts(self):
        # « 7 1 2 » → 4 ; « 1 2 » → 3.
        process = penalties.dry(1.0, base=2.0, allowed_length=2)
        assert removed_amounts(process, [7, 1, 2, 4, 1, 2, 3, 7, 1, 2]) == {4: 2.0, 3: 1.0}

    def test_a_repeat_does_not_cross_a_breaker(self):
        process = penalties.dry(1.0, base=2.0, allowed_length=1, breakers=[[7]])
        assert removed_amounts(process, [7, 1, 2, 4, 7, 1, 2]) == {4: 2.0}  # « 1 2 », sans 7
        assert removed_amounts(process, [1, 7, 4, 1, 7]) == {}

    def test_a_breaker_is_not_punished(self):
        process = penalties.dry(1.0, base=2.0, allowed_length=1, breakers=[[7]])
        assert removed_amounts(process, [1, 2, 7, 3, 1, 2]) == {}

    def test_breaker_of_several_tokens(self):
        text = [5, 6, 1, 2, 4, 5, 6, 1, 2]
        process = penalties.dry(1.0, base=2.0, allowed_length=1, breakers=[[5, 6]])
        assert removed_amounts(process, text) == {4: 2.0}
        assert removed_amounts(penalties.dry(1.0, base=2.0, allowed_length=1), text) == {4: 8.0}

    def test_window(self):
        process = penalties.dry(1.0, base=2.0, allowed_length=2, window=6)
        assert removed_amounts(process, LONG) == {5: 1.0}

    def test_endless_repeat_stays_finite(self):
        text = torch.full((1, 700), 3)
        for base in (1.0, 1.0000001, 1.75, 10.0):
            found = penalties.dry(0.8, base=base, allowed_length=2)(text, torch.zeros(1, VOCAB))
            assert found.isfinite().all()
            assert found[0, 3] < 0
            assert found[0, :3].tolist() == [0.0, 0.0, 0.0]

    def test_growth_stops_where_float32_does(self):
        text = torch.full((1, 400), 3)
        found = penalties.dry(1.0, base=1.75, allowed_length=2)(text, torch.zeros(1, VOCAB))
        highest = int(88.7228391 / math.log(1.75))
        assert -found[0, 3].item() == pytest.approx(1.75**highest, rel=1e-4)

    @pytest.mark.slow
    @property_test
    @given(
        texts,
        st.integers(1, 4),
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=2),
        st.one_of(st.none(), st.integers(1, 25)),
    )
    def test_equals_its_definition(self, text, allowed_length, breakers, window):
        process = penalties.dry(
            0.5, base=2.0, allowed_length=allowed_length, breakers=breakers, window=window
        )
        expected = plain_dry(text, 0.5, 2.0, allowed_length, breakers, window)
        assert removed_amounts(process, text) == pytest.approx(expected)


class TestLogitBias:
    def test_by_hand(self):
        scores = torch.tensor([[0.0, 1.0, 2.0, -INF]])
        found = penalties.logit_bias({0: 5.0, 2: -100.0, 3: 7.0})(ids([0]), scores)
        assert found.tolist() == [[5.0, 1.0, -98.0, -INF]]

    def test_equals_transformers(self):
        process = pytest.importorskip(
            "transformers.generation.logits_process", reason="pair : Transformers absent"
        )
        scores = logits(4)
        expected = process.SequenceBiasLogitsProcessor([[[3], 1.5], [[7], -2.25]])(
            ids(*[[0]] * 4), scores
        )
        assert torch.equal(
            penalties.logit_bias({3: 1.5, 7: -2.25})(ids(*[[0]] * 4), scores), expected
        )

    def test_extremes_stay_finite(self):
        found = penalties.logit_bias({0: 1e300, 1: -1e300, 2: 1e300})(
            ids([0]), torch.tensor([[1.0, 1.0, -INF]])
        )
        assert found.isfinite().tolist() == [[True, True, False]]


PENALTIES = {
    "repetition_penalty": lambda **o: penalties.repetition_penalty(1.7, **o),
    "presence_penalty": lambda **o: penalties.presence_penalty(0.7, **o),
    "frequency_penalty": lambda **o: penalties.frequency_penalty(0.3, **o),
    "dry": lambda **o: penalties.dry(0.8, base=1.75, allowed_length=1, breakers=[[9]], **o),
    "logit_bias": lambda **o: penalties.logit_bias({2: -1.0}),
}


@pytest.mark.parametrize("name", PENALTIES)
class TestEveryPenalty:
    ROWS = ([1, 2, 1, 2, 3, 1, 2], [4], [3, 3, 3, 3, 3], [9, 1, 9, 1])

    @pytest.mark.parametrize("window", [None, 1, 3, 50])
    def test_rows_of_various_lengths(self, name, window):
        """Le −1 de gauche ne compte pas : chaque ligne est comme seule."""
        process = PENALTIES[name](window=window)
        scores = logits(len(self.ROWS))
        found = process(ids(*self.ROWS), scores)
        for row, text in enumerate(self.ROWS):
            alone = process(ids(text), scores[row : row + 1])
            assert torch.equal(found[row : row + 1], alone)

    def test_removed_tokens_stay_removed_and_others_stay(self, name):
        scores = logits(len(self.ROWS))
        scores[:, 1::2] = -INF
        found = PENALTIES[name]()(ids(*self.ROWS), scores)
        assert torch.equal(found == -INF, scores == -INF)
        assert not found.isnan().any()

    def test_no_logit_is_raised(self, name):
        scores = logits(len(self.ROWS))
        assert (PENALTIES[name]()(ids(*self.ROWS), scores) <= scores).all()

    def test_inputs_are_left_unchanged(self, name):
        text, scores = ids(*self.ROWS), logits(len(self.ROWS))
        before = text.clone(), scores.clone()
        PENALTIES[name]()(text, scores)
        assert torch.equal(text, before[0])
        assert torch.equal(scores, before[1])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_floating_types(self, name, dtype):
        found = PENALTIES[name]()(ids(*self.ROWS), logits(len(self.ROWS)).to(dtype))
        assert found.dtype == dtype
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: penalties.repetition_penalty(0), "repetition_penalty vaut 0"),
        (lambda: penalties.repetition_penalty(1.1, window=0), "penalty_window vaut 0"),
        (lambda: penalties.presence_penalty(INF), "presence_penalty vaut inf"),
        (lambda: penalties.presence_penalty(1, prompt_length=-1), "prompt_length vaut -1"),
        (lambda: penalties.frequency_penalty(float("nan")), "frequency_penalty vaut nan"),
        (lambda: penalties.dry(-1, base=2, allowed_length=1), "dry_multiplier vaut -1"),
        (lambda: penalties.dry(1, base=0.5, allowed_length=1), "dry_base vaut 0.5"),
        (lambda: penalties.dry(1, base=2, allowed_length=0), "dry_allowed_length vaut 0"),
        (lambda: penalties.dry(1, base=2, allowed_length=1, window=0), "dry_range vaut 0"),
        (lambda: penalties.dry(1, base=2, allowed_length=1, breakers=[[]]), "suite vide"),
        (lambda: penalties.logit_bias({-1: 1.0}), "logit_bias vaut -1"),
        (lambda: penalties.logit_bias({1: INF}), r"logit_bias\[1\] vaut inf"),
    ],
)
def test_bad_values_are_refused_at_once(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
