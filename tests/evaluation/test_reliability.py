"""Calibration contre une boucle naïve, fidélité d'un modèle approché : pertes, accord, bords."""

import math

import pytest
import torch
from decoding_helpers import sharp_model
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.evaluation.reliability import calibrate, compare_models

IDS = torch.randint(0, 32, (60,), generator=torch.Generator().manual_seed(0))


def naive(model, ids, window, bins):
    """(confiance, exact) de chaque position, puis l'ECE par tranches."""
    seen, nll = [], 0.0
    for start in range(0, len(ids) - 1, window):
        stop = min(start + window, len(ids) - 1)
        with torch.no_grad():
            probabilities = torch.softmax(model(ids[start:stop].unsqueeze(0))[0], -1)
        for row, target in zip(probabilities, ids[start + 1 : stop + 1], strict=True):
            seen.append((float(row.max()), int(row.argmax()) == int(target)))
            nll -= math.log(float(row[target]))
    error = 0.0
    for place in range(bins):
        inside = [s for s in seen if place / bins < s[0] <= (place + 1) / bins]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            error += len(inside) * abs(confidence - accuracy) / len(seen)
    return error, nll / len(seen), len(seen)


@pytest.mark.parametrize(("window", "bins"), [(24, 10), (7, 4), (1, 1)])
def test_figures_are_those_of_a_loop(window, bins):
    model = sharp_model()
    found = calibrate(model, IDS, window=window, bins=bins)
    error, nll, tokens = naive(model, IDS, window, bins)
    assert found.error == pytest.approx(error, abs=1e-6)
    assert found.nll == pytest.approx(nll, abs=1e-5)
    assert found.tokens == tokens == sum(each.count for each in found.bins)


class Confident:
    """Donne au token 0 la même probabilité partout."""

    cfg = GPTConfig(vocab_size=4, context_length=16, emb_dim=1, n_heads=1, n_layers=1)

    def __init__(self, probability):
        rest = (1 - probability) / 3
        self._logits = torch.tensor([probability, rest, rest, rest]).log()

    def __call__(self, in_idx, cache=None, *, at=None):
        return self._logits.expand(*in_idx.shape, 4)

    @property
    def device(self):
        return torch.device("cpu")

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def test_a_calibrated_model_and_a_boaster():
    ids = torch.tensor([0, *[0, 0, 0, 1] * 8])  # le token 0 trois fois sur quatre
    honest = calibrate(Confident(0.75), ids, window=16)
    boaster = calibrate(Confident(0.99), ids, window=16)
    assert honest.error == pytest.approx(0.0, abs=1e-6)
    assert boaster.error == pytest.approx(0.24, abs=1e-6)
    assert honest.accuracy == boaster.accuracy == 0.75
    assert boaster.confidence == pytest.approx(0.99)
    assert [each.count for each in honest.bins] == [0] * 7 + [32] + [0] * 2


def test_bad_arguments():
    with pytest.raises(DataError, match="deux tokens"):
        calibrate(sharp_model(), IDS[:1], window=4)
    with pytest.raises(ConfigurationError, match="window"):
        calibrate(sharp_model(), IDS, window=99)
    with pytest.raises(ConfigurationError, match="bins"):
        calibrate(sharp_model(), IDS, window=4, bins=0)


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
