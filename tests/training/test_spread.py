"""Les points de reprise étalés : lesquels restent, et ce que coûte alors un oubli."""

import pytest
import torch
from conftest import ROOT

from gpt_architecture.config import CheckpointConfig
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.outputs import checkpoints_kept
from gpt_architecture.training.spread import Spread, expected_redo


def test_the_last_stays_and_the_others_thin_out_with_age():
    kept = Spread(count=6, total=1000, first_epoch=1000).saved(10)
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert kept[-1] == 1000
    assert len(kept) == 6
    assert gaps[0] == max(gaps)
    assert gaps[-1] == 10


def test_after_the_first_epoch_only_the_last_is_of_use():
    kept = Spread(count=5, total=1000, first_epoch=200).saved(10)
    assert kept[-1] == 1000
    assert all(each <= 200 for each in kept[:-1])
    assert len(kept) == 5


def test_fewer_points_than_room_all_stay():
    assert Spread(count=9, total=50, first_epoch=50).saved(10) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_expected_cost_is_that_of_every_first_reading(epochs, count):
    """L'oracle : chaque étape de la première époque, à tour de rôle la première à lire."""
    total, first = 120, 120 // epochs
    kept = Spread(count=count, total=total, first_epoch=first).saved(10)
    costs = [total - max(k for k in (0, *kept) if k <= step) for step in range(first)]
    expected = sum(costs) / len(costs) / total
    assert expected_redo(kept, total=total, first_epoch=first) == pytest.approx(expected)
    assert expected_redo([], total=total, first_epoch=first) == pytest.approx(1.0)


def test_several_windows_are_read_sooner():
    """L'oracle : toutes les paires d'étapes, et la plus précoce des deux."""
    total, first, kept = 60, 20, [4, 9, 15]
    pairs = [min(a, b) for a in range(first) for b in range(first)]
    costs = [total - max(k for k in (0, *kept) if k <= step) for step in pairs]
    found = expected_redo(kept, total=total, first_epoch=first, windows=2)
    assert found == pytest.approx(sum(costs) / len(costs) / total)
    assert found > expected_redo(kept, total=total, first_epoch=first)


def test_the_page_shows_these_costs():
    """Le tableau de la page est celui que ces fonctions calculent."""
    page = (ROOT / "docs/production/oublier.md").read_text(encoding="utf-8")
    for epochs, windows in [(1, 1), (1, 4), (1, 16), (2, 1), (3, 1), (5, 1), (10, 1)]:
        total, first = 1000 * epochs, 1000
        kept = [
            [total - 10, total],
            *(Spread(count=n, total=total, first_epoch=first).saved(10) for n in (4, 8, 16, 32)),
            range(10, total + 1, 10),
        ]
        costs = [
            expected_redo(each, total=total, first_epoch=first, windows=windows) for each in kept
        ]
        shown = " | ".join(f"{round(100 * cost)} %" for cost in costs)
        assert f"| {epochs} | {windows} | {shown} |" in page


def test_more_points_cost_less():
    costs = [
        expected_redo(
            Spread(count=count, total=400, first_epoch=400).saved(5), total=400, first_epoch=400
        )
        for count in (2, 4, 8, 16, 32)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.55 < costs[0]


def test_the_store_keeps_those(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    store.spread = Spread(count=3, total=40, first_epoch=40)
    for step in range(5, 41, 5):
        store.save(step, {"model": {"a": torch.ones(1)}}, {})
    assert store.steps() == store.spread.saved(5)


def test_the_two_ways_to_keep_exclude_each_other():
    with pytest.raises(ConfigurationError, match="keep_spread` et `keep` sont donnés ensemble"):
        CheckpointConfig(keep_spread=4, keep=9)
    with pytest.raises(ConfigurationError, match="keep_spread"):
        CheckpointConfig(keep_spread=1)
    assert checkpoints_kept(CheckpointConfig(keep_spread=7, save_best=True)) == 8
