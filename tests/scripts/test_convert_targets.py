"""Vers llama.cpp et ONNX : la commande écrit un fichier que ces formats reconnaissent."""

import pytest
from interop_helpers import BOOK, content

from gpt_architecture.core.weights import save_model
from gpt_architecture.interop.reading import detect


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


def test_gguf(cli, model, tmp_path):
    pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")
    sizes = {}
    for dtype in ("f32", "f16"):
        path = tmp_path / f"m-{dtype}.gguf"
        outcome = cli("convert", model, path, "--to", "gguf", "--dtype", dtype)
        assert outcome.code == 0, outcome.err
        assert detect(path) == "gguf"
        sizes[dtype] = path.stat().st_size
    assert sizes["f16"] < sizes["f32"]
    cli("convert", path, tmp_path / "x.pt", "--to", "pt").check_one_line_error(1, "GGUF")


def test_onnx(cli, model, tmp_path):
    onnx = pytest.importorskip("onnx", reason="le paquet onnx n'est pas installé")
    outcome = cli("convert", model, tmp_path / "m.onnx", "--to", "onnx")
    assert outcome.code == 0, outcome.err
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
