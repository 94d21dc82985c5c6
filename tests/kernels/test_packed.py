"""Le modèle compacté contre GPTModel : mêmes logits, mêmes tokens, quels que soient les lots."""

import copy
import importlib.util
import logging
import pickle

import pytest
import torch
from kernel_helpers import oracle_of

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import Scheme
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.kernels.decode.packed import PACKINGS, pack
from gpt_architecture.kernels.decode.passes import SETTLE_AFTER

BASE = {
    "vocab_size": 307,
    "context_length": 48,
    "emb_dim": 48,
    "n_heads": 3,
    "n_layers": 3,
    "drop_rate": 0.1,
}
SHAPES = {
    "livre": {},
    "gpt-2": {"qkv_bias": True, "tie_weights": True},
    "impaire": {"emb_dim": 21, "n_heads": 3, "vocab_size": 61, "qkv_bias": True},
    "cachée impaire": {"inner_dim": 77},
    "cachée étroite": {"inner_dim": 3, "qkv_bias": True},
    "étroite": {"emb_dim": 8, "n_heads": 1, "vocab_size": 5, "n_layers": 1},
    "groupes entiers": {"emb_dim": 128, "n_heads": 2},
}
TOLERANCE = {"fp32": 1e-4, "int8": 2e-2, "int4": 2e-2}
"""À mi-chemin de deux codes, un nombre va à l'un ou à l'autre selon l'ordre d'une somme : un code
est 1/127 de son groupe. Produits et codes sont vérifiés à part (test_integer_tiles.py)."""

MEAN = {"fp32": 1e-5, "int8": 2e-3, "int4": 2e-3}


def build(**changes):
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():  # des biais et des normes qui ne sont ni 0 ni 1
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif name != "pos_emb.weight":
                parameter.mul_(1.5)
    return model


def random_ids(model, batch, length):
    return torch.randint(model.cfg.vocab_size, (batch, length))


