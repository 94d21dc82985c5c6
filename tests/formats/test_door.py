"""Reconnaître un modèle à son contenu, où qu'il vienne et quel que soit son nom."""

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, ids, logits, tokenizer, transformers_folder
from safetensors.torch import save_file

from gpt_architecture.api import load, open_model, read_any
from gpt_architecture.config import LoRAConfig
from gpt_architecture.errors import GPTArchitectureError, ModelFileError
from gpt_architecture.formats import door, tensor_files
from gpt_architecture.formats.adapter_file import AdapterFile, save_adapter, weights_sha256
from gpt_architecture.formats.door import Facts, ModelFormat, Use
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.formats.quantized_file import save_quantized
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.kernels.decode.packed import pack


def model_file(path, config=BOOK):
    original = content(config)
    save_model(path, original.build(), config, tokenizer=original.tokenizer)
    return original


def test_the_kind_comes_from_the_content(tmp_path):
    """Le nom et l'extension ne disent rien."""
    model_file(tmp_path / "a.onnx")
    torch.save(dict(content(BOOK).state_dict), tmp_path / "b.gguf")
    torch.save({"model": {}, "model_args": {}}, tmp_path / "c.json")
    export_hf(content(GPT2), tmp_path / "d.pt")
    (tmp_path / "e.pt").write_bytes(b"GGUF" + bytes(60))
    save_quantized(
        tmp_path / "f.bin", pack(content(BOOK).build(), "int8"), tokenizer=tokenizer().to_dict()
    )
    expected = {
        "a.onnx": "model",
        "b.gguf": "book",
        "c.json": "nanogpt",
        "d.pt": "hf",
        "d.pt/model.safetensors": "safetensors",
        "e.pt": "gguf",
        "f.bin": "quantized",
    }
    assert {name: open_model(tmp_path / name).kind for name in expected} == expected


@pytest.fixture
def counted(monkeypatch):
    """Le nombre de fois que chaque lecteur a ouvert chaque fichier."""
    counts = Counter()

    def count(module, name):
        real = getattr(module, name)

        def reader(path, *arguments, **named):
            counts[Path(path).name] += 1
            return real(path, *arguments, **named)

        monkeypatch.setattr(module, name, reader)

    count(torch, "load")
    count(tensor_files, "safe_open")
    return counts


def test_a_file_is_parsed_once(tmp_path, counted):
    """Reconnaître, décrire et lire un modèle n'ouvrent son fichier qu'une fois."""
    original = model_file(tmp_path / "m.pt")
    torch.save(dict(original.state_dict), tmp_path / "livre.pth")
    packed = pack(original.build(), "int8")
    save_quantized(tmp_path / "q.safetensors", packed, tokenizer=original.tokenizer)
    for name in ("m.pt", "livre.pth"):
        opened = open_model(tmp_path / name)
        assert opened.facts.tensors
        assert opened.read(tokenizer=tokenizer(), n_heads=3).config == BOOK
    load(tmp_path / "q.safetensors", device="cpu")
    assert counted == {"m.pt": 1, "livre.pth": 1, "q.safetensors": 1}
    load(tmp_path / "m.pt", device="cpu", engine="torch")
    inspect_model(tmp_path / "q.safetensors")
    assert counted == {"m.pt": 2, "livre.pth": 1, "q.safetensors": 2}


def test_adapters_are_parsed_once_too(tmp_path, counted):
    original = model_file(tmp_path / "m.pt")
    save_adapter(
        tmp_path / "a.safetensors",
        AdapterFile(
            lora=LoRAConfig(rank=2, targets=("query",)),
            base_sha256=weights_sha256(original),
            tensors={
                f"trf_blocks.{n}.att.W_query.lora_{letter}": torch.zeros(shape)
                for n in range(BOOK.n_layers)
                for letter, shape in (("A", (2, BOOK.emb_dim)), ("B", (BOOK.emb_dim, 2)))
            },
            base_path="m.pt",
        ),
    )
    opened = open_model(tmp_path / "a.safetensors")
    assert opened.holds_adapters
    assert opened.read().config == BOOK
    assert counted == {"a.safetensors": 1, "m.pt": 1}


def test_an_opened_model_says_what_it_is(tmp_path):
    original = content(BOOK, window=24)
    save_model(
        tmp_path / "m.pt",
        original.build(),
        BOOK,
        tokenizer=original.tokenizer,
        metadata=original.metadata,
    )
    opened = open_model(str(tmp_path / "m.pt"))
    assert (opened.kind, opened.config, opened.path) == ("model", BOOK, tmp_path / "m.pt")
    assert opened.tokenizer["vocab_size"] == 290
    assert opened.metadata["window"] == 24
    assert opened.is_intact()


class Toy(ModelFormat):
    """Un format inventé : trois octets."""

    kind, name = "jouet", "fichier jouet"
    use = Use.IMPORT

    def recognises(self, model):
        return model.head == b"toy"

    def facts(self, model):
        return Facts(provenance={"origin": "jouet"})

    def read(self, model, *, tokenizer, n_heads):
        return content(BOOK)


def test_a_new_format_registers(tmp_path, monkeypatch):
    """Une classe inscrite, et la porte, `load`, `inspect` et `convert` le lisent."""
    monkeypatch.setattr(door, "_FORMATS", dict(door._FORMATS))
    (tmp_path / "x").write_bytes(b"toy")
    with pytest.raises(ModelFileError, match="n'est pas un modèle connu"):
        open_model(tmp_path / "x")
    door.register(Toy())
    assert inspect_model(tmp_path / "x").kind == "jouet"
    assert load(tmp_path / "x", device="cpu", engine="torch").config == BOOK
    (tmp_path / "y").write_bytes(b"autre")
    with pytest.raises(ModelFileError, match="fichier jouet"):
        open_model(tmp_path / "y")


