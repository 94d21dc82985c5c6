"""Les adaptateurs qu'on ne fond pas : à chaque ligne le sien, et ce qui est refusé."""

from dataclasses import replace

import pytest
import torch
from adapter_helpers import an_adapter, beside, merged
from decoding_helpers import sharp_model

from gpt_architecture.core.adapters import follow_adapters_, with_adapter
from gpt_architecture.core.kv_cache import CacheView
from gpt_architecture.errors import ModelFileError

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [3, 1, 4, 1, 5]])


def read(model, adapters):
    """Les logits de trois lignes, lues en deux fois avec leurs adaptateurs."""
    cache = model.new_cache(3, 16)
    cache.adapters[:] = adapters
    with torch.inference_mode():
        return torch.cat([model(IDS[:, :3], cache), model(IDS[:, 3:], cache=cache)], dim=1)


def test_each_row_computes_with_its_own():
    """Chaque ligne vaut son modèle fondu ; celle qui n'en a pas garde ses bits."""
    base = sharp_model()
    first = an_adapter(base, 1, rank=2)
    second = an_adapter(base, 2, rank=5, targets=("value", "down"))
    plain = read(base, [None] * 3)
    follow_adapters_(base)
    follow_adapters_(base)  # sans effet la seconde fois
    assert torch.equal(read(base, [None] * 3), plain)
    found = read(base, [beside(base, first), None, beside(base, second)])
    assert torch.equal(found[1], plain[1])
    for row, file in ((0, first), (2, second)):
        expected = read(merged(base, file), [None] * 3)[row]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)
        assert (expected - plain[row]).abs().max() > 0.1
    with torch.inference_mode():  # ailleurs, rien n'en reste
        assert torch.equal(base(IDS), sharp_model()(IDS))


def test_a_network_seen_through_its_adapter():
    """Il vaut le modèle fondu, sans copier les poids ni rien poser sur le modèle."""
    base = sharp_model()
    file = an_adapter(base, 1, rank=2)
    with torch.inference_mode():
        before = base(IDS)
        found = with_adapter(base, beside(base, file))
        torch.testing.assert_close(found(IDS), merged(base, file)(IDS), rtol=0, atol=1e-4)
        assert torch.equal(base(IDS), before)
    assert found.tok_emb.weight is base.tok_emb.weight
    assert all(not each._forward_hooks for each in base.modules())


def test_a_cache_keeps_the_adapters_of_its_rows():
    """Rangées, copiées d'un autre cache ou vues, les lignes gardent le leur."""
    base = sharp_model()
    first, second = (beside(base, an_adapter(base, seed)) for seed in (1, 2))
    cache = base.new_cache(3)
    cache.adapters[:] = [first, None, second]
    assert CacheView(cache, [2, 0]).adapters == [second, first]
    other = base.new_cache(4)
    other.load_(cache, 1)
    assert other.adapters == [None, first, None, second]
    cache.select_([2, 2, 0])
    assert cache.adapters == [second, second, first]


def test_its_fingerprint_is_of_what_it_adds():
    base = sharp_model()
    file = an_adapter(base, 1)
    one, again = beside(base, file), beside(base, file)
    assert one.sha256 == again.sha256
    assert one.number != again.number
    assert (one.rank, one.nbytes) == (3, sum(each.nbytes for each in file.tensors.values()))
    stronger = replace(file, lora=replace(file.lora, alpha=7.0))
    assert beside(base, stronger).sha256 != one.sha256


def test_what_does_not_fit_is_refused():
    """Une matrice de trop, absente, d'une autre forme ou sans valeur ; un autre modèle."""
    base = sharp_model()
    file = an_adapter(base, 1, targets=("query",))
    (name, tensor), *rest = file.tensors.items()
    for tensors, told in (
        (dict(rest), "lora_A"),
        ({**file.tensors, name: tensor[:, :-1]}, "lora_A"),
        ({**file.tensors, "trf_blocks.9.att.W_query.lora_A": tensor}, "trf_blocks.9"),
        ({**file.tensors, name: tensor * torch.inf}, "infinies"),
    ):
        with pytest.raises(ModelFileError, match=told):
            beside(base, replace(file, tensors=tensors))
    with pytest.raises(ModelFileError, match="autre modèle"):
        file.beside(base.cfg, "0" * 64)
    with pytest.raises(ModelFileError, match="ne vont pas"):
        file.beside(sharp_model(emb_dim=48).cfg, None)


def test_a_sparse_one_leaves_the_matrices_it_does_not_name():
    """Un dossier de PEFT peut n'adapter que des blocs choisis ; jamais une moitié de paire."""
    base = sharp_model()
    file = an_adapter(base, 1, sparse=True)
    some = {name: each for name, each in file.tensors.items() if ".1." in name}
    adapter = beside(base, replace(file, tensors=some))
    assert len(adapter.layers) == 6
    follow_adapters_(base)
    expected = read(merged(base, replace(file, tensors=some)), [None] * 3)
    torch.testing.assert_close(read(base, [adapter] * 3), expected, rtol=0, atol=1e-4)
    with pytest.raises(ModelFileError, match="lora_B"):
        beside(base, replace(file, tensors=dict(list(some.items())[:-1])))
