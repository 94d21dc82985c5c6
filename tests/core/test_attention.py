"""L'attention : deux moteurs, un masque, une boucle naïve pour arbitre.

Formes : B lot, T requêtes, S clés, H têtes, K taille d'une tête.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.attention import (
    MultiHeadAttention,
    causal_mask,
    eager_attention,
    sdpa_attention,
    use_attention_,
)
from gpt_architecture.core.model import GPTModel

BACKENDS = [
    pytest.param(eager_attention, id="eager"),
    pytest.param(sdpa_attention, id="sdpa"),
]
SHAPES = [  # B, H, T, S, K
    pytest.param((1, 1, 1, 1, 4), id="une-position"),
    pytest.param((1, 2, 7, 7, 4), id="T=S-lot-1"),
    pytest.param((3, 2, 7, 7, 4), id="T=S-lot-3"),
    pytest.param((1, 2, 3, 9, 4), id="morceau-lot-1"),
    pytest.param((4, 3, 5, 6, 8), id="morceau-lot-4"),
    pytest.param((1, 2, 1, 9, 4), id="T=1-lot-1"),
    pytest.param((2, 2, 1, 9, 4), id="T=1-lot-2"),
]


def random_qkv(shape, seed=0):
    """Requêtes (B, H, T, K), clés et valeurs (B, H, S, K), gradients demandés."""
    batch, heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, length, size, generator=generator).requires_grad_()
        for length in (queries, keys, keys)
    ]


def naive_attention(q, k, v):
    """Attention en boucles Python, en double précision : la définition même."""
    batch, heads, queries, size = q.shape
    keys = k.size(2)
    out = torch.zeros(batch, heads, queries, v.size(3), dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = range(keys - queries + i + 1)
                scores = [
                    sum(float(q[b, h, i, c]) * float(k[b, h, j, c]) for c in range(size))
                    / math.sqrt(size)
                    for j in seen
                ]
                exponentials = [math.exp(score - max(scores)) for score in scores]
                for j in seen:
                    weight = exponentials[j] / sum(exponentials)
                    out[b, h, i] += weight * v[b, h, j].double()
    return out.float()


class TestMask:
    def test_square_is_the_usual_triangle(self):
        mask = causal_mask(3, 3, torch.device("cpu"))
        assert mask.tolist() == [[True, False, False], [True, True, False], [True, True, True]]

    def test_chunk_is_aligned_bottom_right(self):
        mask = causal_mask(2, 4, torch.device("cpu"))
        assert mask.tolist() == [[True, True, True, False], [True, True, True, True]]


class TestBackends:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_equals_the_naive_loops(self, backend, shape):
        with torch.no_grad():
            q, k, v = random_qkv(shape)
            out = backend(q, k, v, dropout_p=0.0)
            torch.testing.assert_close(out, naive_attention(q, k, v), rtol=0, atol=1e-5)

    @settings(deadline=None, max_examples=25)
    @given(
        batch=st.integers(1, 3),
        heads=st.integers(1, 4),
        keys=st.integers(1, 33),
        size=st.sampled_from([1, 3, 8, 16]),
        data=st.data(),
    )
    def test_engines_agree_on_any_size(self, batch, heads, keys, size, data):
        queries = data.draw(st.integers(1, keys), label="queries")
        seed = data.draw(st.integers(0, 1000), label="seed")
        with torch.no_grad():
            q, k, v = random_qkv((batch, heads, queries, keys, size), seed)
            torch.testing.assert_close(
                sdpa_attention(q, k, v, dropout_p=0.0),
                eager_attention(q, k, v, dropout_p=0.0),
                rtol=0,
                atol=1e-5,
            )

    @pytest.mark.parametrize("shape", SHAPES)
    def test_gradients_agree(self, shape):
        gradients = []
        for backend in (eager_attention, sdpa_attention):
            q, k, v = random_qkv(shape)
            out = backend(q, k, v, dropout_p=0.0)
            coefficients = torch.linspace(-1, 1, out.numel()).view_as(out)
            (out * coefficients).sum().backward()
            gradients.append((q.grad, k.grad, v.grad))
        for eager, sdpa in zip(*gradients, strict=True):
            torch.testing.assert_close(sdpa, eager, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_first_query_of_a_square_sees_itself_only(self, backend):
        q, k, v = random_qkv((1, 1, 4, 4, 4))
        torch.testing.assert_close(backend(q, k, v, dropout_p=0.0)[:, :, 0], v[:, :, 0])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_large_scores_stay_finite(self, backend):
        q, k, v = random_qkv((1, 1, 4, 4, 4))
        assert backend(1e4 * q, 1e4 * k, v, dropout_p=0.0).isfinite().all()


class TestDropout:
    @pytest.mark.parametrize("queries", [16, 12], ids=["T=S", "T<S"])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_weights_are_dropped_and_rescaled(self, backend, queries):
        """Avec v = 1, la sortie est la somme des poids gardés : 1 en moyenne, jamais fixe."""
        torch.manual_seed(0)
        with torch.no_grad():
            q, k, _ = random_qkv((64, 8, queries, 16, 4))
            ones = torch.ones(64, 8, 16, 1)
            out = backend(q, k, ones, dropout_p=0.25)
        assert out.mean().item() == pytest.approx(1.0, abs=0.02)
        assert out.std() > 0.1

    def test_engines_have_the_same_spread(self):
        torch.manual_seed(0)
        with torch.no_grad():
            q, k, _ = random_qkv((64, 8, 16, 16, 4))
            ones = torch.ones(64, 8, 16, 1)
            spreads = [
                backend(q, k, ones, dropout_p=0.25).std().item()
                for backend in (eager_attention, sdpa_attention)
            ]
        assert spreads[0] == pytest.approx(spreads[1], rel=0.05)

    def test_first_position_is_kept_or_lost_whole(self):
        """Elle n'a qu'un poids : 0, ou 1 / (1 − p)."""
        torch.manual_seed(0)
        q, k, _ = random_qkv((64, 8, 2, 2, 4))
        out = eager_attention(q, k, torch.ones(64, 8, 2, 1), dropout_p=0.5)[:, :, 0]
        assert set(out.detach().unique().tolist()) == {0.0, 2.0}
        assert (out > 0).float().mean().item() == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_none_without_probability(self, backend):
        q, k, _ = random_qkv((2, 2, 5, 5, 4))
        state = torch.get_rng_state()
        out = backend(q, k, torch.ones(2, 2, 5, 1), dropout_p=0.0)
        torch.testing.assert_close(out, torch.ones_like(out))
        assert torch.equal(torch.get_rng_state(), state)


class TestModule:
    def test_equals_projections_and_naive_loops(self):
        torch.manual_seed(0)
        attention = MultiHeadAttention(6, 8, 5, 0.0, num_heads=2, qkv_bias=True).eval()
        x = torch.randn(2, 5, 6)
        with torch.no_grad():
            q, k, v = (
                (x @ layer.weight.T + layer.bias).view(2, 5, 2, 4).transpose(1, 2)
                for layer in (attention.W_query, attention.W_key, attention.W_value)
            )
            heads = naive_attention(q, k, v)  # (B, H, T, K)
            joined = torch.cat([heads[:, h] for h in range(2)], dim=-1)  # têtes côte à côte
            expected = joined @ attention.out_proj.weight.T + attention.out_proj.bias
            torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)

    def test_projection_biases_follow_the_option(self):
        without = MultiHeadAttention(4, 4, 3, 0.0, num_heads=2)
        with_bias = MultiHeadAttention(4, 4, 3, 0.0, num_heads=2, qkv_bias=True)
        for name in ("W_query", "W_key", "W_value"):
            assert getattr(without, name).bias is None
            assert getattr(with_bias, name).bias is not None
        assert without.out_proj.bias is not None

    @pytest.mark.parametrize(("d_out", "heads"), [(10, 3), (4, 8)])
    def test_width_is_a_multiple_of_heads(self, d_out, heads):
        with pytest.raises(ValueError, match=rf"d_out \({d_out}\).*num_heads \({heads}\)"):
            MultiHeadAttention(d_out, d_out, 8, 0.0, num_heads=heads)

    def test_too_long_input_is_refused(self):
        attention = MultiHeadAttention(4, 4, 3, 0.0, num_heads=2)
        assert attention(torch.zeros(1, 3, 4)).shape == (1, 3, 4)
        with pytest.raises(ValueError, match=r"4 positions.*3"):
            attention(torch.zeros(1, 4, 4))

    def test_stored_mask_is_dropped_on_load(self):
        attention = MultiHeadAttention(4, 4, 3, 0.0, num_heads=2)
        stored = attention.state_dict() | {"mask": torch.ones(3, 3).triu(1)}
        attention.load_state_dict(stored, strict=True)
        assert "mask" not in attention.state_dict()


class TestWholeModel:
    @pytest.mark.parametrize("mode", ["livre", "gpt2"])
    def test_engines_give_the_same_logits_and_gradients(self, tiny_config, mode):
        options = {"qkv_bias": True, "tie_weights": True} if mode == "gpt2" else {}
        config = GPTConfig.from_dict(tiny_config.to_dict() | options)
        torch.manual_seed(0)
        model = GPTModel(config).eval()
        idx = torch.randint(config.vocab_size, (2, config.context_length))
        results = []
        for backend in (sdpa_attention, eager_attention):
            use_attention_(model, backend)
            model.zero_grad()
            logits = model(idx)
            logits.logsumexp(-1).sum().backward()
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            results.append((logits.detach(), gradients))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)

    def test_use_attention_reaches_every_layer(self, tiny_model):
        calls = []

        def spy(q, k, v, *, dropout_p, mask=None):
            calls.append(dropout_p)
            return eager_attention(q, k, v, dropout_p=dropout_p, mask=mask)

        use_attention_(tiny_model, spy)
        tiny_model(torch.zeros(1, 4, dtype=torch.int64))
        assert calls == [0.0] * tiny_model.cfg.n_layers

    def test_sdpa_is_the_default(self, tiny_model):
        assert all(block.att.backend is sdpa_attention for block in tiny_model.trf_blocks)
