"""Exporter un dossier : Transformers le charge hors ligne et calcule la même chose."""

import json
import stat
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, TEXT, content, ids, logits
from safetensors import safe_open

from gpt_architecture.api import load
from gpt_architecture.data.tokenizer import SimpleTokenizerV2, tokenizer_from_dict
from gpt_architecture.errors import ModelFileError, OutputError, TokenizerError
from gpt_architecture.interop.hf import read_hf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.state_map import key_table

transformers = pytest.importorskip("transformers", reason="le paquet transformers n'est pas là")

CONFIGS = [pytest.param(GPT2, id="gpt2"), pytest.param(BOOK, id="livre")]
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "gpt_architecture.json",
    "README.md",
}


@pytest.fixture(params=CONFIGS)
def exported(request, tmp_path):
    """Le modèle et le dossier où il a été exporté."""
    original = content(request.param, window=24, prompt="Le passeur", val_losses=[3.2, 2.5])
    export_hf(original, tmp_path / "modele")
    return original, tmp_path / "modele"


def test_the_folder_is_complete(exported):
    """Chaque fichier promis, lisible par tous ceux que l'umask permet ; rien d'autre."""
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir() if path.name != "travail"] == ["modele"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {stat.S_IMODE(folder.stat().st_mode) & 0o666}


def test_transformers_loads_the_same_model(exported):
    """AutoModelForCausalLM, hors ligne : logits à 1e-5, tête liée ou non comme ici."""
    original, folder = exported
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    assert not any(report.values()), report
    torch.testing.assert_close(
        logits(original.build(), ids()), logits(theirs.eval(), ids()), rtol=0, atol=1e-5
    )
    tied = theirs.lm_head.weight is theirs.transformer.wte.weight
    assert tied is original.config.tie_weights


def test_transformers_loads_the_same_tokenizer(exported):
    """AutoTokenizer, hors ligne : mêmes identifiants, même texte au retour."""
    original, folder = exported
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = tokenizer_from_dict(original.tokenizer)
    for text in (TEXT, "L'été, à 9 h 30 : « ça va ? »\n\n  🙂", "", " "):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.model_max_length == 24


def test_same_greedy_text(exported):
    """La même suite gloutonne, mot pour mot."""
    _, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    codec = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = codec("Le passeur", return_tensors="pt")
    out = theirs.generate(**encoded, max_new_tokens=12, do_sample=False)
    gpt = load(folder, device="cpu", engine="torch")
    ours = gpt.generate("Le passeur", max_tokens=12)
    assert codec.decode(out[0], skip_special_tokens=True) == ours


def test_there_and_back(exported):
    """L'export se relit à l'identique : forme, poids, vocabulaire, métadonnées."""
    original, folder = exported
    back = read_hf(folder)
    assert back.config == original.config
    assert back.tokenizer == original.tokenizer
    assert back.metadata == original.metadata
    for name, tensor in original.state_dict.items():
        assert torch.equal(back.state_dict[name], tensor), name


def test_what_vllm_reads(exported):
    """Ce que le chargeur GPT-2 de vLLM exige : clés de config.json, noms et formes des poids.

    Il lit les tailles par les alias de `GPT2Config`, exige que trois variantes soient absentes,
    ajoute `transformer.` aux noms qui ne l'ont pas, transpose c_attn, c_proj et c_fc, et prend
    toute projection avec un biais.
    """
    original, folder = exported
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert document["architectures"] == ["GPT2LMHeadModel"]
    assert document["model_type"] == "gpt2"
    assert not document["add_cross_attention"]
    assert not document["scale_attn_by_inverse_layer_idx"]
    assert not document["reorder_and_upcast_attn"]
    assert document["activation_function"] == "gelu_new"
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.hidden_size == original.config.emb_dim
    assert config.num_attention_heads == original.config.n_heads
    assert config.num_hidden_layers == original.config.n_layers
    assert config.max_position_embeddings == original.config.context_length
    assert config.vocab_size == original.config.vocab_size
    assert config.n_inner is None
    assert config.layer_norm_epsilon == 1e-5
    assert config.tie_word_embeddings is original.config.tie_weights
    width = original.config.emb_dim
    linear = {"attn.c_attn": 3 * width, "attn.c_proj": width, "mlp.c_fc": 4 * width}
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        for n in range(original.config.n_layers):
            for module, d_out in linear.items():
                name = f"transformer.h.{n}.{module}"
                assert weights.get_slice(f"{name}.weight").get_shape() == [width, d_out]
                assert weights.get_slice(f"{name}.bias").get_shape() == [d_out]
    assert all(name.startswith(("transformer.", "lm_head.weight")) for name in names)
    assert ("lm_head.weight" in names) is not original.config.tie_weights
    assert len(names) == len(list(key_table(original.config)))


def test_sharded_export(tmp_path):
    """Répartis sur plusieurs fichiers, avec leur index ; Transformers et ici les relisent."""
    original = content(GPT2)
    export_hf(original, tmp_path / "m", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = sorted((tmp_path / "m").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    assert index["metadata"]["total_size"] == 4 * GPT2.num_parameters()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ours = read_hf(tmp_path / "m").build()
    torch.testing.assert_close(logits(ours, ids()), logits(theirs, ids()), rtol=0, atol=1e-5)


def test_half_precision(tmp_path):
    """En fp16 : moitié moins, config.json le dit, et les logits s'en ressentent peu."""
    original = content(GPT2)
    export_hf(original, tmp_path / "m", dtype="f16")
    document = json.loads((tmp_path / "m/config.json").read_text(encoding="utf-8"))
    assert document["dtype"] == "float16"
    gap = logits(read_hf(tmp_path / "m").build(), ids()) - logits(original.build(), ids())
    assert 0 < gap.abs().max() < 0.05


def test_half_precision_overflow_is_refused(tmp_path):
    original = content(GPT2)
    original.state_dict["pos_emb.weight"][0, 0] = 1e6
    with pytest.raises(ModelFileError, match="exportez en f32"):
        export_hf(original, tmp_path / "m", dtype="f16")
    assert not (tmp_path / "m").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["travail"]


def test_chat_template_follows(tmp_path):
    """Le gabarit de conversation des métadonnées est celui d'AutoTokenizer."""
    template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}"
    export_hf(content(GPT2, chat_template=template), tmp_path / "m")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    chat = theirs.apply_chat_template([{"role": "user", "content": "Bonjour"}], tokenize=False)
    assert chat == "user : Bonjour\n"


def test_model_card(tmp_path):
    """La fiche, en deux langues, dit les faits connus et avoue les autres."""
    metadata = {
        "data": {"name": "fables\n---\nlicense: x", "sha256": "ab" * 32},
        "train_losses": [4.0, 2.25],
        "val_losses": [4.5, 3.125],
        "tokens_seen": [1000, 123456],
        "window": 24,
        "license": "cc-by-4.0",
    }
    export_hf(content(BOOK, **metadata), tmp_path / "fables")
    card = (tmp_path / "fables/README.md").read_text(encoding="utf-8")
    header = card.split("---\n")[1]
    assert "license: cc-by-4.0" in header
    assert "library_name: transformers" in header
    assert card.count("license: x") == 2, "un nom hostile n'ouvre pas de ligne"
    assert "\nlicense: x" not in card
    for fact in ("validation 3,125", "validation 3.125", "123 456", "123,456", "ab" * 32):
        assert fact in card
    export_hf(content(BOOK), tmp_path / "muet")
    silent = (tmp_path / "muet/README.md").read_text(encoding="utf-8")
    assert "license: unknown" in silent
    for unknown in ("non précisée", "not stated", "inconnues", "validation unknown"):
        assert unknown in silent


def test_a_word_tokenizer_cannot_follow(tmp_path):
    """Un vocabulaire de mots n'a pas de tokenizer.json : refusé avant d'écrire."""
    words = SimpleTokenizerV2.from_text("un deux trois")
    with pytest.raises(TokenizerError, match="simple-v2"):
        export_hf(replace(content(GPT2), tokenizer=words.to_dict()), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_larger_vocabulary_is_refused(tmp_path):
    small = replace(GPT2, vocab_size=280)
    with pytest.raises(ModelFileError, match="290 tokens, modèle de 280"):
        export_hf(content(small), tmp_path / "m")


def test_an_existing_folder_is_kept(tmp_path):
    """Sans force, rien n'est touché ; avec, un export en remplace un autre, rien de plus."""
    folder = tmp_path / "m"
    export_hf(content(GPT2, prompt="ancien"), folder)
    with pytest.raises(OutputError, match="existe déjà"):
        export_hf(content(BOOK), folder)
    assert read_hf(folder).metadata == {"prompt": "ancien"}
    export_hf(content(BOOK, prompt="nouveau"), folder, force=True)
    assert read_hf(folder).config == BOOK
    assert [path.name for path in tmp_path.iterdir() if path.name != "travail"] == ["m"]
    personal = tmp_path / "photos"
    personal.mkdir()
    (personal / "été.jpg").write_bytes(b"...")
    with pytest.raises(OutputError, match="pas un modèle exporté"):
        export_hf(content(GPT2), personal, force=True)
    assert (personal / "été.jpg").exists()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """Disque plein au milieu des poids : ni dossier, ni provisoire ; l'ancien reste."""
    folder = tmp_path / "m"
    export_hf(content(GPT2, prompt="ancien"), folder)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt_architecture.formats.tensor_files.save_file", full)
    with pytest.raises(OutputError, match="disque plein"):
        export_hf(content(BOOK), folder, force=True)
    assert read_hf(folder).metadata == {"prompt": "ancien"}
    assert [path.name for path in tmp_path.iterdir() if path.name != "travail"] == ["m"]


def test_what_other_readers_look_for_is_written(tmp_path):
    """CTranslate2 exige un token inconnu ; d'anciens lecteurs cherchent `n_ctx`."""
    export_hf(content(GPT2), tmp_path / "m")
    config, special, tokens = (
        json.loads((tmp_path / "m" / name).read_text("utf-8"))
        for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json")
    )
    assert config["n_ctx"] == config["n_positions"] == GPT2.context_length
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    for document in (special, tokens):
        assert [document[role] for role in roles] == ["<|endoftext|>"] * 4
