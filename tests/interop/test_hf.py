"""Importer un GPT-2 écrit par Transformers ; refuser tout le reste en une phrase."""

import json

import pytest
import torch
from interop_helpers import BOOK, GPT2, ids, logits, tokenizer, transformers_folder
from safetensors.torch import save_file

from gpt_architecture.errors import GPTArchitectureError, ModelFileError, TokenizerError
from gpt_architecture.interop.hf import read_hf

pytest.importorskip("transformers", reason="parité : le paquet transformers n'est pas installé")


def edit(folder, **changes):
    path = folder / "config.json"
    document = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["liée", "indépendante"])
def test_same_logits(tmp_path, config):
    theirs = transformers_folder(tmp_path, config)
    content = read_hf(tmp_path, tokenizer=tokenizer())
    assert content.config.tie_weights is config.tie_weights
    torch.testing.assert_close(
        logits(content.build(), ids()), logits(theirs, ids()), rtol=0, atol=1e-5
    )


def test_sharded(tmp_path):
    """Des poids répartis par Transformers sur plusieurs fichiers."""
    theirs = transformers_folder(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ours = read_hf(tmp_path, tokenizer=tokenizer()).build()
    torch.testing.assert_close(logits(ours, ids()), logits(theirs, ids()), rtol=0, atol=1e-5)


def test_bin_without_prefix(tmp_path):
    """`pytorch_model.bin` aux noms sans préfixe, comme celui du Hub pour gpt2."""
    theirs = transformers_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {
        name.removeprefix("transformer."): tensor
        for name, tensor in theirs.state_dict().items()
        if name != "lm_head.weight"
    }
    state["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril().bool()
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours = read_hf(tmp_path, tokenizer=tokenizer()).build()
    torch.testing.assert_close(logits(ours, ids()), logits(theirs, ids()), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_names_of_a_wrapped_model(tmp_path, prefix, name):
    """Les poids d'un modèle compilé ou réparti, dans les deux sortes de fichiers."""
    theirs = transformers_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {prefix + k: v.clone() for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    write = save_file if name.endswith(".safetensors") else torch.save
    write(state, tmp_path / name)
    ours = read_hf(tmp_path, tokenizer=tokenizer()).build()
    torch.testing.assert_close(logits(ours, ids()), logits(theirs, ids()), rtol=0, atol=1e-5)


def test_legacy_vocabulary_files(tmp_path):
    """Sans tokenizer.json, `vocab.json` et `merges.txt` disent le même vocabulaire."""
    transformers_folder(tmp_path)
    mine = tokenizer()
    described = mine.to_dict()
    vocab = {token: index for index, token in enumerate(described["vocab"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *described["merges"], ""])
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    assert dict(read_hf(tmp_path).tokenizer) == described


def test_gpt2_vocabulary_is_assumed_by_its_size_only(tmp_path):
    transformers_folder(tmp_path)
    with pytest.raises(TokenizerError, match="vocabulaire de 300 tokens"):
        read_hf(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"model_type": None}, "architecture"),
        ({"activation_function": "silu"}, "dont activation_function soit"),
        ({"scale_attn_weights": 1}, "scale_attn_weights = 1"),
        ({"scale_attn_by_inverse_layer_idx": None}, "scale_attn_by_inverse_layer_idx"),
        ({"reorder_and_upcast_attn": "oui"}, "reorder_and_upcast_attn"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"layer_norm_epsilon": 0}, "norm_eps"),
        ({"layer_norm_epsilon": "1e-5"}, "norm_eps"),
        ({"n_inner": 64}, "mlp.c_fc.weight"),
        ({"n_inner": 2**63}, "inner_dim"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"n_embd": 25}, "emb_dim"),
        ({"n_embd": "24"}, "emb_dim"),
        ({"n_layer": -1}, "n_layers"),
        ({"n_layer": 10**9}, "n_layers"),
        ({"n_layer": 10_000}, "blocs annoncés"),
        ({"n_layer": 3}, "il manque h.2"),
        ({"n_positions": 64}, "wpe.weight"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"vocab_size": 2**20}, "wte.weight"),
        ({"tie_word_embeddings": False}, "lm_head.weight"),
        ({"tie_word_embeddings": "oui"}, "tie_weights"),
        ({"resid_pdrop": "beaucoup"}, "config.json"),
        ({"resid_pdrop": 2.0}, "drop_rate"),
        ({"activation_function": ["gelu_new"]}, "activation_function"),
        ({"resid_pdrop": [0.1]}, "taux"),
    ],
)
def test_other_architectures_are_refused(tmp_path, changes, words):
    transformers_folder(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ModelFileError) as refusal:
        read_hf(tmp_path, tokenizer=tokenizer())
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_twelve_bytes_of_an_inner_size_are_accepted(tmp_path):
    """`n_inner` écrit en toutes lettres, quand il vaut quatre fois la largeur."""
    transformers_folder(tmp_path)
    edit(tmp_path, n_inner=96)
    assert read_hf(tmp_path, tokenizer=tokenizer()).config == GPT2


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garbage(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def escaping_index(folder):
    (folder / "model.safetensors").rename(folder.parent / "dehors.safetensors")
    index = {"weight_map": {"wte.weight": "../dehors.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def empty_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")


def hostile_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"wte.weight": print}, folder / "pytorch_model.bin")


def not_tensors(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"wte.weight": "texte"}, folder / "pytorch_model.bin")


def not_json(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def json_list(folder):
    (folder / "config.json").write_text("[]", encoding="utf-8")


def deep_json(folder):
    (folder / "config.json").write_text("[" * 200_000, encoding="utf-8")


def odd_provenance(folder):
    (folder / "gpt_architecture.json").write_text('{"format": "x"}', encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "illisible"),
        (garbage, "illisible"),
        (huge_header, "illisible"),
        (no_weights, "n'a pas de poids"),
        (escaping_index, "../dehors.safetensors"),
        (missing_shard, "qui manque"),
        (empty_index, "weight_map"),
        (hostile_pickle, "objet Python refusé"),
        (not_tensors, "autre chose que des tenseurs"),
        (not_json, "illisible"),
        (json_list, "n'est pas un objet JSON"),
        (deep_json, "illisible"),
        (odd_provenance, "provenance"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_or_hostile_folders_are_refused(tmp_path, damage, words):
    folder = tmp_path / "modele"
    transformers_folder(folder)
    damage(folder)
    with pytest.raises(GPTArchitectureError) as refusal:
        read_hf(folder, tokenizer=tokenizer())
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
