"""evaluate --memorisation et --report : ce que le modèle récite, et sa page."""

import json
import shutil

import pytest
from page_helpers import read_page

from gpt_architecture.data.texts.corpus import load_corpus

DATA = "la-lampe-du-passeur"


@pytest.fixture
def run(trained, tmp_path):
    """Un dossier d'entraînement à soi."""
    return shutil.copytree(trained, tmp_path / "entraînement")


def ids_of(path):
    reader = read_page(path.read_text(encoding="utf-8"))
    return reader, {value for name, value in reader.attributes if name == "id"}


def test_memorisation_and_page(cli, run, tmp_path):
    """Tableau, JSON et page disent la même chose, d'un modèle et de ses données."""
    page, output = tmp_path / "page.html", tmp_path / "mesures.json"
    outcome = cli(
        *("evaluate", run, "--memorisation", DATA, "--length", 8, "--report", page),
        *("--sentence", "Le passeur leva la lampe.", "--json", output),
    )
    assert outcome.code == 0, outcome.err
    assert "avertissement" not in outcome.err
    for words in ("Mémorisation", "Glouton", "Texte inédit", "n = 32", "Récitent"):
        assert words in outcome.out
    record = json.loads(output.read_text(encoding="utf-8"))["memorisation"]
    assert [each["label"] for each in record["variants"]][:2] == ["Glouton", "Température 0,3"]
    assert record["reference"]["texts"] > 10
    assert record["threshold"] == record["chance_length"] + 1
    reader, ids = ids_of(page)
    for section in ("pertes", "perplexites", "memoire", "textes", "calibration", "attention"):
        assert section in ids, section
    for words in (
        DATA,
        "texte inédit",
        "texte d'entraînement",
        "leva",
        "entraînement/gpt-model.pt",
    ):
        assert words in reader.text, words
    recited, total = (sum(each[key] for each in record["variants"]) for key in ("recited", "texts"))
    assert f"{recited} sur {total}" in reader.text


def test_a_page_needs_no_data(cli, run, tmp_path):
    page = tmp_path / "page.html"
    outcome = cli("evaluate", run, "--report", page, "--length", 4)
    assert outcome.code == 0, outcome.err
    _, ids = ids_of(page)
    assert {"pertes", "textes", "attention"} <= ids
    assert not {"memoire", "calibration", "perplexites"} & ids


def test_held_out_documents_are_in_the_page(cli, run, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text("Le passeur leva la lampe. Elle regarda l'eau. " * 20, encoding="utf-8")
    page = tmp_path / "page.html"
    outcome = cli("evaluate", run, "--data", text, "--report", page, "--length", 4)
    assert outcome.code == 0, outcome.err
    reader, ids = ids_of(page)
    assert {"perplexites", "calibration"} <= ids
    assert "texte.txt" in reader.text
    assert "memoire" not in ids


def test_other_data_is_said_and_taken_whole(cli, run, tmp_path):
    """La coupe n'est plus connue : tout est tenu pour appris, et rien n'est inédit."""
    text = tmp_path / "autre.txt"
    text.write_text(load_corpus([DATA]).text[:4000], encoding="utf-8")
    outcome = cli("evaluate", run, "--memorisation", text, "--length", 8, "--json", "-")
    assert outcome.code == 0, outcome.err
    assert "avertissement : --memorisation" in outcome.err
    record = json.loads(outcome.out)["memorisation"]
    assert record["reference"]["texts"] == 0
    assert record["training_tokens"] > 800


def test_passages_are_shown(cli, run, tmp_path):
    """Un texte fait de ce que le modèle écrit : tout y est récité, entre crochets."""
    said = cli(
        "infer", "--model", run / "gpt-model.pt", "--max-tokens", 60, "--prompt", "Le passeur"
    )
    text = tmp_path / "perroquet.txt"
    text.write_text(f"{said.out} " * 3, encoding="utf-8")
    outcome = cli("evaluate", run, "--memorisation", text, "--length", 40)
    assert outcome.code == 0, outcome.err
    assert "⟦" in outcome.out
    assert "arbitraire" in outcome.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        pytest.param(["--sentence", "Bonjour"], 2, ["--sentence", "--report"], id="phrase-seule"),
        pytest.param(["--report", "."], 1, ["dossier"], id="dossier"),
        pytest.param(["--memorisation", DATA, "--length", "1"], 2, ["--length"], id="longueur"),
        pytest.param(["--memorisation", "rien.txt"], 1, ["rien.txt"], id="absent"),
        pytest.param([], 2, ["--memorisation"], id="rien"),
    ],
)
def test_refusals(cli, run, options, code, words):
    cli("evaluate", run, *options).check_one_line_error(code, *words)


def test_a_sentence_too_long_writes_no_page(cli, run, tmp_path):
    page = tmp_path / "page.html"
    outcome = cli(
        *("evaluate", run, "--report", page, "--length", 2, "--sentence", "le bateau " * 40)
    )
    outcome.check_one_line_error(2, "80 token", "32 tokens")
    assert not page.exists()


def test_a_given_text_is_not_called_unseen(cli, run, tmp_path):
    """Rien ne dit qu'un texte donné n'a pas été appris ; il n'est sur la page qu'une fois."""
    page, text = tmp_path / "page.html", tmp_path / "mien.txt"
    text.write_text("Le passeur leva la lampe, et la rivière se tut. " * 8, encoding="utf-8")
    command = ("evaluate", run, "--length", 4, "--report", page, "--force")
    assert cli(*command, "--data", text).code == 0
    shown = read_page(page.read_text(encoding="utf-8")).text
    assert "texte mesuré" in shown
    assert "texte inédit" not in shown
    outcome = cli(*command, "--data", text, "--memorisation", text)
    assert outcome.code == 0, outcome.err
    shown = read_page(page.read_text(encoding="utf-8")).text
    assert "Sans texte inédit" in shown  # celui qui est appris n'en est pas un
    assert ", texte inédit" not in shown
