"""Les programmes du taux : valeurs calculées à la main."""

import math

import pytest

from gpt_architecture.config import ScheduleConfig
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.optim import make_schedule


def factors(total, **options):
    schedule = make_schedule(ScheduleConfig(**options), total)
    return [schedule(step) for step in range(total)]


def test_constant():
    assert factors(4) == [1.0] * 4


def test_warmup_rises_to_the_peak():
    assert factors(6, warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_linear_ends_at_the_floor():
    assert factors(5, schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert factors(5, schedule="linear", final_lr=0.2)[-1] == pytest.approx(0.2)


def test_cosine():
    values = factors(5, schedule="cosine", final_lr=0.1)
    by_hand = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert values == pytest.approx(by_hand)


def test_wsd_keeps_a_plateau():
    values = factors(11, schedule="wsd", warmup_steps=2, decay_fraction=0.5)
    assert values[:2] == pytest.approx([1 / 3, 2 / 3])
    assert values[2:6] == [1.0] * 4
    assert values[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_always_a_share(name, total):
    """Quel que soit le nombre d'étapes, y compris au-delà de la fin prévue."""
    schedule = make_schedule(ScheduleConfig(schedule=name, warmup_steps=2), total)
    assert all(0.0 <= schedule(step) <= 1.0 for step in range(total + 5))


@pytest.mark.parametrize(
    "options",
    [{"schedule": "autre"}, {"warmup_steps": -1}, {"final_lr": 2}, {"decay_fraction": 0}],
)
def test_bad_settings(options):
    with pytest.raises(ConfigurationError):
        ScheduleConfig(**options)
