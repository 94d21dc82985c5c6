"""La loi de perte : retrouvée quand elle est vraie, prudente quand elle extrapole."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gpt_architecture.errors import DataError
from gpt_architecture.training import scaling
from gpt_architecture.training.scaling import (
    REREADING,
    LossLaw,
    TrialRun,
    effective_tokens,
    fit_law,
)

TRUE = LossLaw(floor=2.0, size=60.0, data=120.0, alpha=0.34, beta=0.36)
SPOILT = LossLaw(**{**vars(TRUE), "excess": 0.02, "kappa": 0.4, "delta": 1.2})
UNIQUE = 2e6


def place(run):
    return run.parameters, run.tokens, run.unique


def runs(law=TRUE, noise=0.0, seed=0, unique=UNIQUE):
    generator = np.random.default_rng(seed)
    return [
        TrialRun(
            parameters=size,
            tokens=tokens,
            unique=unique,
            loss=law.loss(size, tokens, unique) * math.exp(noise * generator.normal()),
        )
        for size in (5e4, 2e5, 8e5)
        for tokens in (1e5, 4e5, 1.6e6)
    ]


YOUNG = LossLaw(floor=1.8, size=20.0, data=2000.0, alpha=0.34, beta=0.7)


def young_runs():
    """Trois tailles, de 60 à 640 étapes."""
    pairs = ((1.6e5, 1.3e5), (1.6e5, 2.7e5), (3.7e5, 1e5), (3.7e5, 2e5), (7e5, 3e5), (7e5, 6e5))
    return [
        TrialRun(parameters=n, tokens=d, unique=UNIQUE, loss=YOUNG.loss(n, d, UNIQUE))
        for n, d in pairs
    ]


class TestRereading:
    def test_a_text_read_once_counts_whole(self):
        assert effective_tokens(1000, 5000) == 1000
        assert effective_tokens(5000, 5000) == 5000

    def test_rereading_counts_less_and_less(self):
        """Jusqu'à quatre époques, presque autant ; jamais plus de 1 + R* fois."""
        values = [effective_tokens(epochs * 1000, 1000) / 1000 for epochs in (1, 2, 4, 16, 1000)]
        assert values == sorted(values)
        assert values[2] == pytest.approx(3.73, abs=0.01)
        assert values[3] < 11
        assert values[4] == pytest.approx(1 + REREADING)


class TestLaw:
    def test_by_hand(self):
        """Trois et quatre de part et d'autre : leur hypoténuse, et non leur somme."""
        law = LossLaw(floor=1.0, size=300.0, data=400.0, alpha=0.5, beta=0.5)
        assert law.loss(1e4, 1e4, 1e9) == pytest.approx(1.0 + 5.0)
        spoilt = replace(law, excess=0.1, kappa=2.0, delta=1.0)
        read = effective_tokens(1e4, 5e3)
        expected = 1.0 + math.hypot(3.0, 400.0 / read**0.5) + 0.1 * 2.0**2
        assert spoilt.loss(1e4, 1e4, 5e3) == pytest.approx(expected)

    def test_a_larger_size_gains_more_and_more(self):
        """À tokens égaux, l'écart de deux tailles croît ; une somme le garderait constant."""
        gaps = [TRUE.loss(1e5, d, 1e12) - TRUE.loss(1e6, d, 1e12) for d in (1e5, 1e6, 1e7)]
        assert 0 < 1.3 * gaps[0] < gaps[1]
        assert 1.2 * gaps[1] < gaps[2]


