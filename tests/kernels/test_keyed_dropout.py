"""L'abandon à clés : probabilités, indépendance, pureté, place dans le modèle."""

import copy

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.attention import eager_attention, use_attention_
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.train.keyed_dropout import (
    keep_mask,
    keep_scale,
    site_keys,
    threshold,
    use_keyed_dropout_,
)


def keys_of(seed, sequences, sites=3):
    return torch.from_numpy(site_keys(seed, torch.tensor(sequences), sites).astype("int64"))


def mix32(x):
    """lowbias32, en entiers de Python."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_mask_is_the_documented_function(columns):
    """Chaque bit, refait à la main."""
    keys, p = keys_of(5, [11]), 0.3
    low, high = (int(word) for word in keys[0, 1])
    found = keep_mask(keys[:, 1], 3, columns, p)[0]
    half = (columns + 1) // 2
    for r in range(3):
        row = mix32(low ^ (r * 0x9E3779B9 & 0xFFFFFFFF)) + high & 0xFFFFFFFF
        for j in range(columns):
            word = mix32(row ^ (j % half if j >= half else j))
            bits = word >> 16 if j >= half else word & 0xFFFF
            assert bool(found[r, j]) is (bits >= threshold(p)), (r, j)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_rate_is_the_one_asked(p):
    """La part annulée est p, sur un million d'éléments, à cinq écarts-types près."""
    mask = keep_mask(keys_of(1, [0, 1])[:, 0], 700, 768, p)
    count, rate = mask.numel(), 1 - mask.double().mean().item()
    assert abs(rate - p) <= 5 * (p * (1 - p) / count) ** 0.5 + 1 / 65536
    assert keep_scale(p) == pytest.approx(1 / (1 - p), rel=1e-3)


def test_masks_are_independent():
    """Deux séquences, deux endroits, deux graines, deux lignes : corrélations nulles."""
    keys, other = keys_of(1, [0, 1]), keys_of(2, [0])
    masks = [
        keep_mask(keys[:1, 0], 512, 512, 0.5),
        keep_mask(keys[1:, 0], 512, 512, 0.5),
        keep_mask(keys[:1, 1], 512, 512, 0.5),
        keep_mask(other[:, 0], 512, 512, 0.5),
    ]
    masks += [masks[0].roll(1, 1), masks[0].roll(1, 2), masks[0].roll(256, 2)]
    reference = masks[0].double() - 0.5
    for mask in masks[1:]:
        correlation = (reference * (mask.double() - 0.5)).mean() / 0.25
        assert abs(correlation) < 5 / 512


def test_mask_of_a_sequence_ignores_its_batch():
    """Le masque d'une séquence est le même seule, accompagnée ou à une autre place."""
    alone = keep_mask(keys_of(9, [42])[:, 0], 5, 6, 0.5)
    together = keep_mask(keys_of(9, [7, 42, 8])[:, 0], 5, 6, 0.5)
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(alone[0], together[0])


@pytest.fixture
def cfg():
    return GPTConfig(
        vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.2
    )


def test_model_keeps_its_names_and_its_evaluation(cfg):
    """Même state_dict, mêmes logits en évaluation ; en entraînement, des masques reproductibles."""
    torch.manual_seed(0)
    plain = GPTModel(cfg).eval()
    keyed = copy.deepcopy(plain)
    keys = use_keyed_dropout_(keyed, seed=3)
    ids = torch.randint(61, (2, 10))
    assert list(keyed.state_dict()) == list(plain.state_dict())
    assert torch.equal(keyed(ids), plain(ids))
    keyed.train()
    with keys.sequences(torch.tensor([4, 5])):
        first, again = keyed(ids), keyed(ids)
    with keys.sequences(torch.tensor([4, 6])):
        other = keyed(ids)
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_dropped_attention_is_unbiased(cfg):
    """La moyenne sur beaucoup de séquences est l'attention sans abandon."""
    torch.manual_seed(0)
    model = GPTModel(cfg).eval()
    keys = use_keyed_dropout_(model, seed=3)
    backend = model.trf_blocks[0].att.backend
    q, k, v = torch.randn(3, 1, 3, 8, 8)
    with keys.sequences(torch.arange(4000)):
        many = backend(*(x.expand(4000, -1, -1, -1) for x in (q, k, v)), dropout_p=0.2)
    assert torch.allclose(many.mean(0), eager_attention(q, k, v, dropout_p=0.0)[0], atol=0.05)


def test_forward_outside_of_sequences_is_refused(cfg):
    model = GPTModel(cfg).train()
    keys = use_keyed_dropout_(model, seed=3)
    with pytest.raises(RuntimeError, match="dropout à clés"):
        model(torch.zeros(2, 4, dtype=torch.int64))
    with keys.sequences(torch.tensor([1])), pytest.raises(RuntimeError, match="autre lot"):
        model(torch.zeros(2, 4, dtype=torch.int64))


def test_attention_backend_of_the_model_is_kept_without_dropout(cfg):
    model = GPTModel(cfg).eval()
    use_attention_(model, eager_attention)
    use_keyed_dropout_(model, seed=1)
    assert model.trf_blocks[0].att.backend.original is eager_attention
