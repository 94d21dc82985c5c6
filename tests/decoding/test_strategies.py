"""Stratégies de décodage : distributions calculées à la main et oracles lents."""

import inspect
import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.decoding import strategies
from gpt_architecture.decoding.strategies import greedy, softmax_avec_temperature, top_k, top_p
from gpt_architecture.errors import ConfigurationError

INF = float("inf")
property_test = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Des entiers pour les égalités, des flottants pour le reste.
logits_lists = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20, width=32)), min_size=1, max_size=12
)


def log(*probabilities):
    """Logits dont le softmax est `probabilities`."""
    return torch.tensor([math.log(p) if p > 0 else -INF for p in probabilities])


def kept(logits):
    """Identifiants qu'un filtre a gardés, pour une ligne."""
    return torch.isfinite(logits).nonzero().flatten().tolist()


def by_rank(values):
    """Identifiants du plus grand logit au plus petit ; à égalité, dans l'ordre."""
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


def probabilities_of(values):
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / math.fsum(exponentials) for value in exponentials]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (greedy, ["logits"]),
        (softmax_avec_temperature, ["logits", "temperature"]),
        (top_k, ["logits", "k"]),
        (top_p, ["logits", "p"]),
    ],
)
def test_frozen_signatures(function, names):
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters] == names
    assert all(p.default is p.empty for p in parameters)


class TestGreedy:
    def test_by_hand(self):
        assert greedy(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, -3.0]])).tolist() == [[1], [0]]

    def test_lowest_id_wins_a_tie(self):
        assert greedy(torch.tensor([0.0, 5.0, 5.0, 5.0])).tolist() == [1]

    @pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7)])
    def test_shapes_and_type(self, shape):
        token = greedy(torch.zeros(shape))
        assert token.shape == (*shape[:-1], 1)
        assert token.dtype == torch.int64


class TestTemperature:
    @pytest.mark.parametrize(
        ("temperature", "expected"),
        [
            (1.0, [0.2, 0.8]),
            (0.5, [1 / 17, 16 / 17]),  # rapport 4, au carré
            (2.0, [1 / 3, 2 / 3]),  # racine du rapport
            (2, [1 / 3, 2 / 3]),
        ],
    )
    def test_by_hand(self, temperature, expected):
        found = softmax_avec_temperature(log(0.2, 0.8), temperature)
        torch.testing.assert_close(found, torch.tensor(expected))

    def test_zero_is_argmax(self):
        logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, -INF]])
        found = softmax_avec_temperature(logits, 0)
        assert found.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
        assert found.dtype == logits.dtype

    @pytest.mark.parametrize("temperature", [1e-30, 1e-12, 1e-3])
    def test_tiny_is_finite_and_greedy(self, temperature):
        found = softmax_avec_temperature(torch.tensor([1e4, 5e4, -1e4]), temperature)
        assert found.tolist() == [0.0, 1.0, 0.0]

    @pytest.mark.parametrize("temperature", [1e-46, 1e-300, 5e-324])
    def test_tinier_than_float32_is_still_greedy(self, temperature):
        """Une température validée, mais nulle une fois en float32 : 0/0 serait NaN."""
        found = softmax_avec_temperature(torch.tensor([1.0, 3.0, 2.0]), temperature)
        assert found.tolist() == [0.0, 1.0, 0.0]

    @pytest.mark.parametrize("temperature", [1e12, 1e30, 1e300])
    def test_huge_is_uniform(self, temperature):
        found = softmax_avec_temperature(torch.tensor([1.0, 100.0, -100.0, 3.0]), temperature)
        torch.testing.assert_close(found, torch.full((4,), 0.25))

    @pytest.mark.parametrize("temperature", [0, 0.5, 1.0, 30.0, 1e30, 1e300])
    def test_removed_tokens_stay_removed(self, temperature):
        found = softmax_avec_temperature(torch.tensor([1.0, -INF, 1.5, -INF]), temperature)
        assert found[1] == found[3] == 0
        torch.testing.assert_close(found.sum(), torch.tensor(1.0))

    @pytest.mark.parametrize("temperature", [-1.0, -1e-9, float("nan"), INF, "1", None, True])
    def test_bad_temperature(self, temperature):
        with pytest.raises(ConfigurationError, match="temperature"):
            softmax_avec_temperature(torch.zeros(3), temperature)

    @pytest.mark.slow
    @property_test
    @given(logits_lists, st.floats(0.05, 20))
    def test_matches_plain_python(self, values, temperature):
        found = softmax_avec_temperature(torch.tensor(values), temperature)
        expected = probabilities_of([value / temperature for value in values])
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


