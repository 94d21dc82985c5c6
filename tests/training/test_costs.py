"""Le coût d'une étape : retrouvé quand il est vrai, jamais négatif."""

import math

import numpy as np
import pytest

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import DataError
from gpt_architecture.training.costs import ADAMW_BYTES, NEWTON_STEPS, StepCost, StepWork, fit_cost
from gpt_architecture.training.preparation import flops_per_token

TRUE = StepCost(rates=(2e-11, 5e-11, 1e-10, 3e-3), error=0.0)


def work(width, layers, sequences=8, window=64):
    config = GPTConfig(
        vocab_size=1024, context_length=window, emb_dim=width, n_heads=2, n_layers=layers
    )
    return StepWork.of(config, window=window, sequences=sequences)


SHAPES = [
    *(work(32, 1), work(64, 2), work(128, 2), work(128, 4), work(256, 2)),
    *(work(64, 2, 32), work(128, 4, 2)),
]


def test_the_work_of_a_step():
    config = GPTConfig(vocab_size=1024, context_length=64, emb_dim=32, n_heads=2, n_layers=1)
    found = StepWork.of(config, window=64, sequences=8)
    assert found.operations == 8 * 64 * flops_per_token(config, 64)
    assert found.octets == ADAMW_BYTES * config.num_parameters()
    square = 2 * 32**2 * 32 + 2 * 32**3 + 2 * 32**2 * 32  # X Xᵀ, son carré, le produit par X
    wide = 2 * 32**2 * 128 + 2 * 32**3 + 2 * 32**2 * 128
    assert found.update == NEWTON_STEPS * (4 * square + 2 * wide)


def test_the_true_cost_is_found_back():
    found = fit_cost([(each, TRUE.seconds(each)) for each in SHAPES])
    assert found.rates == pytest.approx(TRUE.rates)
    assert found.error < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_three_percent_keeps_the_prediction_within_ten(seed):
    """À quatre fois la largeur mesurée la plus grande."""
    generator = np.random.default_rng(seed)
    measured = [(e, TRUE.seconds(e) * (1 + 0.03 * generator.uniform(-1, 1))) for e in SHAPES]
    found, big = fit_cost(measured), work(1024, 2)
    assert found.seconds(big) == pytest.approx(TRUE.seconds(big), rel=0.1)
    assert found.error < 0.06


def test_no_term_is_negative():
    """Des frais qui n'existent pas, mesurés avec du bruit, ne deviennent pas du temps rendu."""
    generator = np.random.default_rng(1)
    measured = [(e, 2e-11 * e.operations * generator.uniform(0.9, 1.1)) for e in SHAPES]
    found = fit_cost(measured)
    assert min(found.rates) >= 0
    assert found.seconds(SHAPES[0]) > 0


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_time_is_refused(seconds):
    measured = [(each, TRUE.seconds(each)) for each in SHAPES]
    with pytest.raises(DataError, match="strictement positives"):
        fit_cost([*measured, (SHAPES[0], seconds)])


def test_too_few_shapes_are_refused():
    measured = [(each, TRUE.seconds(each)) for each in SHAPES[:2]] * 3
    with pytest.raises(DataError, match="de 2 formes"):
        fit_cost(measured)
