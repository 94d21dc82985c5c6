"""Des adaptateurs dans le pas compilé : ce que chaque activation y gagne, et rien aux autres."""

from dataclasses import replace

import pytest
import torch
from adapter_helpers import an_adapter, beside, content_of, merged
from torch import nn
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.adapters import Adapter, follow_adapters_
from gpt_architecture.core.grouped_codes import rounded
from gpt_architecture.core.kv_cache import CacheView
from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.kernels.decode.packed import pack

CFG = GPTConfig(
    vocab_size=211, context_length=200, emb_dim=48, n_heads=3, n_layers=2, drop_rate=0.0
)
PARTS = [[5, 17, 101, 3, 88], [7], [5, 17, 101, 3, 88, 9, 12], [200, 1]]


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = GPTModel(replace(CFG, qkv_bias=True)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and name != "pos_emb.weight":
                parameter.mul_(1.5)
    return model


@pytest.fixture(scope="module")
def files(base):
    """De rangs et de matrices différents."""
    return [
        an_adapter(base, 1, rank=1, size=0.2),
        an_adapter(base, 2, rank=8, targets=("query", "value"), size=0.2),
        an_adapter(base, 3, rank=3, targets=("down", "output", "up"), size=0.2),
    ]


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def packed(request, base):
    return pack(base, request.param)


def read(packed, parts, adapters, *, lines=None, every=False):
    """Les logits du dernier token de chaque part, ou de tous."""
    lines = list(range(len(parts))) if lines is None else lines
    cache = packed.new_cache(max(lines) + 1, 200)
    for line, adapter in zip(lines, adapters, strict=True):
        cache.adapters[line] = adapter
    wanted = range(sum(map(len, parts))) if every else None
    with torch.inference_mode():
        return packed.read_uniform(parts, CacheView(cache, lines), wanted=wanted)


class Both(nn.Module):
    """L'oracle d'une matrice : activations arrondies si elle est quantifiée, adaptateur en fp32."""

    def __init__(self, linear, pair, group):
        super().__init__()
        self.linear, self.pair, self.group = linear, pair, group

    def forward(self, x):
        inputs = x if self.group is None else rounded(x.flatten(0, -2), self.group).view(x.shape)
        a, b = self.pair
        return self.linear(inputs) + F.linear(F.linear(x, a), b.t())


def oracle_of(packed, adapter):
    """Le modèle déquantifié, dont chaque matrice est calculée à la lettre."""
    model = packed.dequantize()
    group = None if packed.scheme is None else packed.scheme.group_size
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            nothing = torch.zeros(1, module.in_features), torch.zeros(1, module.out_features)
            pair = adapter.layers.get(path, nothing)
            model.set_submodule(path, Both(module, pair, group))
    return model


def test_each_row_is_the_base_and_its_adapter(packed, base, files):
    """Les poids, quantifiés ou non, plus B·A·x en fp32 ; à des rangs différents, ensemble."""
    adapters = [beside(base, each) for each in files]
    parts = [PARTS[0], PARTS[2], PARTS[3]]
    found = read(packed, parts, adapters)
    plain = read(packed, parts, [None] * 3)
    for row, (part, adapter) in enumerate(zip(parts, adapters, strict=True)):
        with torch.inference_mode():
            expected = oracle_of(packed, adapter)(torch.tensor([part]))[0, -1]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-3)
        assert (found[row] - plain[row]).abs().max() > 0.05


def test_in_fp32_it_is_the_merged_model(base, files):
    packed = pack(base)
    for file in files:
        found = read(packed, PARTS, [beside(base, file)] * 4)
        expected = read(pack(merged(base, file)), PARTS, [None] * 4)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))


def test_the_others_change_no_bit(packed, base, files):
    """Une ligne mêlée à d'autres a les bits qu'elle a seule ; sans adaptateur, ceux d'avant."""
    first, second, third = (beside(base, each) for each in files)
    plain = read(packed, PARTS, [None] * 4)
    rows = [third, None, first, second]
    together = read(packed, PARTS, rows, lines=[2, 0, 5, 1])
    for row, (part, adapter) in enumerate(zip(PARTS, rows, strict=True)):
        assert torch.equal(together[row], read(packed, [part], [adapter])[0])
    assert torch.equal(together[1], plain[1])
    assert torch.equal(read(packed, PARTS, [None] * 4), plain)
    longest = [[token % 211 for token in range(7, 107)], *PARTS[1:3]]
    many = read(packed, longest, [first, second, None]) if packed.uniform_rows >= 108 else None
    alone = read(packed, longest[1:], [second, None])
    assert many is None or torch.equal(many[1:], alone)