def test_whoever_opens_a_model_has_every_format():
    """Au-dessus de `formats`, la porte se prend par `api`, qui a inscrit les formats d'ailleurs."""
    source = Path(door.__file__).parents[1]
    above = [
        source / "main.py",
        *(p for d in ("cli", "scripts") for p in (source / d).rglob("*.py")),
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in above}
    opening = re.compile(r"formats\.door import|formats\.inspection import .*inspect_model")
    assert [name for name, text in texts.items() if opening.search(text)] == []


def test_weights_next_to_their_config_stand_for_the_folder(tmp_path):
    original = content(GPT2)
    export_hf(original, tmp_path / "m")
    again = read_any(tmp_path / "m" / "model.safetensors")
    assert again.config == original.config


def test_a_file_before_pytorch_zip_archives(tmp_path):
    """Les fichiers d'avant PyTorch 1.6 se lisent aussi, toujours sans pickle exécuté."""
    original = content(BOOK)
    torch.save(
        dict(original.state_dict), tmp_path / "vieux.pth", _use_new_zipfile_serialization=False
    )
    again = read_any(tmp_path / "vieux.pth", tokenizer=tokenizer(), n_heads=3)
    assert torch.equal(logits(again.build(), ids()), logits(original.build(), ids()))


@pytest.mark.slow
@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["gpt2", "livre"])
def test_load_takes_a_transformers_folder(tmp_path, config):
    """`load` d'un dossier exporté écrit la même suite que le fichier d'origine."""
    original = content(config, window=20)
    save_model(
        tmp_path / "m.pt",
        original.build(),
        config,
        tokenizer=original.tokenizer,
        metadata=original.metadata,
    )
    export_hf(original, tmp_path / "hf")
    ours = load(tmp_path / "m.pt", device="cpu", engine="torch")
    folder = load(tmp_path / "hf", device="cpu", engine="torch")
    assert folder.window == ours.window == 20
    assert folder.generate("Le passeur", max_tokens=9) == ours.generate("Le passeur", max_tokens=9)
    drafted = load(tmp_path / "m.pt", device="cpu", engine="torch", draft=tmp_path / "hf")
    assert drafted.draft is not None


@pytest.mark.parametrize("size", [640, 896, 1152])
def test_a_safetensors_header_that_starts_like_a_pickle(tmp_path, size):
    """Sa longueur, 0x0280 par exemple, a les deux octets par où commence un pickle."""
    path = tmp_path / "m.safetensors"
    bare = {"format": "autre", "note": ""}
    save_file({"a": torch.zeros(2)}, path, metadata=bare)
    missing = size - int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(2)}, path, metadata={**bare, "note": "x" * missing})
    assert path.read_bytes()[:2] == size.to_bytes(2, "little")
    assert open_model(path).kind == "safetensors"


def test_missing_says_how_to_get_one(tmp_path):
    with pytest.raises(ModelFileError, match="modèle introuvable"):
        read_any(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(50),
        b"\x80\x02cposix\nsystem\nq\x00X\x02\x00\x00\x00idq\x01\x85q\x02Rq\x03.",
        b"du texte",
        (2).to_bytes(8, "little") + b"{}",
        (2**62).to_bytes(8, "little") + b"{" + bytes(30),
        b"GGUF" + bytes(20),
    ],
    ids=["vide", "zip faux", "pickle hostile", "texte", "safetensors vide", "en-tête", "gguf"],
)
def test_unreadable_files_are_refused_in_one_sentence(tmp_path, data):
    path = tmp_path / "modele.pt"
    path.write_bytes(data)
    with pytest.raises(GPTArchitectureError) as refusal:
        read_any(path)
    assert "\n" not in str(refusal.value)
    assert "modele.pt" in str(refusal.value)


def test_an_empty_folder_and_an_unknown_torch_file_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="n'est pas un modèle connu"):
        read_any(tmp_path)
    torch.save({"poids": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(ModelFileError, match="n'est pas un modèle connu"):
        read_any(tmp_path / "x.pt")


@pytest.mark.slow
def test_a_flipped_header_never_escapes(tmp_path):
    """Cent fichiers safetensors dont un octet d'en-tête a changé : lus, ou refusés proprement."""
    export_hf(content(GPT2), tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    whole = path.read_bytes()
    for position in range(0, 800, 8):
        damaged = bytearray(whole)
        damaged[position] ^= 0x15
        path.write_bytes(bytes(damaged))
        with suppress(GPTArchitectureError):
            read_any(tmp_path / "m")


@pytest.mark.slow
def test_the_converted_file_is_a_model_like_any_other(tmp_path, cli):
    """Un dossier de Transformers, converti en pt, se lit par `read_model`."""
    transformers_folder(tmp_path / "hf")
    (tmp_path / "bpe.json").write_text(json.dumps(tokenizer().to_dict()), encoding="utf-8")
    outcome = cli(
        *("convert", tmp_path / "hf", tmp_path / "m.pt", "--to", "pt"),
        *("--tokenizer", tmp_path / "bpe.json"),
    )
    assert outcome.code == 0, outcome.err
    again = read_model(tmp_path / "m.pt")
    assert again.config == GPT2
    assert again.metadata == {"origin": "transformers"}
