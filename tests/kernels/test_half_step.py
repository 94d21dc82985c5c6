"""Le pas fusionné aux produits bf16, contre autograd en fp32."""

import copy

import pytest
import torch
from kernel_helpers import as_batch, pair, random_batch

from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.train import gradients, half_kernels, kernels
from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.kernels.train.gradients import LeanAdamW

ROUNDING = 2.0**-9
"""Écart relatif, au plus, d'un nombre arrondi en bf16 (8 bits) au plus proche."""

TOLERANCE = 6 * ROUNDING
"""D'un gradient entier, en norme. Chacun dépend d'une trentaine d'arrondis indépendants par bloc
traversé, de ROUNDING / √3 en moyenne quadratique, et leurs carrés s'ajoutent : de 3 à 4 ROUNDING
ici, comme l'autocast de PyTorch ; les sommes qui s'annulent en partie demandent le reste."""

SHAPES = {
    "livre": {},
    "gpt-2": {"qkv_bias": True, "tie_weights": True},
    "largeur impaire": {"emb_dim": 21, "n_heads": 3, "qkv_bias": True},
}


def half_pair(**changes):
    """Le pas aux produits bf16, le modèle d'autograd en fp32 et leurs clés d'abandon."""
    step, oracle, keys = pair(**changes)
    return FusedStep(step.model, seed=7, dtype=torch.bfloat16), oracle, keys


def oracle_loss(oracle, keys, batch, scale=1.0):
    inputs, targets, sequences = batch
    with keys.sequences(sequences):
        loss = calc_loss_batch(inputs, targets, oracle, "cpu")
    (loss * scale).backward()
    return loss.item()


def assert_close_gradients(model, oracle):
    names = dict(model.named_parameters())
    for name, expected in oracle.named_parameters():
        found = names[name].grad
        assert found.dtype == torch.float32
        size = expected.grad.norm()
        if "W_key.bias" in name:  # nul : la softmax ne voit pas ce qui s'ajoute à tous les scores
            size = oracle.get_parameter(name.replace("W_key", "W_value")).grad.norm()
        assert (found - expected.grad).norm() <= TOLERANCE * size, name


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_fp32_within_rounding(changes):
    """Deux micro-lots, de plusieurs morceaux de tête : les seconds s'ajoutent en fp32."""
    step, oracle, keys = half_pair(**changes)
    for _ in range(2):
        batch = random_batch(step, 17, 37)
        found = step.forward_backward(as_batch(*batch), scale=0.5)
        assert found.item() == pytest.approx(oracle_loss(oracle, keys, batch, 0.5), rel=1e-4)
    assert_close_gradients(step.model, oracle)


def test_narrow_slabs_change_only_the_rounding(monkeypatch):
    """Des produits rendus par bandes de quelques lignes, la dernière incomplète."""
    monkeypatch.setattr(gradients, "SLAB", 48 * 50)
    step, oracle, keys = half_pair()
    batch = random_batch(step)
    step.forward_backward(as_batch(*batch))
    oracle_loss(oracle, keys, batch)
    assert_close_gradients(step.model, oracle)


def test_ignored_targets_have_no_gradient():
    step, oracle, keys = half_pair()
    inputs, targets, ids = random_batch(step)
    targets[:, ::3] = IGNORED
    found = step.forward_backward(as_batch(inputs, targets, ids))
    assert found.item() == pytest.approx(
        oracle_loss(oracle, keys, (inputs, targets, ids)), rel=1e-4
    )
    assert_close_gradients(step.model, oracle)


def test_evaluation_loss_is_fp32_s_within_rounding():
    step, oracle, _ = half_pair()
    inputs, targets, _ = random_batch(step)
    expected = calc_loss_batch(inputs, targets, oracle.eval(), "cpu").item()
    assert step.loss(inputs, targets).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
def test_same_batches_give_the_same_bits(recompute):
    """Refaire, avec ou sans recalcul de l'avant, donne les mêmes gradients bit pour bit."""
    step, _, _ = half_pair()
    twin = copy.deepcopy(step.model)
    other = FusedStep(twin, seed=7, dtype=torch.bfloat16, recompute=recompute)
    batch = as_batch(*random_batch(step))
    assert torch.equal(step.forward_backward(batch), other.forward_backward(batch))
    for a, b in zip(step.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_new_weights_are_seen():
    """La copie bf16 des poids suit ce que l'optimiseur, ou un chargement, en fait."""
    step, _, _ = half_pair()
    batch = random_batch(step)
    before = step.forward_backward(as_batch(*batch)).item()
    with torch.no_grad():
        step.model.trf_blocks[0].ff.layers[2].weight.mul_(30.0)
    fresh = FusedStep(copy.deepcopy(step.model), seed=7, dtype=torch.bfloat16)
    found = step.forward_backward(as_batch(*batch)).item()
    assert found == fresh.forward_backward(as_batch(*batch)).item() != before


@pytest.mark.parametrize("lean", [False, True])
def test_non_finite_loss_changes_nothing(lean):
    step, _, _ = half_pair()
    optimizer = LeanAdamW(step.model.parameters(), lr=1e-3) if lean else None
    step = FusedStep(step.model, seed=7, dtype=torch.bfloat16, lean=optimizer)
    with torch.no_grad():
        step.model.trf_blocks[1].norm2.scale[3] = torch.nan
    before = step.model.out_head.weight.detach().clone()
    assert not torch.isfinite(step.forward_backward(as_batch(*random_batch(step))))
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert torch.equal(step.model.out_head.weight, before)


def test_rounding_is_pytorch_s():
    """Au plus proche, pair en cas d'égalité ; infinis et NaN compris."""
    bits = torch.randint(-(2**31), 2**31, (64, 4096), dtype=torch.int64).to(torch.int32)
    bits[:, ::5] = (bits[:, ::5] & ~0xFFFF) | 0x8000  # à mi-chemin de deux bf16
    x = bits.view(torch.float32).clone()
    x[0, :5] = torch.tensor([torch.inf, -torch.inf, torch.nan, 3.4e38, 0.0])
    out = torch.empty(x.shape, dtype=torch.bfloat16)
    keys, partial = torch.zeros(2, dtype=torch.int64), torch.empty(2, 1, x.size(1))
    launch(half_kernels.residual_backward_, 2, x, keys, len(x), 0, 1.0, out, partial)
    torch.testing.assert_close(out, x.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [1, 31, kernels.ADAMW_BLOCK + 7])
def test_a_product_is_added_exactly(size):
    product, out = torch.randn(size).bfloat16(), torch.randn(size)
    lots = -(-size // kernels.ADAMW_BLOCK)
    expected = out + product.float()
    launch(kernels.add_product_, lots, product, out, 1.0)
    assert torch.equal(out, expected)
    launch(kernels.add_product_, lots, product, out, 0.0)
    assert torch.equal(out, product.float())