def test_a_cut_changes_no_bit(packed, base, files):
    """Lue en une fois ou token par token, une invite rend les mêmes logits."""
    adapter = beside(base, files[0])
    whole = read(packed, [PARTS[2]], [adapter], every=True)
    cache = packed.new_cache(1, 32)
    cache.adapters[0] = adapter
    with torch.inference_mode():
        one_by_one = [packed.read_uniform([[token]], cache) for token in PARTS[2]]
    assert torch.equal(whole, torch.cat(one_by_one))


def test_every_way_to_read_follows_them(packed, base, files):
    """L'appel ordinaire, avec ou sans rang voulu, suit les adaptateurs des lignes."""
    adapter = beside(base, files[2])
    found = read(packed, [PARTS[2]], [adapter], every=True)
    ids = torch.tensor([PARTS[2]])
    with torch.inference_mode():
        for at in (None, torch.tensor([6])):
            cache = packed.new_cache(1, 32)
            cache.adapters[0] = adapter
            called = packed(ids, cache, at=at)[0]
            torch.testing.assert_close(called, found[-len(called) :], rtol=0, atol=2e-4)
    cache = packed.new_cache(1, 32)
    cache.adapters[0] = adapter
    apart = packed.read_apart(PARTS[2], cache)
    assert apart is None or torch.equal(apart, found)


def test_without_kernels_pytorch_follows_them(base, files, monkeypatch):
    monkeypatch.setattr("gpt_architecture.kernels.decode.passes._compiles", lambda _cfg: False)
    packed = pack(base)
    assert not packed.compiled
    adapter = beside(base, files[0])
    cache = packed.new_cache(2, 32)
    cache.adapters[0] = adapter
    ids = torch.tensor([PARTS[0]] * 2)
    with torch.inference_mode():
        found, plain = packed(ids, cache)[:, -1]
        expected = merged(base, files[0])(ids)[0, -1]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(plain, base(ids)[0, -1], rtol=0, atol=2e-5)


def test_the_light_copy_proposes_with_them(base, files):
    """La copie sur 8 bits qui propose suit aussi l'adaptateur de sa ligne : elle devine bien."""
    packed, adapter = pack(base), beside(base, files[1])
    cache = packed.new_cache(2, 40)
    cache.adapters[1] = adapter
    drafted = packed.draft([7, 7], cache, 8)
    assert cache.lengths == [0, 0]
    for row, own in enumerate((None, adapter)):
        alone, token, wanted = packed.new_cache(1, 40), 7, []
        alone.adapters[0] = own
        for _ in range(8):
            token = int(packed.read_uniform([[token]], alone)[0].argmax())
            wanted.append(token)
        assert drafted[row][:4] == wanted[:4]
    assert drafted[0] == packed.draft([7], packed.new_cache(1, 40), 8)[0]
    assert drafted[0] != drafted[1]


def test_weights_moved_to_large_pages_are_still_followed(base, files):
    """Ranger les poids en grandes pages change d'adresse l'embedding que lisent les deux pas."""
    packed, adapter = pack(base), beside(base, files[0])
    before = read(packed, PARTS, [adapter, None, None, adapter])
    packed.settle()
    assert torch.equal(read(packed, PARTS, [adapter, None, None, adapter]), before)


def test_matrices_of_another_shape_are_never_read(base):
    """Le noyau n'a que des adresses : ce qui ne va pas est refusé avant lui."""
    bad = {"trf_blocks.0.att.W_query": (torch.zeros(2, 47), torch.zeros(2, 48))}
    with pytest.raises(ValueError, match="W_query"):
        read(pack(base), [[1]], [Adapter(layers=bad, sha256="")])


def test_pytorch_and_the_kernels_agree(base, files):
    """Le calcul lisible de `core.adapters` est l'oracle des noyaux."""
    adapter = beside(base, files[2])
    found = read(pack(base), [PARTS[2]], [adapter], every=True)
    model = content_of(base).build().eval()
    follow_adapters_(model)
    cache = model.new_cache(1)
    cache.adapters[0] = adapter
    with torch.inference_mode():
        expected = model(torch.tensor([PARTS[2]]), cache)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert weights_sha256(content_of(model)) == weights_sha256(content_of(base))
