"""Le moteur lisible, l'évaluateur et les exemples : perte, gradients, précision, interruptions."""

import shutil

import numpy as np
import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.sampler import make_batch
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.losses import LossEvaluator, evaluation_starts
from gpt_architecture.training.simple import generate_sample
from gpt_architecture.training.step import (
    AutogradEngine,
    Batch,
    TextSampler,
    checkpoint_activations_,
    has_bf16,
    resolve_precision,
)

CPU = torch.device("cpu")
SOURCE = TokenArray(np.random.default_rng(0).integers(0, 61, 100))


def model_of(drop_rate=0.0, n_layers=2):
    torch.manual_seed(0)
    return GPTModel(
        GPTConfig(
            vocab_size=31,
            context_length=8,
            emb_dim=12,
            n_heads=2,
            n_layers=n_layers,
            drop_rate=drop_rate,
        )
    )


def batch_of(seed=0):
    ids = torch.randint(31, (2, 7), generator=torch.Generator().manual_seed(seed))
    return Batch(inputs=ids[:, :-1], targets=ids[:, 1:], sequence_ids=torch.arange(2))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_scale_applies_to_the_gradient_not_to_the_loss():
    model, batch = model_of(), batch_of()
    engine = AutogradEngine(model, CPU)
    loss = engine.forward_backward(batch, scale=1.0)
    whole = gradients(model)
    model.zero_grad()
    half = engine.forward_backward(batch, scale=0.5)
    assert torch.equal(half, loss)
    assert not loss.requires_grad
    assert loss.item() == calc_loss_batch(batch.inputs, batch.targets, model, CPU).item()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name] / 2)


def test_gradients_add_up():
    model = model_of()
    engine = AutogradEngine(model, CPU)
    engine.forward_backward(batch_of(0), scale=0.5)
    first = gradients(model)
    engine.forward_backward(batch_of(1), scale=0.5)
    both = gradients(model)
    model.zero_grad()
    engine.forward_backward(batch_of(1), scale=0.5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(both[name] - first[name], gradient, atol=1e-7, rtol=1e-4)


def test_recomputed_activations_change_no_bit():
    """Dropout compris : les tirages sont rejoués."""
    results = []
    for recomputed in (False, True):
        model = model_of(drop_rate=0.3).train()
        if recomputed:
            checkpoint_activations_(model)
        torch.manual_seed(5)
        loss = AutogradEngine(model, CPU).forward_backward(batch_of(), scale=1.0)
        results.append((loss, gradients(model), torch.get_rng_state()))
    (loss, plain, rng), (other_loss, other, other_rng) = results
    assert torch.equal(loss, other_loss)
    assert torch.equal(rng, other_rng)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


@torch.no_grad()
def test_recomputed_model_still_writes():
    model = model_of().eval()
    ids = batch_of().inputs
    expected = model(ids)
    checkpoint_activations_(model)
    cache = model.new_cache(2)
    torch.testing.assert_close(model(ids, cache), expected)
    assert list(model.state_dict()) == list(model_of().state_dict())


def test_bf16_autocast_keeps_fp32_weights_and_gradients():
    model = model_of()
    loss = AutogradEngine(model, CPU, dtype=torch.bfloat16).forward_backward(batch_of(), scale=1.0)
    exact = calc_loss_batch(batch_of().inputs, batch_of().targets, model, CPU)
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    assert {g.dtype for g in gradients(model).values()} == {torch.float32}


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_precision_follows_the_hardware(monkeypatch, feature):
    monkeypatch.setattr("gpt_architecture.training.step.instructions", frozenset)
    assert resolve_precision("auto", CPU, fused=True) is None
    assert not has_bf16(CPU)
    with pytest.raises(ConfigurationError, match="`precision`"):
        resolve_precision("bf16", CPU, fused=True)
    monkeypatch.setattr("gpt_architecture.training.step.instructions", lambda: frozenset([feature]))
    assert has_bf16(CPU)
    for fused in (True, False):
        assert resolve_precision("bf16", CPU, fused=fused) is torch.bfloat16
        assert resolve_precision("fp32", CPU, fused=fused) is None
    assert resolve_precision("auto", CPU, fused=True) is torch.bfloat16
    by_autograd = torch.bfloat16 if feature == "amx_bf16" else None  # il arrondirait les logits
    assert resolve_precision("auto", CPU, fused=False) is by_autograd


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="inductor demande un compilateur C++"
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_step_is_the_plain_one(tmp_path, monkeypatch):
    """`torch.compile`, par inductor et le compilateur C++ : même perte, mêmes gradients."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # pas de processus à démarrer
    plain, compiled = model_of(n_layers=1), model_of(n_layers=1)
    expected = AutogradEngine(plain, CPU).forward_backward(batch_of(), scale=0.5)
    engine = AutogradEngine(compiled, CPU, compiled=True)
    found = engine.forward_backward(batch_of(), scale=0.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    others = gradients(compiled)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6)


# --- Ce que la boucle mesure : mêmes valeurs que la boucle simple, interruptible ---------------


class Letters:
    """Un tokenizer d'une lettre par token."""

    def encode(self, text, *, allowed_special=()):
        return [ord(letter) % 61 for letter in text]

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def evaluator(model, starts, batch_size=2):
    starts = np.array(starts)
    sets = [(SOURCE, starts), (SOURCE, starts[:1])]

    def loss(inputs, targets, document_starts=None):
        assert document_starts is None
        return calc_loss_batch(inputs, targets, model, CPU)

    return LossEvaluator(model, sets, window=8, batch_size=batch_size, loss=loss)


def test_the_mean_over_windows_last_partial_batch_included(tiny_model):
    train_loss, val_loss, by_source, measures = evaluator(tiny_model, [0, 8, 16])(lambda: False)
    assert by_source == measures == {}
    inputs, targets = make_batch(SOURCE, np.array([0, 8, 16]), 8)
    with torch.no_grad():
        expected = calc_loss_batch(inputs, targets, tiny_model, CPU).item()
        alone = calc_loss_batch(inputs[:1], targets[:1], tiny_model, CPU).item()
    assert train_loss == pytest.approx(expected, rel=1e-6)
    assert val_loss == pytest.approx(alone, rel=1e-6)


def test_nothing_is_drawn_nor_left_changed(tiny_model):
    tiny_model.train()
    before = torch.get_rng_state()
    evaluator(tiny_model, [0, 8])(lambda: False)
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny_model.training
    assert all(p.grad is None for p in tiny_model.parameters())


def test_a_stop_gives_the_hand_back(tiny_model):
    calls = iter([False, True])
    assert evaluator(tiny_model, [0, 8, 16])(lambda: next(calls)) is None


def test_fixed_windows():
    options = {"stride": None, "count": 5}
    first = evaluation_starts(SOURCE, 8, shuffle=False, **options)
    assert first.tolist() == [0, 8, 16, 24, 32]
    mixed = evaluation_starts(SOURCE, 8, shuffle=True, **options)
    assert mixed.tolist() == evaluation_starts(SOURCE, 8, shuffle=True, **options).tolist()
    assert len(set(mixed.tolist())) == 5
    assert len(evaluation_starts(SOURCE, 8, stride=None, count=1000, shuffle=True)) == 12


def test_the_sample_is_that_of_the_simple_loop(tiny_model):
    sampler = TextSampler(tiny_model, Letters(), CPU, "abc", window=8)
    expected = generate_sample(tiny_model, Letters(), "cpu", "abc", context_size=8)
    assert sampler(lambda: False) == expected
    assert sampler(lambda: True) is None
