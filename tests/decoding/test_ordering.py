"""Les tris rendent exactement ceux de PyTorch."""

import pytest
import torch

from gpt_architecture.decoding.strategies import ascending, descending, largest

INF = float("inf")
SHAPES = [(1,), (7,), (3, 50), (2, 3, 200), (2, 5000)]


def values(shape, dtype=torch.float32, *, ties=False):
    found = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5
    found = found.round() if ties else found
    found[..., ::4] = -INF
    return found.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_descending_and_largest(shape, ties, dtype):
    given = values(shape, dtype, ties=ties)
    expected = given.sort(dim=-1, descending=True).values
    assert torch.equal(descending(given).to(dtype), expected)
    for count in {1, (shape[-1] + 1) // 2, shape[-1]}:
        assert torch.equal(largest(given, count).to(dtype), expected[..., :count])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_ascending_is_stable(shape, ties):
    given = values(shape, ties=ties).abs()  # 0 et l'infini compris
    given[..., :2] = torch.tensor([0.0, 1e-45])[: shape[-1]]
    found, order = ascending(given)
    expected, expected_order = torch.sort(given, dim=-1, stable=True)
    assert torch.equal(found, expected)
    assert torch.equal(order, expected_order)


def test_non_contiguous_and_inference_tensors():
    given = values((6, 9)).T
    with torch.inference_mode():
        assert torch.equal(descending(given), given.sort(dim=-1, descending=True).values)
        assert torch.equal(ascending(given.abs())[1], given.abs().sort(dim=-1, stable=True).indices)


def test_input_is_left_unchanged():
    given = values((2, 30))
    before = given.clone()
    descending(given), largest(given, 4), ascending(given.abs())
    assert torch.equal(given, before)
