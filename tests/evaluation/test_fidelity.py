"""Fidélité d'un modèle approché : pertes, accord, bords."""

import math

import pytest
import torch
from torch.nn import functional as F

from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.evaluation.fidelity import compare_models


@pytest.fixture
def other_model(tiny_config):
    torch.manual_seed(1)
    return GPTModel(tiny_config).eval()


def test_a_model_against_itself(tiny_model):
    ids = torch.randint(61, (50,))
    found = compare_models(tiny_model, tiny_model, ids, window=16)
    assert found.tokens == 49
    assert found.agreement == 1.0
    assert found.relative_gap == 0.0
    assert found.reference_perplexity == found.candidate_perplexity


def test_losses_are_those_of_each_window(tiny_model, other_model):
    """Trois fenêtres, la dernière incomplète : le calcul à la main."""
    ids = torch.randint(61, (36,))
    steps = []
    found = compare_models(
        *(tiny_model, other_model, ids),
        window=15,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    totals, agreed = [0.0, 0.0], 0
    for part in (slice(0, 15), slice(15, 30), slice(30, 35)):
        with torch.no_grad():
            logits = [m(ids[part].unsqueeze(0))[0] for m in (tiny_model, other_model)]
        targets = ids[part.start + 1 : part.stop + 1]
        for i, each in enumerate(logits):
            totals[i] += F.cross_entropy(each, targets, reduction="sum").item()
        agreed += int((logits[0].argmax(-1) == logits[1].argmax(-1)).sum())
    assert found.reference_nll == pytest.approx(totals[0] / 35)
    assert found.candidate_nll == pytest.approx(totals[1] / 35)
    assert found.agreement == agreed / 35
    assert found.relative_gap == pytest.approx(math.exp((totals[1] - totals[0]) / 35) - 1)
    assert steps == [(15, 35), (30, 35), (35, 35)]


def test_modes_are_given_back(tiny_model, other_model):
    tiny_model.train()
    compare_models(tiny_model, other_model, torch.randint(61, (9,)), window=4)
    assert tiny_model.training
    assert not other_model.training


def test_too_short(tiny_model):
    with pytest.raises(DataError, match=r"1 token"):
        compare_models(tiny_model, tiny_model, torch.tensor([3]), window=4)


@pytest.mark.parametrize("window", [0, 17])
def test_window_is_bounded(tiny_model, window):
    with pytest.raises(ConfigurationError, match="window"):
        compare_models(tiny_model, tiny_model, torch.tensor([3, 4]), window=window)
