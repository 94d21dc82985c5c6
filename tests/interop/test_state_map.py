"""La table des noms : aller, retour, refus."""

from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content
from parity_helpers import random_model, to_transformers

from gpt_architecture.errors import ModelFileError
from gpt_architecture.interop.state_map import from_hf, key_table, own_weights, to_hf

CONFIGS = [pytest.param(GPT2, id="gpt2"), pytest.param(BOOK, id="livre")]


@pytest.mark.parametrize("config", CONFIGS)
def test_there_and_back(config):
    """D'ici à Transformers puis retour : les mêmes poids, bit pour bit, aux mêmes noms."""
    state = content(config).state_dict
    back = from_hf(to_hf(state, config), config)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("config", CONFIGS)
def test_back_and_there(config):
    """De Transformers à ici puis retour : leurs noms, leurs valeurs."""
    theirs = dict(to_transformers(random_model(config)).state_dict())
    if config.tie_weights:
        del theirs["lm_head.weight"]
    again = to_hf(from_hf(theirs, config), config)
    assert set(again) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(again[name], tensor), name


def test_the_table_names_everything_once():
    """Chaque poids d'ici a une ligne et une seule, dans les deux modes."""
    for config in (GPT2, BOOK):
        ours = [name for e in key_table(config) if not e.absent for name in e.ours]
        expected = set(random_model(config).state_dict())
        assert len(ours) == len(set(ours))
        assert set(ours) == expected - ({"out_head.weight"} if config.tie_weights else set())


def test_names_without_prefix_and_stored_masks():
    """« h.0… » vaut « transformer.h.0… » ; les masques d'attention stockés sont ignorés."""
    theirs = to_hf(content(GPT2).state_dict, GPT2)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    bare["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    expected = from_hf(theirs, GPT2)
    for name, tensor in from_hf(bare, GPT2).items():
        assert torch.equal(tensor, expected[name])


def test_a_repeated_tied_head_is_accepted_and_another_refused():
    theirs = to_hf(content(GPT2).state_dict, GPT2)
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"].clone()
    assert set(from_hf(theirs, GPT2)) == set(content(GPT2).state_dict)
    theirs["lm_head.weight"] = theirs["lm_head.weight"] + 1
    with pytest.raises(ModelFileError, match=r"lm_head.weight n'est pas wte.weight"):
        from_hf(theirs, GPT2)


def test_half_precision_becomes_fp32():
    theirs = {k: v.half() for k, v in to_hf(content(GPT2).state_dict, GPT2).items()}
    assert {t.dtype for t in from_hf(theirs, GPT2).values()} == {torch.float32}


def drop(state):
    del state["transformer.h.1.mlp.c_fc.bias"]


def add(state):
    state["transformer.h.1.mlp.gate.weight"] = torch.zeros(3)


def reshape(state):
    state["transformer.wpe.weight"] = torch.zeros(7, 24)


def untranspose(state):
    state["transformer.h.0.mlp.c_fc.weight"] = state["transformer.h.0.mlp.c_fc.weight"].T


def integers(state):
    state["transformer.ln_f.bias"] = torch.zeros(24, dtype=torch.int64)


def twice(state):
    state["ln_f.bias"] = state["transformer.ln_f.bias"]


def shallower(state):
    for name in [name for name in state if ".h.1." in name]:
        del state[name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop, "il manque h.1.mlp.c_fc.bias"),
        (add, "en trop h.1.mlp.gate.weight"),
        (reshape, r"wpe.weight est de forme \(7, 24\) au lieu de \(32, 24\)"),
        (untranspose, r"h.0.mlp.c_fc.weight est de forme \(96, 24\)"),
        (integers, "ln_f.bias est en int64"),
        (twice, "donné deux fois"),
        (shallower, "il manque .* et 9 autres"),
    ],
)
def test_their_unmatched_weights_are_refused(damage, words):
    state = to_hf(content(GPT2).state_dict, GPT2)
    damage(state)
    with pytest.raises(ModelFileError, match=words):
        from_hf(state, GPT2)


def test_our_unmatched_weights_are_refused():
    state = dict(content(BOOK).state_dict)
    state["trf_blocks.0.att.mask"] = torch.ones(32, 32)  # celui des fichiers du livre : ignoré
    assert len(own_weights(state, BOOK)) == len(state) - 1
    with pytest.raises(ModelFileError, match=r"il manque trf_blocks.0.att.W_key.bias, .* autres"):
        to_hf(state, replace(BOOK, qkv_bias=True))
    state["surprise"] = torch.zeros(1)
    with pytest.raises(ModelFileError, match="en trop surprise"):
        to_hf(state, BOOK)


def test_nonzero_biases_are_not_dropped():
    """Dit sans biais, un modèle qui en a est refusé : les perdre changerait ses logits."""
    theirs = to_hf(content(BOOK).state_dict, BOOK)
    theirs["transformer.h.0.attn.c_attn.bias"] += 1
    with pytest.raises(ModelFileError, match="n'est pas nul"):
        from_hf(theirs, BOOK)


def test_thousands_of_blocks_are_refused_at_once():
    with pytest.raises(ModelFileError, match="10000 blocs annoncés pour 28 poids"):
        from_hf(to_hf(content(GPT2).state_dict, GPT2), replace(GPT2, n_layers=10_000))
