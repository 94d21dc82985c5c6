"""Vers llama.cpp et ONNX : la commande écrit un fichier que ces formats reconnaissent."""

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
    cli("convert", path, tmp_path / "x.pt", "--to", "pt").check_one_line_error(1, "GGUF")


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
