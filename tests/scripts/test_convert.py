"""La commande convert : chaque chemin d'un utilisateur, chaque refus."""

import json

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, tokenizer, transformers_folder

from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.interop.hf import read_hf


@pytest.fixture
def model(tmp_path):
    """Un fichier de modèle d'ici, en mode livre."""
    original = content(BOOK, window=24, prompt="Le passeur")
    path = tmp_path / "gpt-model.pt"
    save_model(
        path,
        original.build(),
        BOOK,
        tokenizer=original.tokenizer,
        metadata=original.metadata,
    )
    return path


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "bpe.json"
    path.write_text(json.dumps(tokenizer().to_dict()), encoding="utf-8")
    return path


@pytest.mark.slow
def test_out_and_back_in(cli, model, tmp_path):
    """pt → hf → pt : le même modèle ; les commandes prennent l'un comme l'autre."""
    outcome = cli("convert", model, tmp_path / "hf", "--to", "hf", "--license", "mit")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "vllm serve" in outcome.out
    assert "Des 32 positions, 24 ont appris" in outcome.out
    assert "license: mit" in (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    outcome = cli("convert", tmp_path / "hf", tmp_path / "retour.pt", "--to", "pt")
    assert outcome.code == 0, outcome.err
    before, after = read_model(model), read_model(tmp_path / "retour.pt")
    assert after.config == before.config
    assert after.metadata == {**before.metadata, "license": "mit"}
    for name, tensor in before.state_dict.items():
        assert torch.equal(after.state_dict[name], tensor), name
    texts = [
        cli("infer", "--model", path, "--max-tokens", 8).out
        for path in (model, tmp_path / "hf", tmp_path / "retour.pt")
    ]
    assert texts[0]
    assert len(set(texts)) == 1


@pytest.mark.slow
def test_json(cli, model, tmp_path):
    outcome = cli("convert", model, tmp_path / "hf", "--to", "hf", "--dtype", "f16", "--json")
    record = json.loads(outcome.out)
    assert record["parameters"] == BOOK.num_parameters()
    assert (record["to"], record["dtype"], record["window"]) == ("hf", "f16", 24)
    assert "model.safetensors" in record["files"]


@pytest.mark.slow
def test_shards(cli, tmp_path, model):
    """--shard-size répartit les poids ; le dossier se relit."""
    large = content(
        type(GPT2)(vocab_size=300, context_length=8, emb_dim=256, n_heads=4, n_layers=1)
    )
    save_model(model, large.build(), large.config, tokenizer=large.tokenizer)
    outcome = cli("convert", model, tmp_path / "hf", "--to", "hf", "--shard-size", 1)
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    assert read_hf(tmp_path / "hf").config == large.config


@pytest.mark.slow
def test_a_book_file(cli, tmp_path, vocabulary):
    torch.save(dict(content(BOOK).state_dict), tmp_path / "m.pth")
    outcome = cli(
        *("convert", tmp_path / "m.pth", tmp_path / "m.pt", "--to", "pt"),
        *("--tokenizer", vocabulary, "--n-heads", 3),
    )
    assert outcome.code == 0, outcome.err
    assert read_model(tmp_path / "m.pt").config.n_heads == 3


@pytest.mark.slow
def test_an_existing_destination_is_kept(cli, model, tmp_path):
    (tmp_path / "pris.pt").write_text("précieux", encoding="utf-8")
    outcome = cli("convert", model, tmp_path / "pris.pt", "--to", "pt")
    outcome.check_one_line_error(1, "existe déjà", "--force")
    assert (tmp_path / "pris.pt").read_text(encoding="utf-8") == "précieux"
    assert cli("convert", model, tmp_path / "pris.pt", "--to", "pt", "--force").code == 0
    outcome = cli("convert", model, tmp_path, "--to", "pt", "--force")
    outcome.check_one_line_error(1, "est un dossier")


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", b"du texte", b"\x08\x09\x12" + bytes(20)])
def test_a_refused_source_is_told_what_can_be_converted(cli, tmp_path, data):
    """Fichier vide, inconnu, ou qui ne fait que s'écrire : seuls les genres lus sont proposés."""
    (tmp_path / "x").write_bytes(data)
    outcome = cli("convert", tmp_path / "x", tmp_path / "sortie", "--to", "pt")
    outcome.check_one_line_error(1, "modèle gpt-architecture", "nanoGPT", "Raschka")
    _, _, expected = outcome.err.partition("attendu")
    assert "GGUF" in expected
    assert not any(name in expected for name in ("ONNX", "quantifié"))
    assert "ONNX" in cli("inspect", tmp_path / "x").err


@pytest.mark.slow
def test_another_architecture(cli, tmp_path):
    transformers_folder(tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    document = {**json.loads(config.read_text(encoding="utf-8")), "model_type": "llama"}
    config.write_text(json.dumps(document), encoding="utf-8")
    outcome = cli("convert", tmp_path / "hf", tmp_path / "m.pt", "--to", "pt")
    outcome.check_one_line_error(1, "llama", "gpt2")
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.slow
def test_a_word_vocabulary_is_refused_before_writing(cli, model, tmp_path):
    """Un vocabulaire de mots ne s'exporte pas ; le message dit quoi faire."""
    words = SimpleTokenizerV2.from_text("un deux trois")
    save_model(model, content(BOOK).build(), BOOK, tokenizer=words.to_dict())
    outcome = cli("convert", model, tmp_path / "hf", "--to", "hf")
    outcome.check_one_line_error(1, "simple-v2", "gpt2")
    assert not (tmp_path / "hf").exists()


@pytest.mark.slow
def test_the_hub_offline(cli, tmp_path, monkeypatch):
    """Demandé par hub:, jamais autrement ; sans réseau, une phrase."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache-hf"))
    outcome = cli("convert", "hub:gpt2", tmp_path / "m.pt", "--to", "pt")
    outcome.check_one_line_error(1, "Hub", "gpt2")
    outcome = cli("convert", "hub:../../etc", tmp_path / "m.pt", "--to", "pt")
    outcome.check_one_line_error(1, "Hub")
    cli("convert", "gpt2", tmp_path / "m.pt", "--to", "pt").check_one_line_error(1, "introuvable")
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.slow
def test_the_hub_gives_a_folder(cli, tmp_path, vocabulary, monkeypatch):
    """Ce que le Hub donne est lu comme un dossier ; sa provenance est notée."""
    transformers_folder(tmp_path / "hf")
    asked = []

    def snapshot(name, *, allow_patterns, etag_timeout, endpoint):
        asked.append((name, etag_timeout, "model.safetensors" in allow_patterns, endpoint))
        return str(tmp_path / "hf")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    outcome = cli(
        *("convert", "hub:auteur/modele", tmp_path / "m.pt", "--to", "pt"),
        *("--tokenizer", vocabulary),
    )
    assert outcome.code == 0, outcome.err
    assert asked == [("auteur/modele", 10, True, None)]
    metadata = read_model(tmp_path / "m.pt").metadata
    assert metadata["source"] == "https://huggingface.co/auteur/modele"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tflite"], "tflite"),
        (["--to", "hf", "--dtype", "q8_0"], "q8_0"),
        (["--to", "pt", "--dtype", "f16"], "--dtype"),
        (["--to", "onnx", "--dtype", "f16"], "--dtype"),
        (["--to", "hf", "--shard-size", "0"], "--shard-size"),
        (["--to", "pt", "--n-heads", "0"], "--n-heads"),
        ([], "--to"),
    ],
)
def test_bad_usage(cli, model, tmp_path, options, words):
    outcome = cli("convert", model, tmp_path / "sortie", *options)
    outcome.check_one_line_error(2, words)
    assert not (tmp_path / "sortie").exists()