class TestTopK:
    @pytest.mark.parametrize(
        ("k", "expected"),
        [(1, [3]), (2, [1, 3]), (3, [1, 3, 4]), (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4])],
    )
    def test_by_hand(self, k, expected):
        logits = torch.tensor([0.0, 3.0, -5.0, 4.0, 2.0])
        found = top_k(logits, k)
        assert kept(found) == expected
        assert torch.equal(found[expected], logits[expected])
        assert all(found[index] == -INF for index in range(5) if index not in expected)

    @pytest.mark.parametrize(
        ("logits", "k", "expected"),
        [
            ([1.0, 1.0, 1.0, 1.0], 2, [0, 1]),
            ([0.0, 2.0, 1.0, 1.0, 1.0], 3, [1, 2, 3]),
            ([1.0, 1.0, 5.0, 1.0], 1, [2]),
            ([5.0, 1.0, 5.0, 5.0], 2, [0, 2]),
        ],
    )
    def test_ties_keep_the_lowest_ids(self, logits, k, expected):
        assert kept(top_k(torch.tensor(logits), k)) == expected

    @pytest.mark.parametrize("k", [3, 4, 1000])
    def test_k_beyond_the_vocabulary_keeps_everything(self, k):
        logits = torch.tensor([1.0, 2.0, 3.0])
        assert torch.equal(top_k(logits, k), logits)

    def test_one_is_greedy(self):
        logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.isfinite(top_k(logits, 1)).nonzero()[:, 1:], greedy(logits))

    @pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
    def test_bad_k(self, k):
        with pytest.raises(ConfigurationError, match="k vaut"):
            top_k(torch.zeros(3), k)

    def test_already_removed_tokens_never_come_back(self):
        logits = torch.tensor([-INF, 1.0, -INF, 0.0])
        for k in (1, 2, 3, 4):
            assert kept(top_k(logits, k)) == [1, 3][: min(k, 2)]

    @property_test
    @given(logits_lists, st.integers(1, 14))
    def test_matches_a_slow_sort(self, values, k):
        assert kept(top_k(torch.tensor(values), k)) == sorted(by_rank(values)[:k])


class TestTopP:
    HALF_QUARTERS = (0.125, 0.5, 0.25, 0.125)

    @pytest.mark.parametrize(
        ("p", "expected"),
        [
            (0, [1]),
            (0.3, [1]),
            (0.49, [1]),
            (0.51, [1, 2]),
            (0.7, [1, 2]),  # le token qui franchit p est gardé
            (0.76, [0, 1, 2]),  # à égalité, le plus petit identifiant
            (0.88, [0, 1, 2, 3]),
            (1, [0, 1, 2, 3]),
        ],
    )
    def test_by_hand(self, p, expected):
        logits = log(*self.HALF_QUARTERS)
        found = top_p(logits, p)
        assert kept(found) == expected
        assert torch.equal(found[expected], logits[expected])

    @pytest.mark.parametrize("row", [[0.0, torch.inf], [-torch.inf, -torch.inf]])
    def test_infinite_logits_say_nothing(self, row):
        """Une soustraction d'infinis n'écrit pas d'avertissement, que ce soit NumPy ou PyTorch."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert top_p(torch.tensor(row), 0.5).shape == (2,)

    def test_mass_exactly_reached_is_enough(self):
        """Logits égaux : quatre quarts exacts ; p = 0,5 en garde deux, pas trois."""
        assert kept(top_p(torch.zeros(4), 0.5)) == [0, 1]
        assert kept(top_p(torch.zeros(4), 0.75)) == [0, 1, 2]

    @pytest.mark.parametrize("p", [1, 1.0])
    def test_one_changes_nothing(self, p):
        logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 10
        assert torch.equal(top_p(logits, p), logits)
        negligible = torch.tensor([0.0, 200.0, 1.0])  # des probabilités arrondies à 0
        assert torch.equal(top_p(negligible, p), negligible)

    def test_zero_is_greedy(self):
        logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
        assert torch.equal(torch.isfinite(top_p(logits, 0.0)).nonzero()[:, 1:], greedy(logits))

    def test_a_sure_token_is_kept_alone(self):
        assert kept(top_p(torch.tensor([0.0, 200.0, 1.0]), 0.999)) == [1]

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), INF, "0.9", True, None])
    def test_bad_p(self, p):
        with pytest.raises(ConfigurationError, match="p vaut"):
            top_p(torch.zeros(3), p)

    def test_already_removed_tokens_never_come_back(self):
        logits = torch.tensor([-INF, 1.0, -INF, 1.0])
        assert kept(top_p(logits, 0.4)) == [1]
        assert kept(top_p(logits, 0.6)) == kept(top_p(logits, 0.999999)) == [1, 3]

    @property_test
    @given(logits_lists, st.floats(0, 1))
    def test_kept_set_is_minimal_and_heavy_enough(self, values, p):
        found = kept(top_p(torch.tensor(values), p))
        ranks = by_rank(values)
        assert sorted(ranks[: len(found)]) == found  # les plus probables d'abord
        probabilities = probabilities_of(torch.tensor(values).tolist())
        masses = [probabilities[index] for index in ranks[: len(found)]]
        assert masses  # au moins un token
        assert math.fsum(masses) >= p - 1e-9
        if p == 1:  # rien n'est retiré, même de probabilité infime
            assert len(found) == len(values)
        else:
            assert len(masses) == 1 or math.fsum(masses[:-1]) < p + 1e-9


def full_sort_top_p(logits, p):
    """Le noyau par un tri de tout le vocabulaire."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = torch.softmax(ordered.double(), dim=-1)
    kept_in_order = probabilities.cumsum(dim=-1) - probabilities < p
    kept_in_order[..., 0] = True
    found = torch.zeros_like(kept_in_order).scatter(-1, order, kept_in_order)
    return logits.masked_fill(~found, -INF)


