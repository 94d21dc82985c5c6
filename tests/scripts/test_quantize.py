"""La commande quantize : fichier, tailles, qualité mesurée, refus."""

import json

import pytest

from gpt_architecture.api import open_model
from gpt_architecture.formats.quantized_file import load_quantized


@pytest.fixture
def model(trained, tmp_path):
    path = tmp_path / "gpt-model.pt"
    path.write_bytes((trained / "gpt-model.pt").read_bytes())
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text("Le passeur leva la lampe. Elle regarda l'eau. " * 20, encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_writes_next_to_the_model(cli, model, scheme):
    """Sans --output : le nom du modèle suivi du schéma ; tokenizer et métadonnées suivent."""
    outcome = cli("quantize", model, "--scheme", scheme)
    assert outcome.code == 0, outcome.err
    path = model.with_name(f"gpt-model-{scheme}.safetensors")
    assert open_model(path).kind == "quantized"
    loaded = load_quantized(path)
    assert loaded.metadata["prompt"]
    assert loaded.tokenizer
    assert str(path) in outcome.out
    assert "fois moins" in outcome.out
    assert "--text FICHIER" in outcome.out
    assert outcome.err == ""


def test_quality_is_measured(cli, model, text):
    outcome = cli("quantize", model, "--text", text, "--tokens", 100)
    assert outcome.code == 0, outcome.err
    assert "Perplexité sur 100 tokens : " in outcome.out
    assert "Même token glouton : " in outcome.out


def test_json(cli, model, text, tmp_path):
    """Un objet ; sur 8 bits, ce petit modèle ne perd presque rien."""
    output = tmp_path / "sortie" / "q.safetensors"
    outcome = cli(
        *("quantize", model, "--output", output, "--text", text, "--json"),
        *("--group-size", 64, "--tokens", 200),
    )
    record = json.loads(outcome.out)
    assert record["output"] == str(output)
    assert (record["scheme"], record["group_size"], record["tokens"]) == ("int8", 64, 200)
    assert 0 < record["bytes_after"] < record["bytes_before"]
    assert abs(record["perplexity_gap"]) < 0.005
    assert record["greedy_agreement"] > 0.95


def test_an_existing_file_is_kept(cli, model):
    path = model.with_name("gpt-model-int8.safetensors")
    path.write_text("précieux", encoding="utf-8")
    cli("quantize", model).check_one_line_error(1, "existe déjà", "--force")
    assert path.read_text(encoding="utf-8") == "précieux"
    assert cli("quantize", model, "--force").code == 0
    assert open_model(path).kind == "quantized"


def test_missing_model(cli, tmp_path):
    cli("quantize", tmp_path / "absent.pt").check_one_line_error(1, "introuvable")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheme", "int2"], "int2"),
        (["--group-size", "48"], "48"),
        (["--output", "m.bin"], "m.bin"),
        (["--tokens", "1"], "--tokens"),
    ],
)
def test_bad_usage(cli, model, options, words):
    cli("quantize", model, *options).check_one_line_error(2, words)


def test_missing_text(cli, model, tmp_path):
    outcome = cli("quantize", model, "--text", tmp_path / "absent.txt")
    outcome.check_one_line_error(1, "absent.txt")
