"""Tout argument public qui est un chemin se donne en texte comme en Path."""

import ast
import json
from pathlib import Path

import pytest
import torch
from conftest import FRENCH_TEXT
from interop_helpers import VOCAB
from interop_helpers import content as model_content

from gpt_architecture import load
from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.model_file import read_model, save_model

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gpt_architecture"
ENTRIES = ("cli", "scripts", "main.py", "__main__.py")  # leurs chemins viennent de cyclopts


def path_arguments(source):
    """(fonction, argument, annotation) de chaque chemin d'une fonction ou méthode publique."""
    found = []

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                visit(child, f"{child.name}.")
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if child.name.startswith("_") and child.name != "__init__":
                    continue
                arguments = child.args
                for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    text = "" if each.annotation is None else ast.unparse(each.annotation)
                    if "Path" in text and "Callable" not in text:
                        found.append((prefix + child.name, each.arg, text))

    visit(ast.parse(source), "")
    return found


FILES = sorted(
    path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ENTRIES
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_signatures_accept_texts(path):
    refused = [
        (function, argument)
        for function, argument, text in path_arguments(path.read_text(encoding="utf-8"))
        if "str" not in text
    ]
    assert refused == []


@pytest.mark.slow
def test_the_checker_can_fail():
    source = "class A:\n    def f(self, path: Path | None): ...\ndef _g(path: Path): ..."
    assert path_arguments(source) == [("A.f", "path", "Path | None")]
    assert sum(len(path_arguments(path.read_text(encoding="utf-8"))) for path in FILES) > 60


@pytest.fixture(params=[str, Path])
def at(request, tmp_path):
    """Le chemin d'un nom, en texte ou en Path."""
    return lambda name: request.param(tmp_path / name)


@pytest.fixture
def content():
    """Un modèle minuscule."""
    return model_content(
        GPTConfig(
            vocab_size=VOCAB, context_length=8, emb_dim=16, n_heads=2, n_layers=1, qkv_bias=True
        ),
        window=8,
    )


class TestBehaviour:
    """Les signatures tiennent parole : chaque lecteur et chaque écriture, sous les deux formes."""

    def test_models(self, at, content):
        save_model(
            at("m.pt"), content.build(), content.config, tokenizer=content.tokenizer, metadata={}
        )
        assert read_model(at("m.pt")).config == content.config
        assert load(at("m.pt"), engine="torch").config == content.config
        assert load(at("m.pt"), draft=at("m.pt"), engine="torch").draft is not None

    def test_exports_and_imports(self, at, content):
        from gpt_architecture.api import open_model, read_any
        from gpt_architecture.formats.inspection import inspect_model
        from gpt_architecture.interop.hf import read_hf
        from gpt_architecture.interop.hf_export import export_hf

        export_hf(content, at("hf"))
        assert open_model(at("hf")).kind == "hf"
        assert read_hf(at("hf")).config == read_any(at("hf")).config
        assert inspect_model(at("hf"), hashes=False).kind == "hf"
        export_hf(content, at("hf"), force=True)

    def test_gguf_and_onnx(self, at, content):
        pytest.importorskip("gguf", reason="gguf n'est pas installé")
        pytest.importorskip("onnx", reason="onnx n'est pas installé")
        from gpt_architecture.interop.gguf import export_gguf
        from gpt_architecture.interop.gguf_read import read_gguf
        from gpt_architecture.interop.ollama import export_ollama
        from gpt_architecture.interop.onnx import export_onnx
        from gpt_architecture.interop.onnx_folder import export_onnx_folder

        export_gguf(content, at("m.gguf"))
        assert read_gguf(at("m.gguf")).config.emb_dim == content.config.emb_dim
        export_onnx(content, at("m.onnx"))
        assert Path(at("m.onnx")).is_file()
        export_ollama(content, at("ollama"))
        export_onnx_folder(content, at("js"))
        assert Path(at("ollama"), "Modelfile").is_file()
        assert Path(at("js"), "onnx").is_dir()

    def test_texts_and_tokenizers(self, at):
        from gpt_architecture.data.shards.prepare import prepare_tokens
        from gpt_architecture.data.shards.reader import open_shards
        from gpt_architecture.data.texts.corpus import load_corpus
        from gpt_architecture.data.tokenizer import get_tokenizer
        from gpt_architecture.data.tokenizers.simple import CharTokenizer
        from gpt_architecture.storage import read_text

        Path(at("t.txt")).write_text(FRENCH_TEXT, encoding="utf-8")
        assert read_text(at("t.txt")) == FRENCH_TEXT
        assert load_corpus([at("t.txt")]).text == FRENCH_TEXT
        CharTokenizer.train([FRENCH_TEXT]).save(at("c.json"))
        tokenizer = get_tokenizer(at("c.json"))
        prepare_tokens([at("t.txt")], at("d"), tokenizer=tokenizer, workers=1)
        assert open_shards(at("d"), "train").num_tokens > 0

    def test_training_files(self, at):
        from gpt_architecture.formats.journal import append_record
        from gpt_architecture.training.checkpoint import CheckpointStore

        store = CheckpointStore(at("points"))
        store.save(1, {"model": {"w": torch.zeros(2)}}, {})
        assert store.latest().step == 1
        Path(at("j.jsonl")).touch()
        append_record(at("j.jsonl"), "measures", step=1)
        assert json.loads(Path(at("j.jsonl")).read_text(encoding="utf-8"))["step"] == 1
        with pytest.raises(ModelFileError):
            read_model(at("j.jsonl"))
