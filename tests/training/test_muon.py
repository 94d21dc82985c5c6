"""Muon : celui de PyTorch, dans le type que l'on veut."""

import copy

import pytest
import torch

from gpt_architecture.training.optim import Muon, orthogonalize

NS = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}


def matrices():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (24, 6), (6, 24))]


def advance(optimizer, parameters, steps=4):
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"weight_decay": 0.5, "lr": 0.1}])
def test_in_bf16_it_is_pytorch_s(options):
    """Bit pour bit, état compris."""
    ours = matrices()
    theirs = copy.deepcopy(ours)
    mine, other = Muon(ours, dtype=torch.bfloat16, **options), torch.optim.Muon(theirs, **options)
    advance(mine, ours)
    advance(other, theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(mine.state[a]["momentum_buffer"], other.state[b]["momentum_buffer"])


def test_in_fp32_it_follows():
    """Le type ne change que les arrondis : quatre pas, à quelques centièmes près de chaque pas."""
    ours = matrices()
    theirs = copy.deepcopy(ours)
    before = copy.deepcopy(ours)
    advance(Muon(ours, lr=0.1, weight_decay=0.0), ours)
    advance(torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0), theirs)
    for a, b, start in zip(ours, theirs, before, strict=True):
        moved = (b - start).norm()
        assert (a - b).norm() < 0.05 * moved


@pytest.mark.parametrize("shape", [(16, 16), (40, 10), (10, 40)])
def test_singular_values_come_near_one(shape):
    """Quelle que soit la matrice : c'est le propre de Muon."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kept = matrix.clone()
    values = torch.linalg.svdvals(orthogonalize(matrix, **NS))
    assert 0.3 < values.min() < values.max() < 1.3
    assert torch.equal(matrix, kept)
