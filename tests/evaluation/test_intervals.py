"""Intervalles de confiance : valeurs connues, couverture, bords."""

import numpy as np
import pytest

from gpt_architecture.evaluation.intervals import bootstrap_interval, wilson_interval


def test_wilson_known_values():
    """8 sur 10 : [0,490 ; 0,943] (Newcombe, 1998) ; jamais hors de [0, 1]."""
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0


def test_bootstrap_is_close_to_the_normal_interval():
    """Beaucoup d'unités de même taille : moyenne ± 1,96 erreur type."""
    values = np.random.default_rng(1).normal(3.0, 0.5, size=900)
    low, high = bootstrap_interval(values.tolist(), [1.0] * 900)
    error = 1.96 * values.std(ddof=1) / 30
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_bootstrap_covers_the_truth():
    """Sur 100 échantillons de rapports, l'intervalle contient le vrai rapport 9 fois sur 10."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        weights = generator.integers(1, 100, size=60)
        totals = generator.normal(2.0 * weights, weights**0.5)
        low, high = bootstrap_interval(totals.tolist(), weights.tolist())
        covered += low <= 2.0 <= high
    assert covered >= 88


def test_many_units_are_grouped():
    """10 000 unités : la largeur reste celle de l'erreur type."""
    values = np.random.default_rng(4).normal(0.0, 1.0, size=10_000)
    low, high = bootstrap_interval(values.tolist(), [1.0] * 10_000)
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.15)


def test_the_same_every_time():
    assert bootstrap_interval([1.0, 2.0], [1.0, 1.0]) == bootstrap_interval([1.0, 2.0], [1.0, 1.0])


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_unit_says_nothing(values):
    assert bootstrap_interval(values, [1.0] * len(values)) is None
