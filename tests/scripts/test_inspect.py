"""La commande inspect : ce qu'elle montre, ce qu'elle refuse."""

import json

import pytest
from interop_helpers import BOOK, GPT2, content

from gpt_architecture.formats.model_file import save_model
from gpt_architecture.interop.hf_export import export_hf


def test_a_model_file(cli, tmp_path):
    """Forme, données, pertes, empreintes d'un modèle entraîné."""
    original = content(
        BOOK,
        data={"name": "fables", "sha256": "ab" * 32},
        val_losses=[4.0, 3.25],
        versions={"gpt-architecture": "0.1.0"},
    )
    path = tmp_path / "gpt-model.pt"
    save_model(
        path, original.build(), BOOK, tokenizer=original.tokenizer, metadata=original.metadata
    )
    outcome = cli("inspect", path)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for words in (
        "modèle gpt-architecture",
        "Forme : 2 blocs, 3 têtes, largeur 24, vocabulaire 300, 32 positions",
        "tête de sortie indépendante, sans biais q, k, v",
        "Tokenizer : bpe, 290 tokens",
        "Données : fables, sha256 abab",
        "Dernière perte mesurée, validation : 3,25",
        "Versions : gpt-architecture 0.1.0",
        "gpt-model.pt : ",
    ):
        assert words in outcome.out, words


def test_what_the_loss_is_worth(cli, tmp_path):
    """Les repères et les fautes que le fichier garde ; des valeurs d'ailleurs n'arrêtent rien."""
    baselines = {
        **{"uniform": 6.0, "unigram": 5.0, "bigram": 4.0, "ngram": 3.5},
        **{"order": 4, "counted": 100, "total": 100},
    }
    fault = {"code": "tokenizer", "found": "mots\ncoupés", "remedy": "x"}
    for index, (known, shown) in enumerate(
        [
            ({"baselines": baselines, "diagnosis": [fault, 3]}, True),
            ({"baselines": {**baselines, "bigram": None}, "diagnosis": "rien"}, False),
        ]
    ):
        original, path = content(BOOK, **known), tmp_path / f"{index}.pt"
        save_model(
            path, original.build(), BOOK, tokenizer=original.tokenizer, metadata=original.metadata
        )
        found = cli("inspect", path).out
        levels = "uniforme 6,00, unigramme 5,00, bigramme 4,00, 4-gramme 3,50"
        assert (f"Repères de validation : {levels}\n" in found) is shown
        assert ("Diagnostic : mots coupés\n" in found) is shown


@pytest.mark.slow
def test_large_numbers_are_grouped(cli, tmp_path):
    """Une quantité se lit par groupes de trois chiffres, comme partout."""
    export_hf(content(GPT2, tokens_seen=40_960, steps=1_000), tmp_path / "hf")
    out = cli("inspect", tmp_path / "hf").out
    assert "Tokens vus : 40 960\n" in out
    assert "Étapes : 1 000\n" in out


@pytest.mark.slow
def test_the_final_loss_is_that_of_the_last_step(cli, tmp_path):
    """« Finale » seulement si l'évaluation a suivi la dernière étape."""
    for evaluated, label in (([0, 4], "Perte finale"), ([0, 3], "Dernière perte mesurée")):
        known = {"val_losses": [4.0, 3.25], "eval_steps": evaluated, "steps": 5}
        folder = tmp_path / label
        export_hf(content(GPT2, **known), folder)
        assert f"{label}, validation : 3,25\n" in cli("inspect", folder).out
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"**{label}** : entraînement inconnue, validation 3,250." in card


@pytest.mark.slow
def test_blocks_are_grouped(cli, tmp_path):
    """Les deux blocs tiennent en une ligne par tenseur ; --tensors les sépare."""
    export_hf(content(GPT2), tmp_path / "hf")
    short = cli("inspect", tmp_path / "hf").out
    assert "transformer.h.N.attn.c_attn.weight (24, 72) F32 × 2" in short
    long = cli("inspect", tmp_path / "hf", "--tensors").out
    assert "transformer.h.1.attn.c_attn.weight (24, 72) F32" in long
    assert "sha256" not in cli("inspect", tmp_path / "hf", "--no-hashes").out.split("Fichiers")[1]


def test_json(cli, tmp_path):
    export_hf(content(BOOK, window=24), tmp_path / "hf")
    record = json.loads(cli("inspect", tmp_path / "hf", "--json").out)
    assert record["kind"] == "hf"
    assert record["parameters"] == BOOK.num_parameters()
    assert record["config"] == BOOK.to_dict()
    assert record["provenance"] == {"window": 24}
    assert {"name", "shape", "dtype"} == set(record["tensors"][0])
    assert len(record["files"][0]["sha256"]) == 64


@pytest.mark.slow
def test_a_hostile_provenance_cannot_command_the_terminal(cli, tmp_path):
    export_hf(content(GPT2, license="\x1b[2J" + "x" * 500), tmp_path / "hf")
    for options in ((), ("--provenance",)):
        out = cli("inspect", tmp_path / "hf", *options).out
        assert "\x1b" not in out
        assert "x" * 260 not in out


@pytest.mark.slow
def test_refusals(cli, tmp_path):
    cli("inspect", tmp_path / "absent").check_one_line_error(1, "introuvable")
    cli("inspect", tmp_path).check_one_line_error(1, "n'est pas un modèle connu")
