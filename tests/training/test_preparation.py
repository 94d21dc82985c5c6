"""L'estimation : ce qui reste, et la part de la machine."""

import pytest
import torch
from test_trainer import Run

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.training.checkpoint import TrainingState
from gpt_architecture.training.preparation import (
    Estimate,
    estimate_training,
    flops_per_token,
    measure_peak_flops,
    peak_memory,
)


def test_the_total_is_the_sum_of_the_parts():
    found = Estimate(
        steps=10,
        evaluations=3,
        samples=2,
        step_seconds=2.0,
        evaluation_seconds=5.0,
        sample_seconds=1.0,
        tokens_per_second=100.0,
        peak_bytes=1,
    )
    assert found.seconds == 37.0


@pytest.mark.parametrize(
    ("frequency", "done", "evaluations"), [(3, 0, 4), (3, 5, 2), (3, 6, 2), (3, 7, 1), (4, 0, 4)]
)
def test_counts_what_is_left(frequency, done, evaluations):
    """Dix étapes, une évaluation après les étapes 0, 3, 6 et 9 ; ou 0, 4, 8, et la dernière."""
    calls = []
    run = Run(
        steps=10,
        eval_freq=frequency,
        evaluate=lambda _stop: calls.append("evaluate") or (1.0, 1.0),
        sample=lambda _stop: calls.append("sample") or "texte",
        state=TrainingState(step=done),
    )
    found = estimate_training(run.trainer)
    assert (found.steps, found.evaluations) == (10 - done, evaluations)
    assert calls == ["evaluate", "sample"]
    assert found.step_seconds > 0
    assert found.peak_bytes == peak_memory(torch.device("cpu")) > 1 << 20


def test_flops_are_six_per_weight_of_a_matrix():
    """Sans attention, six fois les poids des produits de matrices."""
    config = GPTConfig(vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2)
    model = GPTModel(config)
    matrices = sum(
        p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "emb" not in name
    )
    assert flops_per_token(config, 0) == 6 * matrices
    assert flops_per_token(config, 10) - flops_per_token(config, 0) == 6 * 2 * 10 * 24


def test_the_machine_is_measured():
    assert measure_peak_flops(torch.device("cpu")) > 1e7
