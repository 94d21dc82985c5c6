"""Un vocabulaire plus grand que le modèle : aucun format ne l'écrit, par une seule vérification."""

import json
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, tokenizer

from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.model_file import check_vocabulary, save_model
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.nanogpt import export_nanogpt
from gpt_architecture.interop.ollama import export_ollama
from gpt_architecture.interop.onnx import export_onnx
from gpt_architecture.interop.onnx_folder import export_onnx_folder
from gpt_architecture.reports.portable.page import export_page

SMALL = replace(GPT2, vocab_size=280)
WORDS = "tokenizer de 290 tokens, modèle de 280"


def export_pt(file, dest):
    save_model(dest, file.build(), file.config, tokenizer=file.tokenizer)


def export_int8(file, dest):
    pytest.importorskip("numba", reason="le paquet numba n'est pas installé")
    from gpt_architecture.formats.quantized_file import save_quantized
    from gpt_architecture.kernels.decode.packed import pack

    save_quantized(dest, pack(file.build(), "int8"), tokenizer=file.tokenizer)


WRITERS = {
    "hf": export_hf,
    "gguf": export_gguf,
    "ollama": export_ollama,
    "onnx": export_onnx,
    "transformersjs": export_onnx_folder,
    "nanogpt": export_nanogpt,
    "pt": export_pt,
    "int8": export_int8,
    "page": lambda file, dest: export_page(file, dest.with_suffix(".html")),
}


@pytest.mark.parametrize("target", WRITERS)
def test_no_writer_writes_it(tmp_path, target):
    packages = {"gguf": "gguf", "ollama": "gguf", "onnx": "onnx", "transformersjs": "onnx"}
    package = packages.get(target)
    if package is not None:
        pytest.importorskip(package, reason=f"le paquet {package} n'est pas installé")
    file = replace(content(SMALL), tokenizer=tokenizer().to_dict())
    with pytest.raises(ModelFileError, match=WORDS):
        WRITERS[target](file, tmp_path / "sortie")
    assert not list(tmp_path.glob("*sortie*"))


def test_gpt2_has_no_list():
    """Son nom vaut ses 50 257 tokens."""
    gpt2 = {"name": "gpt2"}
    check_vocabulary(replace(GPT2, vocab_size=50257), gpt2)
    with pytest.raises(ModelFileError, match=r"m\.pt : tokenizer de 50257 tokens"):
        check_vocabulary(replace(GPT2, vocab_size=50256), gpt2, name="m.pt")


@pytest.mark.slow
class TestConvert:
    """La commande, depuis nanoGPT et le livre."""

    @pytest.fixture
    def vocabulary(self, tmp_path):
        """Des caractères : autant que le modèle, ou un de plus."""
        paths = {}
        for size in (280, 281):
            paths[size] = tmp_path / f"{size}.json"
            CharTokenizer([chr(0x4E00 + index) for index in range(size)]).save(paths[size])
        return paths

    @pytest.mark.parametrize("target", ["pt", "onnx", "nanogpt"])
    def test_from_nanogpt(self, cli, tmp_path, vocabulary, target):
        exact = CharTokenizer([chr(0x4E00 + index) for index in range(280)])
        file = replace(content(SMALL), tokenizer=exact.to_dict())
        export_nanogpt(file, tmp_path / "ckpt.pt")
        asked = ("convert", tmp_path / "ckpt.pt", tmp_path / "sortie", "--to", target)
        refused = cli(*asked, "--tokenizer", vocabulary[281])
        refused.check_one_line_error(1, "281 tokens, modèle de 280", "ont été appris")
        assert not list(tmp_path.glob("*sortie*"))
        assert cli(*asked, "--tokenizer", vocabulary[280]).code == 0

    def test_from_the_book(self, cli, tmp_path, vocabulary):
        config = replace(BOOK, vocab_size=280)
        torch.save(dict(content(config).state_dict), tmp_path / "m.pth")
        asked = ("convert", tmp_path / "m.pth", tmp_path / "m.pt", "--to", "pt", "--n-heads", 3)
        cli(*asked, "--tokenizer", vocabulary[281]).check_one_line_error(1, "281 tokens")
        assert not (tmp_path / "m.pt").exists()
        assert cli(*asked, "--tokenizer", vocabulary[280]).code == 0
        infer = ("infer", "--model", tmp_path / "m.pt", "--prompt", "一", "--max-tokens", 3)
        assert cli(*infer).code == 0

    def test_to_nanogpt(self, cli, tmp_path, vocabulary):
        """Le modèle d'un texte, vers nanoGPT et retour : la même suite."""
        text = tmp_path / "texte.txt"
        text.write_text("Le passeur leva la lampe.\n" * 60, encoding="utf-8")
        learned = ("tokenizer", "train", text, "--kind", "char", "--no-end-of-text")
        assert cli(*learned, "--out", tmp_path / "c.json").code == 0
        outcome = cli(
            *("train", "--data", text, "--tokenizer", tmp_path / "c.json", "--max-steps", 2),
            *("--emb-dim", 32, "--n-heads", 2, "--n-layers", 1, "--context-length", 16),
            *("--tie-weights", "--device", "cpu", "--output-dir", tmp_path / "m"),
        )
        assert outcome.code == 0, outcome.err
        ckpt, meta = tmp_path / "out" / "ckpt.pt", tmp_path / "out" / "ckpt.meta.json"
        asked = ("convert", tmp_path / "m" / "gpt-model.pt", ckpt, "--to", "nanogpt")
        outcome = cli(*asked)
        assert outcome.code == 0, outcome.err
        assert f"json.load(open('{meta}'))" in outcome.out
        assert "sample.py --out_dir" in outcome.out
        assert json.loads(cli(*asked, "--force", "--json").out)["files"] == [ckpt.name, meta.name]
        back = ("convert", ckpt, tmp_path / "retour.pt", "--to", "pt", "--tokenizer", meta)
        assert cli(*back).code == 0
        texts = [
            cli("infer", "--model", path, "--prompt", "Le pass", "--max-tokens", 9).out
            for path in (tmp_path / "m" / "gpt-model.pt", tmp_path / "retour.pt")
        ]
        assert texts[0] == texts[1] != ""

    def test_no_end_of_text_is_for_characters(self, cli, tmp_path):
        refused = cli("tokenizer", "train", "la-lampe-du-passeur", "--no-end-of-text")
        refused.check_one_line_error(2, "--no-end-of-text", "--kind char")
