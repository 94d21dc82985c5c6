"""La lecture uniforme : les logits d'une suite ne dépendent que d'elle, au bit près."""

import random

import pytest
import torch
from kernel_helpers import oracle_of

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import CacheView, KVCache
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.decode.packed import PACKINGS, pack
from gpt_architecture.kernels.decode.weights import StripMatrix

SHAPES = {
    "livre": {"emb_dim": 48, "n_heads": 3},
    "gpt-2": {"emb_dim": 128, "n_heads": 2, "qkv_bias": True, "tie_weights": True},
    "impaire": {"emb_dim": 21, "n_heads": 3, "vocab_size": 61, "qkv_bias": True},
}
BASE = {"vocab_size": 307, "context_length": 48, "n_layers": 3, "drop_rate": 0.0}
TOLERANCE = {"fp32": 1e-4, "int8": 2e-2, "int4": 2e-2}  # voir test_packed.py
LENGTH = 20


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def model(request):
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, **request.param})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif name != "pos_emb.weight":
                parameter.mul_(1.5)
    return model


def texts(model, count):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(model.cfg.vocab_size, (count, LENGTH), generator=draw).tolist()


def read_one_by_one(packed, ids):
    """Les logits (T, V) d'un texte lu seul, token à token."""
    cache = packed.new_cache(1, LENGTH)
    return torch.cat([packed.read_uniform([[token]], cache) for token in ids])


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_neither_the_others_nor_the_cut_change_a_bit(model, packing):
    """Quatre textes avancent par parts tirées au sort, sur un cache commun."""
    packed = pack(model, packing)
    height = packed.uniform_rows
    everything = texts(model, 4)
    expected = [read_one_by_one(packed, ids) for ids in everything]
    pool, dice = packed.new_cache(6, LENGTH), random.Random(3)  # noqa: S311
    lines = dice.sample(range(6), 4)
    found = [[] for _ in everything]
    while unread := [i for i in range(4) if pool.lengths[lines[i]] < LENGTH]:
        chosen, room = dice.sample(unread, dice.randint(1, len(unread))), height
        parts, kept = [], []
        for i in chosen:
            start = pool.lengths[lines[i]]
            size = min(dice.randint(1, height), LENGTH - start, room)
            if size:
                parts.append(everything[i][start : start + size])
                kept.append(i)
                room -= size
        rows = range(sum(map(len, parts)))
        view = CacheView(pool, [lines[i] for i in kept])
        logits = packed.read_uniform(parts, view, wanted=rows)
        for i, each in zip(kept, logits.split([len(part) for part in parts]), strict=True):
            found[i].append(each)
    for each, alone in zip(found, expected, strict=True):
        assert torch.equal(torch.cat(each), alone)


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_the_logits_are_those_of_the_model(model, packing):
    packed = pack(model, packing)
    (ids,) = texts(model, 1)
    with torch.no_grad():
        expected = oracle_of(packed)(torch.tensor([ids]))[0]
    found = read_one_by_one(packed, ids)
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[packing] * size)
    assert (found - expected).abs().mean() <= TOLERANCE[packing] * size / 10


@pytest.mark.parametrize("rows", [1, 16, 37])
def test_strips_hold_every_weight(rows):
    weight = torch.randn(rows, 21)
    strips = StripMatrix(weight)
    assert strips.shape == (rows, 21)
    (stored,) = strips.tensors()  # (bandes, 21, 16)
    assert torch.equal(stored.transpose(1, 2).reshape(-1, 21)[:rows], weight)
    assert stored.flatten().tolist().count(0.0) == 21 * (-rows % 16)  # complétée par des zéros


def test_the_last_of_each_part_by_default(model):
    packed = pack(model)
    first, second = (ids[:3] for ids in texts(model, 2))
    cache = packed.new_cache(2, LENGTH)
    every = packed.read_uniform([first, second], cache, wanted=range(6))
    assert cache.lengths == [3, 3]
    last = packed.read_uniform([first, second], packed.new_cache(2, LENGTH))
    assert torch.equal(last, every[[2, 5]])


