"""Le moteur lisible : perte, gradients, précision, activations recalculées."""

import shutil

import pytest
import torch

from gpt_architecture.config import ComputeConfig, GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.step import (
    AutogradEngine,
    Batch,
    checkpoint_activations_,
    has_bf16,
    resolve_precision,
    training_precision,
)

CPU = torch.device("cpu")


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
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: False})
    assert resolve_precision("auto", CPU) is None
    assert not has_bf16(CPU)
    with pytest.raises(ConfigurationError, match="`precision`"):
        resolve_precision("bf16", CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True})
    assert has_bf16(CPU)
    assert resolve_precision("bf16", CPU) is torch.bfloat16
    assert resolve_precision("fp32", CPU) is None
    gains = feature == "amx_bf16"  # les seules instructions vectorielles ne font rien gagner
    assert resolve_precision("auto", CPU) is (torch.bfloat16 if gains else None)


def test_a_wanted_fused_step_computes_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert training_precision(ComputeConfig(), CPU) is torch.bfloat16
    for wanted in ({"engine": "fused"}, {"memory": "lean"}):
        assert training_precision(ComputeConfig(**wanted), CPU) is None
        asked = ComputeConfig(**wanted, precision="bf16")  # refusé plus loin, avec sa raison
        assert training_precision(asked, CPU) is torch.bfloat16


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