class TestHead:
    """Trier la tête seule donne le même résultat que trier tout le vocabulaire."""

    @pytest.mark.slow
    @pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.99, 0.9999])
    @pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
    @pytest.mark.parametrize("ties", [False, True])
    def test_whole_vocabulary(self, p, scale, ties):
        logits = torch.randn(3, 50257, generator=torch.Generator().manual_seed(0)) * scale
        logits[1, ::3] = -INF
        logits = (logits * 2).round() / 2 if ties else logits
        assert torch.equal(top_p(logits, p), full_sort_top_p(logits, p))

    @property_test
    @given(logits_lists, st.floats(0, 1 - 1e-12), st.integers(1, 12))  # plus près : un arrondi
    def test_any_head(self, monkeypatch, values, p, head):
        monkeypatch.setattr(strategies, "HEAD", head)
        logits = torch.tensor([values, values[::-1]])
        assert torch.equal(top_p(logits, p), full_sort_top_p(logits, p))

    def test_one_flat_row_is_enough_to_sort_more(self, monkeypatch):
        monkeypatch.setattr(strategies, "HEAD", 2)
        logits = torch.stack([log(0.97, 0.01, 0.01, 0.01), log(0.25, 0.25, 0.25, 0.25)])
        found = top_p(logits, 0.7)
        assert [kept(row) for row in found] == [[0], [0, 1, 2]]


FILTERS = [
    pytest.param(lambda x: softmax_avec_temperature(x, 0.7), id="temperature"),
    pytest.param(lambda x: softmax_avec_temperature(x, 0), id="temperature-0"),
    pytest.param(lambda x: top_k(x, 3), id="top_k"),
    pytest.param(lambda x: top_p(x, 0.6), id="top_p"),
    pytest.param(lambda x: top_p(x, 1.0), id="top_p-1"),
    pytest.param(greedy, id="greedy"),
]


@pytest.mark.parametrize("function", FILTERS)
class TestBatches:
    @pytest.fixture
    def logits(self):
        return torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(5))

    def test_rows_are_independent(self, function, logits):
        found = function(logits)  # (B, T, V)
        for row in range(2):
            for column in range(3):
                torch.testing.assert_close(
                    found[row, column], function(logits[row, column]), rtol=1e-6, atol=1e-7
                )

    def test_other_rows_do_not_matter(self, function, logits):
        changed = logits.clone()
        changed[1] = 100 * logits[1].flip(-1)
        assert torch.equal(function(changed)[0], function(logits)[0])

    def test_input_is_left_unchanged(self, function, logits):
        original = logits.clone()
        function(logits)
        assert torch.equal(logits, original)

    def test_non_contiguous_and_inference_tensors(self, function, logits):
        expected = function(logits.transpose(0, 1).contiguous())
        assert torch.equal(function(logits.transpose(0, 1)), expected)
        with torch.inference_mode():
            assert torch.equal(function(logits.transpose(0, 1)), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_floating_types(self, function, logits, dtype):
        found = function(logits.to(dtype))
        assert found.dtype in (dtype, torch.int64)
        assert not found.isnan().any()


class TestAgainstTransformers:
    """Mêmes tokens gardés que Transformers, sur des logits sans égalité."""

    @pytest.fixture
    def warpers(self):
        return pytest.importorskip(
            "transformers.generation.logits_process", reason="pair : Transformers absent"
        )

    @pytest.fixture
    def logits(self):
        logits = torch.randn(16, 300, generator=torch.Generator().manual_seed(2)) * 3
        assert all(row.unique().numel() == 300 for row in logits)
        return logits

    @pytest.mark.parametrize("k", [1, 2, 50, 300, 1000])
    def test_top_k(self, warpers, logits, k):
        assert torch.equal(top_k(logits, k), warpers.TopKLogitsWarper(top_k=k)(None, logits))

    @pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
    def test_top_p(self, warpers, logits, p):
        assert torch.equal(top_p(logits, p), warpers.TopPLogitsWarper(top_p=p)(None, logits))

    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
    def test_temperature(self, warpers, logits, temperature):
        scaled = warpers.TemperatureLogitsWarper(temperature)(None, logits)
        torch.testing.assert_close(
            softmax_avec_temperature(logits, temperature), scaled.softmax(dim=-1)
        )
