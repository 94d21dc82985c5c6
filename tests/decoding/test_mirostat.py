"""Mirostat v2 : un pas à la main, le pas de llama.cpp en Python, la cible à la longue."""

import math

import pytest
import torch

from gpt_architecture.decoding.strategies import Mirostat
from gpt_architecture.errors import ConfigurationError

INF = float("inf")


def log(*probabilities):
    return torch.tensor([math.log(p) if p > 0 else -INF for p in probabilities])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kept(logits):
    return (logits > -INF).nonzero().flatten().tolist()


def zipf(size, exponent=1.1):
    """Une distribution de mots : p(r) ∝ r^−s."""
    return -exponent * torch.arange(1, size + 1).log()


class TestTruncate:
    @pytest.mark.parametrize(
        ("tau", "expected"),  # surprises : 1, 2, 3, 3 bits ; μ = 2τ
        [(0.6, [0]), (1.05, [0, 1]), (1.6, [0, 1, 2, 3])],
    )
    def test_by_hand(self, tau, expected):
        assert kept(Mirostat(tau, 0.1).truncate(log(0.5, 0.25, 0.125, 0.125))) == expected

    def test_the_best_always_stays_alone_at_worst(self):
        assert kept(Mirostat(0.01, 0.1).truncate(torch.zeros(8))) == [0]

    def test_removed_tokens_stay_removed(self):
        assert kept(Mirostat(5.0, 0.1).truncate(log(0.5, 0.0, 0.5))) == [0, 2]

    def test_changes_neither_state_nor_input(self):
        state, logits = Mirostat(1.05, 0.1), log(0.5, 0.25, 0.125, 0.125)
        before = logits.clone()
        state.truncate(logits)
        assert state.mu == 2.1
        assert torch.equal(logits, before)


class TestChoose:
    def test_one_step_by_hand(self):
        state = Mirostat(1.05, 0.5, generator())
        token = state.choose(log(0.5, 0.25, 0.125, 0.125))
        surprise = {0: math.log2(3 / 2), 1: math.log2(3)}[token]  # 2/3 et 1/3 après le retrait
        assert state.mu == pytest.approx(2.1 - 0.5 * (surprise - 1.05), abs=1e-5)

    def test_steps_equal_plain_python(self):
        """Le pas de llama.cpp, rejoué sur les tokens tirés."""
        state, mu = Mirostat(3.0, 0.2, generator(1)), 6.0
        for step in range(60):
            logits = torch.randn(50, generator=generator(step)) * 2
            p = logits.double().softmax(-1)
            possible = [i for i in range(50) if -math.log2(p[i]) <= mu] or [int(p.argmax())]
            assert kept(state.truncate(logits)) == possible
            token = state.choose(logits)
            assert token in possible
            surprise = -math.log2(p[token] / sum(p[i] for i in possible))
            mu -= 0.2 * (surprise - 3.0)
            assert state.mu == pytest.approx(mu, abs=1e-3)
            mu = state.mu

    @pytest.mark.slow
    @pytest.mark.parametrize("tau", [1.5, 3.0, 5.0])
    def test_mean_surprise_reaches_the_target(self, tau):
        logits = zipf(2000)
        state = Mirostat(tau, 0.1, generator(2))
        total, steps = 0.0, 1500
        for _ in range(steps):
            kept_logits = state.truncate(logits)
            token = state.choose(logits)
            total -= float(kept_logits.log_softmax(-1)[token]) / math.log(2)
        assert total / steps == pytest.approx(tau, abs=0.1)

    def test_same_seed_same_tokens(self):
        first, second = Mirostat(3.0, 0.1, generator(3)), Mirostat(3.0, 0.1, generator(3))
        logits = zipf(100)
        assert [first.choose(logits) for _ in range(30)] == [
            second.choose(logits) for _ in range(30)
        ]

    def test_certain_token(self):
        state = Mirostat(2.0, 0.1)
        assert state.choose(torch.tensor([-INF, 4.0, -INF])) == 1
        assert state.mu == pytest.approx(4.2)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), INF, "3", True])
def test_bad_values(bad):
    with pytest.raises(ConfigurationError, match="mirostat_tau vaut"):
        Mirostat(bad, 0.1)
    with pytest.raises(ConfigurationError, match="mirostat_eta vaut"):
        Mirostat(3.0, bad)
