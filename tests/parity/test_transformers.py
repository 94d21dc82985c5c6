"""Mêmes poids, mêmes logits que le GPT-2 de la bibliothèque Transformers.

Formes : B lot, T tokens, V vocabulaire.
"""

import pytest
import torch
from parity_helpers import random_model, to_transformers
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig

pytest.importorskip("transformers", reason="parité : le paquet transformers n'est pas installé")

CONFIGS = [
    pytest.param(
        GPTConfig(
            vocab_size=61,
            context_length=16,
            emb_dim=24,
            n_heads=3,
            n_layers=2,
            qkv_bias=True,
            tie_weights=True,
        ),
        id="gpt2",
    ),
    pytest.param(
        GPTConfig(
            vocab_size=113,
            context_length=32,
            emb_dim=32,
            n_heads=1,
            n_layers=4,
            qkv_bias=True,
            tie_weights=True,
        ),
        id="gpt2-H1",
    ),
    pytest.param(
        GPTConfig(vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2),
        id="livre",
    ),
    pytest.param(
        GPTConfig(
            vocab_size=61, context_length=16, emb_dim=24, n_heads=6, n_layers=1, qkv_bias=True
        ),
        id="livre-avec-biais",
    ),
]
SHAPES = [(1, 1), (1, 16), (3, 7), (2, 16)]


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """Notre modèle et le leur."""
    model = random_model(request.param)
    return model, to_transformers(model)


def random_ids(model, shape):
    """Identifiants (B, T) int64."""
    return torch.randint(model.cfg.vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(pair, shape):
    ours, theirs = pair
    idx = random_ids(ours, shape)
    with torch.no_grad():
        mine, reference = ours(idx), theirs(idx).logits
    assert reference.std() > 0.1  # des logits plats ne prouveraient rien
    torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_loss(pair):
    ours, theirs = pair
    idx = random_ids(ours, (3, 16))
    with torch.no_grad():
        reference = theirs(idx, labels=idx).loss  # Transformers décale lui-même les cibles
        mine = F.cross_entropy(ours(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
    torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_gradients(pair):
    ours, theirs = pair
    idx = random_ids(ours, (2, 8))
    ours.zero_grad()
    theirs.zero_grad()
    F.cross_entropy(ours(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten()).backward()
    theirs(idx, labels=idx).loss.backward()
    for mine, reference in (
        (ours.tok_emb.weight.grad, theirs.transformer.wte.weight.grad),
        (ours.out_head.weight.grad, theirs.lm_head.weight.grad),
        (
            ours.trf_blocks[0].ff.layers[0].weight.grad.T,
            theirs.transformer.h[0].mlp.c_fc.weight.grad,
        ),
        (ours.trf_blocks[0].norm1.scale.grad, theirs.transformer.h[0].ln_1.weight.grad),
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_cached_logits(pair):
    ours, theirs = pair
    idx = random_ids(ours, (2, 12))
    cache = ours.new_cache(2)
    with torch.no_grad():
        mine = torch.cat([ours(chunk, cache) for chunk in idx.split([4, 1, 5, 2], dim=1)], dim=1)
        torch.testing.assert_close(mine, theirs(idx).logits, rtol=0, atol=1e-5)


def test_tying_is_the_same_on_both_sides(pair):
    ours, theirs = pair
    tied = ours.cfg.tie_weights
    assert (ours.out_head.weight is ours.tok_emb.weight) is tied
    assert (theirs.lm_head.weight is theirs.transformer.wte.weight) is tied
    biases = 0 if ours.cfg.qkv_bias else 3 * ours.cfg.emb_dim * ours.cfg.n_layers
    assert ours.num_parameters() + biases == sum(p.numel() for p in theirs.parameters())
