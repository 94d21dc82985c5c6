"""Filtres de la distribution : calculs à la main, Transformers, et propriétés communes."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.decoding import processors
from gpt_architecture.errors import ConfigurationError

INF = float("inf")
NO_TEXT = torch.empty(1, 0, dtype=torch.int64)
property_test = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
rows = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(-60, 60, width=32),
        st.sampled_from([-INF, -3e38, 3e38, 0.0]),
    ),
    min_size=1,
    max_size=20,
).filter(lambda values: max(values) > -INF)


def log(*probabilities):
    """Logits (1, V) dont le softmax est `probabilities`."""
    return torch.tensor([[math.log(p) if p > 0 else -INF for p in probabilities]])


def kept(logits):
    return (logits[0] > -INF).nonzero().flatten().tolist()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(kind, vocab_size=300):
    """Un lot de logits : ordinaires, plats, piqués, avec des égalités, déjà filtrés."""
    logits = torch.randn(12, vocab_size, generator=generator(3))
    if kind == "retirés":
        logits[torch.rand(logits.shape, generator=generator(4)) < 0.7] = -INF
        logits[:, 0] = 0.5
    scale = {"plats": 0.05, "piqués": 20.0}.get(kind, 3.0)
    return (logits * scale).round() if kind == "égalités" else logits * scale


KINDS = ["ordinaires", "plats", "piqués", "égalités", "retirés"]


class TestByHand:
    @pytest.mark.parametrize(
        ("ratio", "expected"), [(0, 4), (0.09, 4), (0.29, 3), (0.9, 1), (1, 1)]
    )
    def test_min_p(self, ratio, expected):
        found = processors.min_p(ratio)(NO_TEXT, log(0.5, 0.3, 0.15, 0.05))
        assert kept(found) == list(range(expected))

    @pytest.mark.parametrize(
        ("mass", "expected"),
        # H = 1,75 bit ; écarts en bits : 0,75, 0,25, 1,25, 1,25.
        [(0.2, [1]), (0.7, [0, 1]), (0.8, [0, 1, 2, 3]), (1, [0, 1, 2, 3])],
    )
    def test_typical_p(self, mass, expected):
        found = processors.typical_p(mass)(NO_TEXT, log(0.5, 0.25, 0.125, 0.125))
        assert kept(found) == expected

    @pytest.mark.parametrize(("epsilon", "expected"), [(0, 4), (0.1, 3), (0.2, 2), (0.9, 1)])
    def test_epsilon_cutoff(self, epsilon, expected):
        found = processors.epsilon_cutoff(epsilon)(NO_TEXT, log(0.5, 0.3, 0.15, 0.05))
        assert kept(found) == list(range(expected))

    @pytest.mark.parametrize(
        ("epsilon", "expected"),
        # H = 1,142 ; η = min(ε, √ε·0,319) : 0,3 → 0,175 ; 0,01 → 0,01 ; 0,9 → 0,303.
        [(0, 4), (0.01, 4), (0.3, 2), (0.9, 1)],
    )
    def test_eta_cutoff(self, epsilon, expected):
        found = processors.eta_cutoff(epsilon)(NO_TEXT, log(0.5, 0.3, 0.15, 0.05))
        assert kept(found) == list(range(expected))

    @pytest.mark.parametrize(
        ("n", "expected"),
        [(0.5, [4]), (2.3, [4]), (2.4, [1, 2, 3, 4])],  # σ = √3 parmi les présents
    )
    def test_top_n_sigma(self, n, expected):
        logits = torch.tensor([[-INF, 0.0, 0.0, 0.0, 4.0]])
        assert kept(processors.top_n_sigma(n)(NO_TEXT, logits)) == expected

    @pytest.mark.parametrize(
        ("threshold", "expected"),
        [(0.35, [0, 1, 2, 3]), (0.25, [1, 2, 3]), (0.15, [2, 3]), (0, [3]), (0.6, [0, 1, 2, 3])],
    )
    def test_xtc(self, threshold, expected):
        found = processors.xtc(1, threshold, generator())(NO_TEXT, log(0.4, 0.3, 0.2, 0.1))
        assert kept(found) == expected

    def test_xtc_keeps_one_of_equals(self):
        found = processors.xtc(1, 0.2, generator())(NO_TEXT, log(0.25, 0.25, 0.25, 0.25))
        assert kept(found) == [3]

    @pytest.mark.parametrize("value", [0.25, 1.0, 3])
    def test_temperature(self, value):
        logits = torch.randn(3, 7, generator=generator())
        found = processors.temperature(value)(NO_TEXT, logits)
        torch.testing.assert_close(found.softmax(-1), (logits / value).softmax(-1))

    def test_temperature_zero_keeps_the_best_alone(self):
        found = processors.temperature(0)(
            NO_TEXT, torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, -INF]])
        )
        assert found.tolist() == [[-INF, 3.0, -INF], [2.0, -INF, -INF]]

    def test_typical_may_remove_the_best(self):
        logits = log(0.4, *[0.01] * 60)
        assert 0 not in kept(processors.typical_p(0.5)(NO_TEXT, logits))


class TestXtcDraws:
    def test_share_of_rows(self):
        logits = log(0.4, 0.3, 0.2, 0.1).repeat(4000, 1)
        found = processors.xtc(0.25, 0.15, generator(1))(NO_TEXT, logits)
        share = (found[:, 0] == -INF).float().mean().item()
        assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))

    def test_never_and_always(self):
        logits = log(0.4, 0.3, 0.2, 0.1).repeat(200, 1)
        assert torch.equal(processors.xtc(0, 0.1, generator())(NO_TEXT, logits), logits)
        assert (processors.xtc(1, 0.1, generator())(NO_TEXT, logits)[:, 0] == -INF).all()

    def test_draws_do_not_depend_on_the_logits(self):
        """Un nombre par ligne et par pas : la suite des tirages est la même, utile ou non."""
        useful, useless = generator(5), generator(5)
        processors.xtc(0.5, 0.1, useful)(NO_TEXT, log(0.4, 0.3, 0.2, 0.1).repeat(3, 1))
        processors.xtc(0.5, 0.1, useless)(NO_TEXT, torch.tensor([[0.0, -INF, -INF]] * 3))
        assert torch.equal(useful.get_state(), useless.get_state())
        assert not torch.equal(useful.get_state(), generator(5).get_state())

    def test_same_seed_same_rows(self):
        logits = log(0.4, 0.3, 0.2, 0.1).repeat(50, 1)
        first, second = (processors.xtc(0.5, 0.1, generator(6))(NO_TEXT, logits) for _ in "ab")
        assert torch.equal(first, second)


FILTERS = {
    "temperature": lambda: processors.temperature(0.7),
    "temperature-0": lambda: processors.temperature(0),
    "top_k": lambda: processors.top_k(3),
    "top_p": lambda: processors.top_p(0.6),
    "min_p": lambda: processors.min_p(0.1),
    "typical_p": lambda: processors.typical_p(0.6),
    "epsilon_cutoff": lambda: processors.epsilon_cutoff(0.05),
    "eta_cutoff": lambda: processors.eta_cutoff(0.05),
    "top_n_sigma": lambda: processors.top_n_sigma(1.0),
    "xtc": lambda: processors.xtc(1.0, 0.1, generator()),
}
IDEMPOTENT = ["temperature-0", "top_k", "min_p", "epsilon_cutoff"]
each_filter = pytest.mark.parametrize("name", FILTERS)


@each_filter
class TestEveryFilter:
    @pytest.mark.slow
    @property_test
    @given(rows)
    def test_at_least_one_token_and_no_nan(self, name, values):
        logits = torch.tensor([values])
        found = FILTERS[name]()(NO_TEXT, logits)
        assert not found.isnan().any()
        assert kept(found)
        assert set(kept(found)) <= set(kept(logits))
        assert found.max() < INF
        assert not found.softmax(-1).isnan().any()
        if name != "temperature":  # les autres retirent, sans rien déplacer
            assert torch.equal(found[0, kept(found)], logits[0, kept(found)])

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_are_independent(self, name, kind):
        logits = batch(kind)
        found = FILTERS[name]()(NO_TEXT, logits)
        for row in range(len(logits)):
            alone = FILTERS[name]()(NO_TEXT, logits[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], alone)

    def test_input_is_left_unchanged(self, name):
        logits = batch("égalités")
        original = logits.clone()
        FILTERS[name]()(NO_TEXT, logits)
        assert torch.equal(logits, original)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_floating_types(self, name, dtype):
        logits = batch("ordinaires").to(dtype)
        found = FILTERS[name]()(NO_TEXT, logits)
        assert found.dtype == dtype
        assert not found.isnan().any()
        assert (found > -INF).any(dim=-1).all()

    def test_non_contiguous(self, name):
        logits = batch("ordinaires").T.contiguous().T
        torch.testing.assert_close(
            FILTERS[name]()(NO_TEXT, logits), FILTERS[name]()(NO_TEXT, logits.contiguous())
        )


@pytest.mark.parametrize("name", IDEMPOTENT)
@pytest.mark.parametrize("kind", KINDS)
def test_idempotent(name, kind):
    once = FILTERS[name]()(NO_TEXT, batch(kind))
    assert torch.equal(FILTERS[name]()(NO_TEXT, once), once)


def test_temperature_then_top_n_sigma_commute():
    """Le filtre suit l'échelle des logits (Tang et al., 2024)."""
    logits = batch("ordinaires")
    sigma, heat = processors.top_n_sigma(1.5), processors.temperature(2.0)
    before = heat(NO_TEXT, sigma(NO_TEXT, logits)) > -INF
    after = sigma(NO_TEXT, heat(NO_TEXT, logits)) > -INF
    assert torch.equal(before, after)