def test_a_part_whose_logits_are_not_wanted_is_read_all_the_same(model):
    packed = pack(model, "int8")
    (ids,) = texts(model, 1)
    cache = packed.new_cache(1, LENGTH)
    assert packed.read_uniform([ids[:9]], cache, wanted=()).shape[0] == 0
    found = packed.read_uniform([ids[9:]], cache, wanted=range(LENGTH - 9))
    assert torch.equal(found, read_one_by_one(packed, ids)[9:])


def test_the_number_of_threads_changes_no_bit(model):
    packed, before = pack(model), torch.get_num_threads()
    (ids,) = texts(model, 1)
    expected = read_one_by_one(packed, ids)
    try:
        torch.set_num_threads(2)
        assert torch.equal(read_one_by_one(packed, ids), expected)
    finally:
        torch.set_num_threads(before)


def test_what_does_not_fit_is_refused(model):
    packed = pack(model)
    with pytest.raises(ValueError, match="33 activations pour 32"):
        packed.read_uniform([[0] * 33], packed.new_cache(1))
    with pytest.raises(ValueError, match="positions 5"):
        packed.read_uniform([[0] * 5], packed.new_cache(1, 4))


# --- Plus d'activations qu'un passage n'en porte --------------------------------------------------


@pytest.fixture
def long_model():
    torch.manual_seed(0)
    cfg = {**BASE, **SHAPES["livre"], "context_length": 330, "n_layers": 2}
    return GPTModel(GPTConfig(**cfg)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["int8", "int4"])
@pytest.mark.parametrize("cuts", [(300,), (127, 129, 44), (17, 283)])
def test_an_integer_prompt_read_in_several_passes(long_model, packing, cuts):
    """Une invite plus longue qu'un passage, où qu'elle soit coupée, sur des lignes quelconques."""
    packed = pack(long_model, packing)
    ids = torch.randint(307, (2, 300))
    pool = packed.new_cache(4)
    found = [packed(part, CacheView(pool, [3, 1])) for part in ids.split(cuts, dim=1)]
    for row, each in enumerate(torch.cat(found, dim=1)):
        cache = packed.new_cache(1)
        alone = torch.cat([packed.read_uniform([[t]], cache) for t in ids[row].tolist()])
        assert torch.equal(each, alone)
    assert torch.equal(packed(ids), torch.cat(found, dim=1))  # sans cache non plus


def test_the_wanted_ranks_of_a_long_batch(long_model):
    packed = pack(long_model, "int8")
    ids, at = torch.randint(307, (7, 40)), torch.tensor([0, 39, 5, 39, 12, 3, 38])
    every = packed(ids, packed.new_cache(7))
    for cache in (packed.new_cache(7), None):
        found = packed(ids, cache, at=at)
        assert torch.equal(found[:, 0], every[torch.arange(7), at])


def test_more_sequences_than_a_pass_carries(long_model):
    packed = pack(long_model, "int8")
    ids = torch.randint(307, (150, 2))
    cache = packed.new_cache(150, 2)
    found = torch.cat([packed(ids[:, :1], cache), packed(ids[:, 1:], cache)], dim=1)
    assert torch.equal(found, packed(ids))


def test_a_cache_that_is_not_the_model_s(long_model):
    packed = pack(long_model, "int8")
    with pytest.raises(ValueError, match=r"cache en bfloat16.*new_cache"):
        packed(torch.tensor([[1]]), KVCache(packed.cfg, 1, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="2 séquences, un cache de 1"):
        packed(torch.tensor([[1], [2]]), packed.new_cache(1))


@pytest.mark.parametrize("token", [301, 303, -1])
def test_a_token_in_the_padding_of_the_last_strip(token):
    """Tête liée : l'embedding est en bandes, complétées au-delà du vocabulaire."""
    torch.manual_seed(0)
    cfg = {**BASE, **SHAPES["gpt-2"], "vocab_size": 301}
    packed = pack(GPTModel(GPTConfig(**cfg)).eval(), "int4")
    with pytest.raises(IndexError, match="301"):
        packed(torch.tensor([[token]]))
