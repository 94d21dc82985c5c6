"""Vers llama.cpp et ONNX : la commande écrit un fichier que ces formats reconnaissent."""

import json
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content

from gpt_architecture.api import open_model
from gpt_architecture.formats.model_file import read_model, save_model


@pytest.fixture
def model(tmp_path):
    original = content(BOOK, window=24)
    save_model(
        tmp_path / "m.pt",
        original.build(),
        BOOK,
        tokenizer=original.tokenizer,
        metadata=original.metadata,
    )
    return tmp_path / "m.pt"


@pytest.mark.slow
def test_gguf(cli, model, tmp_path):
    pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")
    sizes = {}
    for dtype in ("f32", "f16"):
        path = tmp_path / f"m-{dtype}.gguf"
        outcome = cli("convert", model, path, "--to", "gguf", "--dtype", dtype)
        assert outcome.code == 0, outcome.err
        assert open_model(path).kind == "gguf"
        sizes[dtype] = path.stat().st_size
    assert sizes["f16"] < sizes["f32"]
    refused = cli("convert", model, tmp_path / "m.gguf", "--to", "gguf", "--dtype", "q4_K_M")
    refused.check_one_line_error(2, "une largeur multiple de 32")


@pytest.mark.slow
def test_gguf_of_four_bits_and_back(cli, tmp_path):
    """Quantifié, relu, il se convertit et s'emploie ; il reste près du modèle."""
    pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")
    wide = replace(GPT2, emb_dim=256, n_heads=2)
    original, path = content(wide), tmp_path / "m.gguf"
    save_model(tmp_path / "m.pt", original.build(), wide, tokenizer=original.tokenizer)
    asked = ("convert", tmp_path / "m.pt", path, "--to", "gguf", "--dtype", "q4_K_M", "--json")
    record = json.loads(cli(*asked).out)
    assert (record["dtype"], record["files"]) == ("q4_K_M", ["m.gguf"])
    assert record["bytes"] < 0.3 * (tmp_path / "m.pt").stat().st_size
    assert cli("convert", path, tmp_path / "n.pt", "--to", "pt").code == 0
    exact, found = (
        read_model(tmp_path / name).state_dict["trf_blocks.1.ff.layers.0.weight"]
        for name in ("m.pt", "n.pt")
    )
    assert 0 < (found - exact).abs().mean() < 0.1 * exact.abs().mean()
    outcome = cli("infer", "--model", path, "--prompt", "Le passeur", "--max-tokens", 3)
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_ollama(cli, model, tmp_path):
    pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")
    asked = ("convert", model, tmp_path / "Lampe", "--to", "ollama", "--dtype", "f16")
    outcome = cli(*asked)
    assert outcome.code == 0, outcome.err
    assert "ollama create lampe -f" in outcome.out
    assert "ont appris" not in outcome.out  # le GGUF n'a que celles-là
    assert "FROM ./modele.gguf" in (tmp_path / "Lampe" / "Modelfile").read_text(encoding="utf-8")
    cli(*asked).check_one_line_error(1, "existe déjà", "--force")
    assert cli(*asked, "--force").code == 0


@pytest.mark.slow
def test_transformers_js(cli, model, tmp_path):
    pytest.importorskip("onnx", reason="le paquet onnx n'est pas installé")
    outcome = cli("convert", model, tmp_path / "lampe", "--to", "transformersjs", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert {"config.json", "onnx/model.onnx", "onnx/model_quantized.onnx"} <= set(record["files"])
    refused = cli("convert", model, tmp_path / "x", "--to", "transformersjs", "--dtype", "f16")
    refused.check_one_line_error(2, "--dtype")


@pytest.mark.slow
def test_onnx_on_eight_bits(cli, model, tmp_path):
    onnx = pytest.importorskip("onnx", reason="le paquet onnx n'est pas installé")
    path = tmp_path / "m.onnx"
    asked = ("convert", model, path, "--to", "onnx", "--quant")
    record = json.loads(cli(*asked, "int8", "--json").out)
    assert record["dtype"] == "int8"
    assert any(each.op_type == "MatMulInteger" for each in onnx.load(path).graph.node)
    cli(*asked, "int4", "--force").check_one_line_error(2, "--quant", "int8")


@pytest.mark.slow
def test_an_untied_head(cli, tmp_path):
    original, model = content(GPT2), tmp_path / "m.pt"
    save_model(model, original.build(), GPT2, tokenizer=original.tokenizer)
    for name, flags in (("liée", ()), ("à part", ("--untie",))):
        outcome = cli("convert", model, tmp_path / f"{name}.pt", "--to", "pt", *flags)
        assert outcome.code == 0, outcome.err
    tied, apart = (read_model(tmp_path / f"{name}.pt") for name in ("liée", "à part"))
    assert (tied.config.tie_weights, apart.config.tie_weights) == (True, False)
    embedding, head = (apart.state_dict[f"{each}.weight"] for each in ("tok_emb", "out_head"))
    assert torch.equal(embedding, head)
    assert embedding.data_ptr() != head.data_ptr()


@pytest.mark.slow
def test_onnx_with_a_cache(cli, model, tmp_path):
    """Les entrées que donne optimum, sans l'avertissement sur `position_ids`."""
    onnx = pytest.importorskip("onnx", reason="le paquet onnx n'est pas installé")
    outcome = cli("convert", model, tmp_path / "m.onnx", "--to", "onnx", "--cache")
    assert outcome.code == 0, outcome.err
    inputs = [each.name for each in onnx.load(tmp_path / "m.onnx").graph.input]
    assert inputs[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert "past_key_values.0.key" in inputs
    refused = cli("convert", model, tmp_path / "m.gguf", "--to", "gguf", "--cache")
    refused.check_one_line_error(2, "--cache avec --to gguf")


@pytest.mark.slow
def test_onnx(cli, model, tmp_path):
    onnx = pytest.importorskip("onnx", reason="le paquet onnx n'est pas installé")
    outcome = cli("convert", model, tmp_path / "m.onnx", "--to", "onnx")
    assert outcome.code == 0, outcome.err
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


@pytest.mark.slow
def test_page(cli, model, tmp_path):
    """Les deux tailles de poids ; le JSON dit laquelle ; ce qui ne va pas ensemble est refusé."""
    path = tmp_path / "m.html"
    for scheme in ("int8", "int4"):
        outcome = cli(
            "convert", model, path, "--to", "page", "--quant", scheme, "--json", "--force"
        )
        assert outcome.code == 0, outcome.err
        record = json.loads(outcome.out)
        assert (record["to"], record["dtype"], record["window"]) == ("page", scheme, 24)
        assert record["bytes"] == path.stat().st_size
    outcome = cli("convert", model, path, "--to", "page", "--text-only", "--force")
    assert "ouvrez" in outcome.out
    assert path.stat().st_size < record["bytes"] + 1000
    cli("convert", model, path, "--to", "page").check_one_line_error(1, "existe déjà", "--force")
    for wrong, options, words in (
        ("x.pt", ("--to", "pt", "--quant", "int8"), ("--quant avec --to pt", "--to page")),
        ("m.gguf", ("--to", "gguf", "--text-only"), ("--text-only avec --to gguf",)),
        ("m.page", ("--to", "page"), ("m.page", ".html")),
        ("f16.html", ("--to", "page", "--dtype", "f16"), ("--dtype",)),
    ):
        refused = cli("convert", model, tmp_path / wrong, *options)
        refused.check_one_line_error(2, *words)
        assert not (tmp_path / wrong).exists()