class TestFit:
    def test_the_true_law_is_found_back(self):
        fitted = fit_law(runs())
        for place in ((3e5, 8e5), (2e6, 1e7), (1e7, 1e7)):
            expected = TRUE.loss(*place, 1e9)
            found, low, high = fitted.expected(*place, 1e9)
            assert found == pytest.approx(expected, rel=0.01)
            assert low <= expected * 1.005 <= high * 1.01
        assert fitted.noise <= 0.01

    @pytest.mark.parametrize("seed", range(3))
    def test_noise_of_one_percent_costs_less_than_three(self, seed):
        """À huit fois la plus grande taille et le plus long essai."""
        fitted = fit_law(runs(noise=0.01, seed=seed))
        expected = TRUE.loss(6.4e6, 1.28e7, 1e9)
        found, low, high = fitted.expected(6.4e6, 1.28e7, 1e9)
        assert found == pytest.approx(expected, rel=0.06)
        assert low < expected < high

    def test_the_interval_opens_with_the_extrapolation(self):
        fitted = fit_law(runs(noise=0.01))
        widths = []
        for scale in (1, 10, 100):
            _, low, high = fitted.expected(8e5 * scale, 1.6e6 * scale, 1e12)
            widths.append(high - low)
        assert widths[0] < widths[1] < widths[2]

    def test_overfitting_is_found_back(self):
        """Des essais dont certains relisent leur texte disent ce que relire coûte."""
        found = fit_law([*runs(SPOILT), *runs(SPOILT, unique=1e5)])
        for unique in (1e5, 3e5):
            expected = SPOILT.loss(8e5, 1.6e6, unique)
            assert found.loss(8e5, 1.6e6, unique) == pytest.approx(expected, rel=0.02)
        assert SPOILT.loss(8e5, 3.2e6, 1e5) > SPOILT.loss(8e5, 8e5, 1e5)  # relire finit par nuire
        assert found.loss(8e5, 3.2e6, 1e5) > found.loss(8e5, 8e5, 1e5)

    def test_a_trial_is_trusted_where_it_was_made(self):
        """Au même endroit, l'essai l'emporte sur la loi ; loin de lui, il ne dit rien."""
        measured = runs(noise=0.03, seed=2)
        found = fit_law(measured)
        law = [abs(math.log(each.loss / found.law.loss(*place(each)))) for each in measured]
        near = [abs(math.log(each.loss / found.loss(*place(each)))) for each in measured]
        assert sum(near) < sum(law) / 2
        assert found.loss(1e12, 1e14, 1e15) == pytest.approx(found.law.loss(1e12, 1e14, 1e15))

    def test_a_few_young_trials_do_not_set_the_exponent(self):
        """De 60 à 640 étapes, une perte tombe plus vite qu'elle ne le fera : on penche ailleurs."""
        found = fit_law(young_runs())
        assert 0.15 < found.law.beta < 0.9 * YOUNG.beta
        assert found.loss(7e5, 3e6, 1e9) < YOUNG.loss(7e5, 3e6, 1e9)

    def test_the_interval_doubts_what_it_leans_on(self, monkeypatch):
        wide = fit_law(young_runs()).expected(7e5, 1e7, 1e9)
        monkeypatch.setattr(scaling, "_DOUBT", 0.0)
        narrow = fit_law(young_runs()).expected(7e5, 1e7, 1e9)
        assert wide[0] == narrow[0]
        assert wide[2] - wide[1] > 1.05 * (narrow[2] - narrow[1])

    def test_the_same_runs_give_the_same_law(self):
        assert fit_law(runs(noise=0.01)) == fit_law(runs(noise=0.01))


class TestRefusals:
    def test_too_few(self):
        with pytest.raises(DataError, match="5 essais, de 2 tailles et de 3 durées"):
            fit_law(runs()[:5])

    def test_of_one_size(self):
        alone = [each for each in runs() + runs(seed=1) if each.parameters == 5e4]
        with pytest.raises(DataError, match="de 1 tailles"):
            fit_law(alone)

    @pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
    def test_a_loss_that_is_none(self, loss):
        bad = TrialRun(parameters=1e5, tokens=1e5, unique=1e6, loss=loss)
        with pytest.raises(DataError, match="perte d'essai"):
            fit_law([*runs(), bad])
