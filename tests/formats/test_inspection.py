"""Dire ce qu'est un modèle sans lire ses poids."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, tokenizer

from gpt_architecture.config import LoRAConfig
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.errors import GPTArchitectureError, ModelFileError
from gpt_architecture.formats.adapter_file import AdapterFile, save_adapter
from gpt_architecture.formats.checkpoint import write_checkpoint
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.formats.quantized_file import save_quantized
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.onnx import export_onnx
from gpt_architecture.kernels.decode.packed import pack


def model_file(path, config):
    original = content(config, window=24, data={"name": "fables", "sha256": "ab"})
    save_model(
        path,
        original.build(),
        config,
        tokenizer=original.tokenizer,
        metadata=original.metadata,
    )


@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["gpt2", "livre"])
@pytest.mark.parametrize("form", ["model", "hf", "quantized"])
def test_facts_of_every_form(tmp_path, config, form):
    """Genre, forme, paramètres, vocabulaire, provenance : les mêmes sous toutes les formes."""
    path = tmp_path / "m"
    original = content(config, window=24)
    if form == "model":
        model_file(path, config)
    elif form == "hf":
        export_hf(original, path)
    else:
        save_quantized(
            path,
            pack(original.build(), "int8"),
            tokenizer=original.tokenizer,
            metadata=original.metadata,
        )
    seen = inspect_model(path)
    assert seen.kind == form
    assert seen.config == config
    assert seen.parameters == config.num_parameters()
    assert seen.tokenizer == {
        "name": "bpe",
        "vocab_size": 290,
        "sha256": tokenizer_sha256(tokenizer().to_dict()),
    }
    assert seen.provenance["window"] == 24
    assert seen.tensors


def test_shapes_are_those_of_the_file(tmp_path):
    export_hf(content(GPT2), tmp_path / "m", dtype="f16")
    shapes = {info.name: (info.shape, info.dtype) for info in inspect_model(tmp_path / "m").tensors}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == ((24, 72), "F16")
    assert shapes["transformer.wte.weight"] == ((300, 24), "F16")


def test_hashes(tmp_path):
    """L'empreinte de chaque fichier, ou rien si on ne la demande pas."""
    model_file(tmp_path / "m.pt", BOOK)
    (seen,) = inspect_model(tmp_path / "m.pt").files
    data = (tmp_path / "m.pt").read_bytes()
    assert (seen.size, seen.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    (bare,) = inspect_model(tmp_path / "m.pt", hashes=False).files
    assert bare.sha256 is None


def test_progress_covers_every_byte(tmp_path):
    export_hf(content(GPT2), tmp_path / "m")
    steps = []
    inspect_model(tmp_path / "m", on_progress=lambda done, total: steps.append((done, total)))
    total = sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    assert steps[-1] == (total, total)


def test_book_file_without_known_heads(tmp_path):
    """Le nombre de têtes inconnu n'empêche pas de dire le reste."""
    torch.save(dict(content(BOOK).state_dict), tmp_path / "m.pth")
    seen = inspect_model(tmp_path / "m.pth")
    assert (seen.kind, seen.config) == ("book", None)
    assert seen.parameters == BOOK.num_parameters()
    assert "300 tokens" in seen.tokenizer["problem"]


def test_nanogpt_checkpoint(tmp_path):
    arguments = {
        **{"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8},
        **{"vocab_size": 65, "bias": False, "dropout": 0.0},
    }
    state = {"_orig_mod.transformer.wte.weight": torch.zeros(65, 4)}
    torch.save(
        {
            "model": state,
            "model_args": arguments,
            "iter_num": 7,
            "config": {"dataset": "shakespeare_char"},
        },
        tmp_path / "ckpt.pt",
    )
    seen = inspect_model(tmp_path / "ckpt.pt")
    assert seen.kind == "nanogpt"
    assert seen.tensors[0].name == "transformer.wte.weight"
    assert seen.provenance == {"steps": 7, "dataset": "shakespeare_char"}


def test_a_gguf_tells_its_shape_and_its_vocabulary(tmp_path):
    pytest.importorskip("gguf", reason="lire un fichier GGUF")
    original = content(GPT2, window=24, name="fables", license="mit")
    export_gguf(original, tmp_path / "m.gguf")
    seen = inspect_model(tmp_path / "m.gguf")
    assert seen.kind == "gguf"
    assert seen.config == replace(GPT2, vocab_size=290, context_length=24)
    assert (seen.tokenizer["name"], seen.tokenizer["vocab_size"]) == ("gpt2/gpt-2", 290)
    assert len(seen.tokenizer["sha256"]) == 64
    assert seen.provenance["general.name"] == "fables"
    assert ("token_embd.weight", (290, 24), "F32") in [
        (info.name, info.shape, info.dtype) for info in seen.tensors
    ]


def test_an_onnx_tells_its_inputs_and_its_outputs(tmp_path):
    pytest.importorskip("onnx", reason="lire un fichier ONNX")
    export_onnx(content(GPT2, window=24), tmp_path / "m")
    seen = inspect_model(tmp_path / "m")
    assert (seen.kind, seen.parameters) == ("onnx", GPT2.num_parameters())
    assert seen.tokenizer == {"problem": "son nom seul est écrit : bpe"}
    assert seen.provenance["inputs"] == "input_ids (batch, time) INT64"
    assert seen.provenance["outputs"] == "logits (batch, time, 300) FLOAT"
    assert seen.provenance["opset"] == "ai.onnx 20"
    assert (seen.provenance["window"], seen.provenance["producer"]) == ("24", "gpt-architecture")
    assert ("tok_emb.weight", (300, 24), "FLOAT") in [
        (info.name, info.shape, info.dtype) for info in seen.tensors
    ]


def test_adapters_tell_their_base_and_their_rank(tmp_path):
    lora = LoRAConfig(rank=3, alpha=6.0, targets=("query", "up"))
    tensors = {"trf_blocks.0.att.W_query.lora_A": torch.zeros(3, 24)}
    adapter = AdapterFile(lora=lora, base_sha256="ab" * 32, tensors=tensors, metadata={"steps": 7})
    save_adapter(tmp_path / "a", adapter)
    seen = inspect_model(tmp_path / "a")
    assert (seen.kind, seen.parameters) == ("adapter", 72)
    assert seen.provenance == {
        "base_sha256": "ab" * 32,
        "rank": 3,
        "alpha": 6.0,
        "targets": "query, up",
        "steps": 7,
    }
    assert "modèle de départ" in seen.tokenizer["problem"]


@pytest.mark.parametrize(
    "data",
    [b"GGUF" + bytes(40), b"GGUF\x03\0\0\0" + b"\xff" * 60, b"\x08\x09\x12" + b"\xff" * 40],
    ids=["gguf vide", "gguf démesuré", "onnx"],
)
def test_a_damaged_header_is_one_french_sentence(tmp_path, data):
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ModelFileError, match="en-tête abîmé ou démesuré"):
        inspect_model(tmp_path / "m")


def test_a_training_checkpoint(tmp_path):
    """Un point de reprise : étape et réglages de l'entraînement."""
    original = content(BOOK)
    state = {
        "config": BOOK.to_dict(),
        "tokenizer": dict(original.tokenizer),
        "identity": {"data": {"name": "fables", "sha256": "ab"}, "window": 24},
    }
    write_checkpoint(tmp_path / "step-40", 40, {"model": original.state_dict}, state)
    seen = inspect_model(tmp_path / "step-40")
    assert (seen.kind, seen.config) == ("checkpoint", BOOK)
    assert seen.provenance == {"steps": 40, **state["identity"]}
    assert len(seen.tensors) == len(original.state_dict)
    (tmp_path / "step-40" / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelFileError, match="point de reprise complet"):
        inspect_model(tmp_path / "step-40")


def test_the_weights_are_not_read(tmp_path, monkeypatch):
    """Rien ne lit les valeurs d'un tenseur : safetensors ne donne que l'en-tête."""
    export_hf(content(GPT2), tmp_path / "m")

    def refuse(*_arguments):
        raise AssertionError("des poids ont été lus")

    monkeypatch.setattr("gpt_architecture.formats.tensor_files.SafetensorsFile.tensors", refuse)
    monkeypatch.setattr("gpt_architecture.interop.state_map.from_hf", refuse)
    assert inspect_model(tmp_path / "m").parameters == GPT2.num_parameters()


@pytest.mark.parametrize("damage", ["absent", "vide", "autre", "tronqué"])
def test_refusals(tmp_path, damage):
    path = tmp_path / "m"
    if damage == "vide":
        path.write_bytes(b"")
    elif damage == "autre":
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    elif damage == "tronqué":
        export_hf(content(GPT2), path)
        file = path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(GPTArchitectureError) as refusal:
        inspect_model(path)
    assert "\n" not in str(refusal.value)
