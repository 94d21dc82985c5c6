"""Les briques du Transformer contre leurs formules, écrites à la main.

Formes : B lot, T tokens, D largeur.
"""

import math

import pytest
import torch
from torch import nn

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.layers import GELU, FeedForward, LayerNorm, TransformerBlock

CONFIG = GPTConfig(
    vocab_size=11, context_length=8, emb_dim=12, n_heads=2, n_layers=1, drop_rate=0.0
)


@pytest.fixture
def x():
    """Entrée (2, 5, 12) d'échelle et de moyenne quelconques."""
    return 3.0 * torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)) + 1.5


def randomize_(module):
    """Écarte les paramètres de leurs valeurs initiales, où 1 et 0 cachent des fautes."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def normalized(x, *, eps=1e-5, unbiased=False):
    """(x − moyenne) / √(variance + eps), élément par élément."""
    mean = x.sum(-1, keepdim=True) / x.size(-1)
    squares = ((x - mean) ** 2).sum(-1, keepdim=True)
    return (x - mean) / torch.sqrt(squares / (x.size(-1) - unbiased) + eps)


class TestLayerNorm:
    def test_formula_with_scale_and_shift(self, x):
        norm = randomize_(LayerNorm(12))
        expected = normalized(x) * norm.scale + norm.shift
        torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)

    def test_variance_is_biased(self, x):
        out = LayerNorm(12)(x)
        torch.testing.assert_close(out, normalized(x), rtol=1e-5, atol=1e-5)
        assert (out - normalized(x, unbiased=True)).abs().max() > 1e-2

    def test_eps_is_one_hundred_thousandth_inside_the_root(self):
        small = torch.tensor([[-1e-3, 1e-3]])  # variance 1e-6, dix fois moins qu'eps
        expected = 1e-3 / math.sqrt(1e-6 + 1e-5)
        out = LayerNorm(2)(small)
        torch.testing.assert_close(out, torch.tensor([[-expected, expected]]))

    def test_constant_input_gives_the_shift(self):
        norm = randomize_(LayerNorm(4))
        torch.testing.assert_close(norm(torch.full((3, 4), 7.0)), norm.shift.expand(3, 4))

    def test_starts_as_a_plain_normalization(self):
        norm = LayerNorm(6)
        assert torch.equal(norm.scale, torch.ones(6))
        assert torch.equal(norm.shift, torch.zeros(6))
        assert {name for name, _ in norm.named_parameters()} == {"scale", "shift"}


class TestGELU:
    def test_tanh_formula(self):
        x = torch.linspace(-6, 6, 241, dtype=torch.float64)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        torch.testing.assert_close(GELU()(x), 0.5 * x * (1 + torch.tanh(inner)))

    def test_is_not_the_exact_one(self):
        x = torch.linspace(-6, 6, 241, dtype=torch.float64)
        exact = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        gap = (GELU()(x) - exact).abs().max()
        assert 1e-4 < gap < 1e-3

    def test_known_values(self):
        x = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
        expected = torch.tensor([0.0, 0.8411919906, -0.1588080094], dtype=torch.float64)
        torch.testing.assert_close(GELU()(x), expected, rtol=0, atol=1e-9)


class TestFeedForward:
    def test_widens_four_times(self):
        first, activation, second = FeedForward(CONFIG).layers
        assert (first.in_features, first.out_features) == (12, 48)
        assert (second.in_features, second.out_features) == (48, 12)
        assert isinstance(activation, GELU)
        assert first.bias is not None
        assert second.bias is not None

    def test_is_two_products_around_the_activation(self, x):
        ff = FeedForward(CONFIG)
        w1, b1, w2, b2 = (
            ff.state_dict()[f"layers.{n}"] for n in ("0.weight", "0.bias", "2.weight", "2.bias")
        )
        expected = nn.functional.gelu(x @ w1.T + b1, approximate="tanh") @ w2.T + b2
        torch.testing.assert_close(ff(x), expected)

    def test_positions_do_not_mix(self, x):
        ff = FeedForward(CONFIG)
        torch.testing.assert_close(ff(x)[:, 2:3], ff(x[:, 2:3]))


class TestTransformerBlock:
    @pytest.fixture
    def block(self):
        torch.manual_seed(3)
        return randomize_(TransformerBlock(CONFIG)).eval()

    def test_is_pre_norm_with_residuals(self, block, x):
        after_attention = x + block.att(normalized(x) * block.norm1.scale + block.norm1.shift)
        inner = normalized(after_attention) * block.norm2.scale + block.norm2.shift
        expected = after_attention + block.ff(inner)
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)

    def test_is_not_post_norm(self, block, x):
        after_attention = block.norm1(x + block.att(x))
        post_norm = block.norm2(after_attention + block.ff(after_attention))
        assert (block(x) - post_norm).abs().max() > 0.1

    def test_silent_branches_leave_the_residual_stream_untouched(self, block, x):
        with torch.no_grad():
            for projection in (block.att.out_proj, block.ff.layers[2]):
                projection.weight.zero_()
                projection.bias.zero_()
        assert torch.equal(block(x), x)

    def test_input_is_not_modified(self, block, x):
        before = x.clone()
        block(x)
        assert torch.equal(x, before)