class TestAgainstTransformers:
    @pytest.fixture
    def warpers(self):
        return pytest.importorskip(
            "transformers.generation.logits_process", reason="pair : Transformers absent"
        )

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [0.02, 0.2, 0.7, 1.0])
    def test_min_p(self, warpers, kind, value):
        logits = batch(kind)
        expected = warpers.MinPLogitsWarper(min_p=value)(None, logits)
        assert torch.equal(processors.min_p(value)(NO_TEXT, logits), expected)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [0.05, 0.2, 0.7, 0.95])
    def test_typical_p(self, warpers, kind, value):
        logits = batch(kind)
        expected = warpers.TypicalLogitsWarper(mass=value)(None, logits)
        assert torch.equal(processors.typical_p(value)(NO_TEXT, logits), expected)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [3e-4, 0.02, 0.3, 0.95])
    def test_epsilon_cutoff(self, warpers, kind, value):
        logits = batch(kind)
        expected = warpers.EpsilonLogitsWarper(epsilon=value)(None, logits)
        assert torch.equal(processors.epsilon_cutoff(value)(NO_TEXT, logits), expected)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [3e-4, 0.02, 0.3, 0.95])
    def test_eta_cutoff(self, warpers, kind, value):
        logits = batch(kind)
        expected = warpers.EtaLogitsWarper(epsilon=value)(None, logits)
        assert torch.equal(processors.eta_cutoff(value)(NO_TEXT, logits), expected)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [0.1, 1.0, 5.0])
    def test_temperature(self, warpers, kind, value):
        logits = batch(kind)
        expected = warpers.TemperatureLogitsWarper(value)(None, logits)
        found = processors.temperature(value)(NO_TEXT, logits)
        torch.testing.assert_close(found.softmax(-1), expected.softmax(-1))
        assert torch.equal(found > -INF, expected > -INF)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("k", [1, 7, 299, 300, 5000])
    def test_top_k(self, warpers, kind, k):
        """À égalité sur la dernière place, Transformers garde tout le monde ; ici, k exactement."""
        logits = batch(kind)
        expected = warpers.TopKLogitsWarper(top_k=k)(None, logits)
        found = processors.top_k(k)(NO_TEXT, logits)
        assert (found[found > -INF] == expected[found > -INF]).all()
        present = (logits > -INF).sum(-1)
        assert ((found > -INF).sum(-1) == present.clamp(max=k)).all()
        if kind != "égalités":
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("p", [0.0, 0.05, 0.37, 0.9, 0.999])
    def test_top_p(self, warpers, kind, p):
        """Parmi des tokens égaux, l'ordre de Transformers est celui de son tri : non défini."""
        logits = batch(kind)
        expected = warpers.TopPLogitsWarper(top_p=p)(None, logits)
        found = processors.top_p(p)(NO_TEXT, logits)
        assert torch.equal(found.sort(-1).values, expected.sort(-1).values)
        if kind != "égalités":
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("build", "name", "bad"),
    [
        (processors.temperature, "temperature", [-1, float("nan"), INF, "1", True]),
        (processors.top_k, "k", [0, -1, 2.5, True]),
        (processors.top_p, "p", [-0.1, 1.1, float("nan")]),
        (processors.min_p, "min_p", [-0.1, 1.1, float("nan")]),
        (processors.typical_p, "typical_p", [0, -0.1, 1.1]),
        (processors.epsilon_cutoff, "epsilon_cutoff", [-0.1, 1.0]),
        (processors.eta_cutoff, "eta_cutoff", [-0.1, 1.0]),
        (processors.top_n_sigma, "top_n_sigma", [0, -1, INF]),
        (lambda v: processors.xtc(v, 0.1, generator()), "xtc_probability", [-0.1, 1.1]),
        (lambda v: processors.xtc(0.1, v, generator()), "xtc_threshold", [-0.1, 1.1]),
    ],
)
def test_bad_values_are_refused_at_once(build, name, bad):
    for value in bad:
        with pytest.raises(ConfigurationError, match=f"{name} vaut"):
            build(value)
