"""Le mode économe : AdamW à moments bf16, appliqué pendant l'arrière."""

import copy

import pytest
import torch
from kernel_helpers import as_batch, pair, random_batch

from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.kernels.train.gradients import LeanAdamW


def train(model, steps, *, lean, **options):
    """Pertes de `steps` étapes, toujours les mêmes lots."""
    options = {"lr": 1e-3, "weight_decay": 0.1, **options}
    kind = LeanAdamW if lean else torch.optim.AdamW
    optimizer = kind(model.parameters(), **options)
    step = FusedStep(model, seed=3, lean=optimizer if lean else None)
    losses = []
    for index in range(steps):
        torch.manual_seed(index % 3)
        batch = as_batch(*random_batch(step))
        losses.append(step.forward_backward(batch, scale=1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "tie_weights": True},
        {"vocab_size": 40, "context_length": 40},  # deux tables de même forme
        {"vocab_size": 40, "context_length": 40, "tie_weights": True},
    ],
)
def test_follows_adamw(changes):
    """Trente étapes : les pertes d'AdamW de PyTorch, à l'arrondi des moments près."""
    model = pair(**changes)[0].model
    other = copy.deepcopy(model)
    if other.cfg.tie_weights:
        other.tie_weights_()
    found, expected = train(model, 30, lean=True), train(other, 30, lean=False)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] < found[0] - 0.5
    assert all(parameter.grad is None for parameter in model.parameters())


def test_first_update_is_adamw_s():
    """Une étape : les moments n'ont pas encore été relus, seule l'arithmétique compte."""
    model = pair()[0].model
    other = copy.deepcopy(model)
    train(model, 1, lean=True, eps=1e-6)
    train(other, 1, lean=False, eps=1e-6)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=2e-6)


def test_rounding_does_not_freeze_the_second_moment():
    """Mille petites étapes déplacent la moyenne des carrés ; au plus proche, elle resterait."""
    parameter = torch.nn.Parameter(torch.zeros(4096))
    optimizer = LeanAdamW([parameter], lr=0.0, weight_decay=0.0)
    parameter.grad = torch.full((4096,), 1.0)
    for _ in range(1000):
        optimizer.step()
    found = optimizer.state[parameter]["exp_avg_sq"].float()
    assert found.mean().item() == pytest.approx(1 - 0.999**1000, rel=0.01)
    assert optimizer.state[parameter]["exp_avg_sq"].dtype == torch.bfloat16


def test_same_steps_give_the_same_bits():
    """L'arrondi au hasard est une fonction pure : refaire donne les mêmes poids."""
    model = pair()[0].model
    other = copy.deepcopy(model)
    train(model, 5, lean=True)
    train(other, 5, lean=True)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_non_finite_gradient_is_not_applied():
    """Un paramètre au gradient infini garde sa valeur ; l'étape est rendue comme sautée."""
    model = pair(drop_rate=0.0)[0].model
    optimizer = LeanAdamW(model.parameters(), lr=1e-3)
    step = FusedStep(model, seed=3, lean=optimizer)
    batch = as_batch(*random_batch(step))
    before = model.out_head.weight.detach().clone()
    assert torch.isnan(step.forward_backward(batch, scale=float("inf")))
    assert torch.equal(model.out_head.weight, before)
    assert torch.isfinite(step.forward_backward(batch, scale=1.0))
    assert not torch.equal(model.out_head.weight, before)
