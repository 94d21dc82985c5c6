"""La barre d'un entraînement : ce qu'elle dit du temps qui reste, et quand elle s'en tait."""

import pytest

from gpt_architecture.reports import training
from gpt_architecture.reports.training import TrainingBar
from gpt_architecture.training.callbacks import StepRecord
from gpt_architecture.training.checkpoint import TrainingState


class FakeBar:
    """Garde ce qui lui est dit."""

    def __init__(self):
        self.said = []

    def start(self, total, done):
        self.said.append((done, total))

    def update(self, done, pace):
        self.said.append(pace)


def advanced(monkeypatch, seconds, *, first=0, total=100):
    """La barre, et ce qu'elle a dit après des étapes de ces durées (100 tokens chacune)."""
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    bar = TrainingBar(FakeBar(), flops_per_token=1, peak_flops=1.0)
    bar.on_start(TrainingState(step=first), total)
    for step, each in enumerate(seconds, start=first):
        now[0] += each
        bar.on_step(
            StepRecord(
                step=step,
                epoch=1,
                loss=2.0,
                lr=1e-3,
                grad_norm=None,
                tokens=100,
                seconds=each,
                skipped=False,
            )
        )
    return bar, bar.bar.said[1:]


def test_compilation_is_left_out_of_the_time_left(monkeypatch):
    """Trente secondes de compilation, puis dix étapes par seconde."""
    bar, said = advanced(monkeypatch, [30.0, 2.0, *[0.1] * 8])
    assert bar.pace() == "1 000 tokens/s, reste 9 s"
    assert said[-1].startswith("1 000 tokens/s, reste 9 s, perte 2,000")


@pytest.mark.parametrize("first", [0, 40])
def test_nothing_is_said_before_a_few_steps(monkeypatch, first):
    _, said = advanced(monkeypatch, [9.0, *[0.5] * 4], first=first)
    assert [each.startswith("perte") for each in said] == [True] * 4 + [False]
    assert said[-1].startswith("200 tokens/s, reste ")


def test_evaluations_count_in_the_time_left(monkeypatch):
    """Une étape sur quatre est suivie d'une évaluation d'une seconde : le débit la compte."""
    bar, _ = advanced(monkeypatch, [5.0, 1.0, *[0.1, 0.1, 0.1, 1.1] * 5], total=42)
    assert bar.pace() == "286 tokens/s, reste 7 s"
