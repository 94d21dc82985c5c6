"""La copie sur 8 bits : elle propose, et ne change rien à ce que le modèle calcule."""

import gc
import weakref

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import CacheView
from gpt_architecture.core.model import GPTModel
from gpt_architecture.decoding.cache_reader import CacheReader, Part
from gpt_architecture.kernels.decode.packed import pack

CFG = GPTConfig(vocab_size=211, context_length=32, emb_dim=48, n_heads=3, n_layers=2, drop_rate=0.0)
PROMPT = [5, 17, 101, 3, 88]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPTModel(CFG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and name != "pos_emb.weight":
                parameter.mul_(1.5)
    return model


def greedy_of(packed, token, count):
    """La suite gloutonne d'un token, par un modèle et son cache à lui."""
    cache, found = packed.new_cache(1), []
    for _ in range(count):
        token = int(packed.read_uniform([[token]], cache)[0].argmax())
        found.append(token)
    return found


def test_from_nothing_it_writes_what_the_int8_model_writes(model):
    packed = pack(model)
    drafted = packed.draft([7, 9], packed.new_cache(2), 8)
    light = pack(model, "int8")
    assert drafted == [greedy_of(light, 7, 8), greedy_of(light, 9, 8)]


def test_it_guesses_most_of_what_the_model_writes(model):
    packed = pack(model)
    found, wanted = packed.draft([7], packed.new_cache(1), 20)[0], greedy_of(packed, 7, 20)
    same = next((i for i in range(20) if found[i] != wanted[i]), 20)
    assert same >= 8


def test_the_model_computes_the_same_bits_after_it(model):
    packed = pack(model)
    plain, drafted = packed.new_cache(3, 20), packed.new_cache(3, 20)
    for cache in (plain, drafted):
        packed.read_uniform([PROMPT], CacheView(cache, [1]))
    before = drafted.storage.clone()
    packed.draft([7], CacheView(drafted, [1]), 5)
    assert drafted.lengths == plain.lengths == [0, len(PROMPT), 0]
    changed = (drafted.storage != before).any(dim=-1)  # (couches, 2, B, H, positions)
    assert not changed[:, :, [0, 2]].any()
    assert not changed[:, :, 1, :, : len(PROMPT)].any()
    assert not changed[:, :, 1, :, len(PROMPT) + 5 :].any()
    again = [
        packed.read_uniform([[7, 8, 9]], CacheView(cache, [1]), wanted=range(3))
        for cache in (plain, drafted)
    ]
    assert torch.equal(*again)


@pytest.mark.parametrize(("capacity", "read"), [(8, 5), (CFG.context_length, 30)])
def test_it_never_writes_past_the_end(model, capacity, read):
    packed = pack(model)
    cache = packed.new_cache(2, capacity)
    packed.read_uniform([list(range(read))], CacheView(cache, [0]))
    room = capacity - read
    before = cache.storage[:, :, 1].clone()
    assert len(packed.draft([7], CacheView(cache, [0]), room)[0]) == room
    with pytest.raises(ValueError, match="positions"):
        packed.draft([7], CacheView(cache, [0]), room + 1)
    assert torch.equal(cache.storage[:, :, 1], before)
    assert cache.lengths == [read, 0]


@pytest.mark.parametrize(("packing", "able"), [("fp32", True), ("int8", False), ("int4", False)])
def test_only_full_weights_have_a_copy(model, packing, able):
    assert pack(model, packing).can_draft is able


def test_a_model_and_its_copy_are_given_back_together(model):
    packed = pack(model)
    packed.draft([7], packed.new_cache(1), 1)
    found = weakref.ref(packed)
    gc.disable()
    try:
        del packed
        assert found() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("packing", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("count", [2, 3, 6, 8])
def test_several_tokens_read_apart_have_the_bits_of_each_alone(model, packing, count):
    packed = pack(model, packing)
    tokens = [7, 9, 3, 200, 11, 0, 150, 7][:count]
    alone, together = packed.new_cache(1), packed.new_cache(1)
    for cache in (alone, together):
        packed(torch.tensor([PROMPT]), cache)
    wanted = torch.cat([packed(torch.tensor([[token]]), alone)[0] for token in tokens])
    assert torch.equal(packed.read_apart(tokens, together), wanted)
    assert torch.equal(alone.storage, together.storage)
    assert alone.lengths == together.lengths


@pytest.mark.parametrize("count", [5, 21])
def test_too_many_tokens_apart_are_read_as_elsewhere(model, count):
    packed = pack(model)
    tokens = torch.randint(211, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    apart, plain = packed.new_cache(1), packed.new_cache(1)
    part = Part(row=0, tokens=tokens, every=True)
    with torch.inference_mode():
        (found,) = CacheReader(packed, tokenwise=True).run(apart, [part])
        wanted = packed(torch.tensor([tokens]), plain)[0]
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found, wanted) or count < 8
    assert apart.lengths == plain.lengths == [count]


def test_too_many_tokens_are_not_read_apart(model):
    packed = pack(model)
    cache = packed.new_cache(1)
    assert packed.read_apart(list(range(9)), cache) is None
    assert cache.lengths == [0]
    packed(torch.tensor([list(range(30))]), cache)
    with pytest.raises(ValueError, match="cache plein"):
        packed.read_apart([1, 2, 3], cache)