def assert_same(found, expected, packing="fp32"):
    assert found.shape == expected.shape
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[packing] * size)
    assert (found - expected).abs().mean() <= MEAN[packing] * size


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["un", "deux"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def without_numba(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_steps_give_the_logits_of_the_model(changes, packing):
    """Début de texte, morceaux de toutes tailles, puis token à token : les logits de l'oracle."""
    packed = pack(build(**changes), packing)
    oracle = oracle_of(packed)
    assert packed.compiled
    ids = random_ids(oracle, 2, 40)
    with torch.no_grad():
        expected = oracle(ids)
    cache = packed.new_cache(2, 40)
    start, found = 0, []
    for count in (1, 3, 4, 2, 20, 1, 1, 5, 1, 2):
        found.append(packed(ids[:, start : start + count], cache))
        start += count
    assert cache.lengths == [40, 40]
    assert_same(torch.cat(found, dim=1), expected, packing)


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_without_a_cache(changes, packing):
    """Sans cache, comme l'évaluation l'appelle."""
    packed = pack(build(**changes), packing)
    oracle = oracle_of(packed)
    ids = random_ids(oracle, 3, 48)
    with torch.no_grad():
        assert_same(packed(ids), oracle(ids), packing)


@pytest.mark.parametrize("tied", [False, True])
def test_fp32_shares_the_weights_until_settled(tied):
    """Rien n'est copié d'abord ; ensuite, tout l'est, sauf un embedding libre. Logits inchangés."""
    model = build(tie_weights=tied)
    packed = pack(model)
    pointers = {p.data_ptr() for p in model.parameters()}
    ids = random_ids(packed, 1, 3)
    before = packed(ids, packed.new_cache(1))
    assert {m.weight.data_ptr() for m in packed.matrices.values()} <= pointers
    packed.settle()
    own = {m.weight.data_ptr() for m in packed.matrices.values()}
    assert own & pointers == (set() if tied else {model.tok_emb.weight.data_ptr()})
    assert (packed.matrices["out_head"] is packed.matrices["tok_emb"]) is tied
    assert packed.nbytes == 4 * model.num_parameters()
    assert torch.equal(packed(ids, packed.new_cache(1)), before)


def test_settling_happens_by_itself():
    """Au passage SETTLE_AFTER, au milieu d'un texte : la suite est celle de l'oracle."""
    packed = pack(build())
    ids = random_ids(packed, 1, SETTLE_AFTER + 4)
    cache = packed.new_cache(1)
    before = packed.matrices["out_head"]
    found = torch.cat([packed(ids[:, i : i + 1], cache) for i in range(ids.size(1))], dim=1)
    assert packed.matrices["out_head"] is not before
    with torch.no_grad():
        assert_same(found, oracle_of(packed)(ids))


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_greedy_tokens_are_the_same(packing, batch):
    """Vingt tokens gloutons : ceux de GPTModel, jusqu'au lot que le pas compilé traite."""
    packed = pack(build(), packing)
    oracle = oracle_of(packed)
    prompt = random_ids(oracle, batch, 6)
    sequences = []
    for model in (packed, oracle):
        cache, ids, fresh = model.new_cache(batch), prompt, prompt
        for _ in range(20):
            with torch.no_grad():
                fresh = model(fresh, cache)[:, -1].argmax(dim=-1, keepdim=True)
            ids = torch.cat((ids, fresh), dim=1)
        sequences.append(ids)
    assert torch.equal(*sequences)


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("count", [1, 3, 10, 20])
def test_rows_of_different_lengths(packing, count):
    """Un cache dont chaque séquence a sa longueur ; début complété à droite, puis raccourci."""
    packed = pack(build(), packing)
    oracle = oracle_of(packed)
    lengths = [3, 9, 1]
    prompts, more = random_ids(oracle, 3, 9), random_ids(oracle, 3, count)
    cache = packed.new_cache(3)
    packed(prompts, cache, at=torch.tensor(lengths) - 1)
    cache.rewind_(lengths)
    found = packed(more, cache)
    assert cache.lengths == [length + count for length in lengths]
    for row, length in enumerate(lengths):
        alone = torch.cat((prompts[row, :length], more[row])).unsqueeze(0)
        with torch.no_grad():
            assert_same(found[row : row + 1], oracle(alone)[:, -count:], packing)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_only_the_wanted_position(count):
    """`at` choisit un rang par séquence, sur les deux chemins."""
    packed = pack(build())
    ids = random_ids(packed, 2, count)
    at = torch.tensor([0, count - 1])
    every = packed(ids, packed.new_cache(2))
    chosen = packed(ids, packed.new_cache(2), at=at)
    assert chosen.shape == (2, 1, 307)
    assert_same(chosen[:, 0], every[torch.arange(2), at])


def test_selected_rows_continue():
    """Après `select_`, les séquences gardées continuent comme avant."""
    packed = pack(build())
    ids = random_ids(packed, 3, 12)
    cache = packed.new_cache(3)
    packed(ids[:, :8], cache)
    cache.select_([2, 0, 2, 1])
    found = packed(ids[[2, 0, 2, 1], 8:9], cache)
    with torch.no_grad():
        assert_same(found, oracle_of(packed)(ids[[2, 0, 2, 1], :9])[:, -1:])


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_nan_is_seen(packing):
    """Une activation infinie ou NaN rend des logits NaN, jamais un token tranquille."""
    model = build()
    packed = pack(model, packing)
    with torch.no_grad():
        model.trf_blocks[1].norm2.shift[3] = torch.nan
    logits = packed(random_ids(model, 1, 1), packed.new_cache(1))
    assert logits.isnan().all()


def test_too_many_positions():
    packed = pack(build())
    with pytest.raises(ValueError, match="49 positions demandées"):
        packed(random_ids(packed, 1, 49))
    cache = packed.new_cache(1, 4)
    with pytest.raises(ValueError, match="cache plein"):
        packed(random_ids(packed, 1, 5), cache)


@pytest.mark.parametrize("at", [-1, 2])
def test_a_position_that_does_not_exist(at):
    packed = pack(build())
    with pytest.raises(IndexError):
        packed(random_ids(packed, 1, 2), packed.new_cache(1), at=torch.tensor([at]))


def test_token_out_of_the_vocabulary():
    packed = pack(build())
    with pytest.raises(IndexError):
        packed(torch.tensor([[307]]), packed.new_cache(1))


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("packing", PACKINGS)
def test_without_numba(packing, caplog):
    """Numba absent : les mêmes logits par PyTorch, et un avertissement."""
    with caplog.at_level(logging.WARNING, "gpt_architecture"):
        packed = pack(build(), packing)
    assert not packed.compiled
    assert "numba manque" in caplog.text
    ids = random_ids(packed, 2, 9)
    cache = packed.new_cache(2)
    found = torch.cat([packed(ids[:, :8], cache), packed(ids[:, 8:], cache)], dim=1)
    with torch.no_grad():
        assert_same(found, oracle_of(packed)(ids))


def test_another_device_is_refused():
    with torch.device("meta"):
        model = GPTModel(GPTConfig(**BASE))
    with pytest.raises(ConfigurationError, match="meta"):
        pack(model)


def test_unknown_packing():
    with pytest.raises(ConfigurationError, match="fp16"):
        pack(build(), "fp16")


@pytest.mark.parametrize("packing", ["int8", "int4"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_numbers(packing, bad):
    model = build()
    with torch.no_grad():
        model.trf_blocks[0].ff.layers[0].weight[2, 3] = bad
    with pytest.raises(ModelFileError, match="infini ou NaN"):
        pack(model, packing)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_every_group_size(name, group_size):
    packed = pack(build(emb_dim=96), Scheme(name=name, group_size=group_size))
    ids = random_ids(packed, 1, 6)
    cache = packed.new_cache(1)
    found = torch.cat([packed(ids[:, i : i + 1], cache) for i in range(6)], dim=1)
    with torch.no_grad():
        assert_same(found, oracle_of(packed)(ids), name)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_compiled_model_is_neither_copied_nor_pickled(packing, duplicate):
    packed = pack(build(), packing)
    with pytest.raises(TypeError, match=r"ne se copie ni ne se sérialise.*`pack`"):
        duplicate(packed)


@pytest.mark.usefixtures("without_numba")
def test_without_kernels_a_copy_computes_the_same():
    packed = pack(build())
    ids = random_ids(packed, 2, 9)
    assert torch.equal(copy.deepcopy(packed)(ids), packed(ids))
