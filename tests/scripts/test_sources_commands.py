"""prepare --index, evaluate --index et --find, infer --sources : construire, chercher, citer."""

import json
import signal
import subprocess
import sys
import time

import pytest
from forget_helpers import KEPT, TINY, forgotten, write_documents

from gpt_architecture import find_in_sources, index_sources, train
from gpt_architecture.data.provenance.index import TextIndex
from gpt_architecture.data.texts.corpus import load_corpus

DATA = "la-lampe-du-passeur"
STORY = load_corpus([DATA]).text


@pytest.fixture
def indexed(cli, trained, tmp_path):
    """L'index des données du modèle entraîné, dans un dossier neuf."""
    folder = tmp_path / "index"
    outcome = cli("evaluate", trained, "--index", folder, "--index-data", DATA)
    assert outcome.code == 0, outcome.err
    assert "avertissement" not in outcome.err
    assert f"Index        {folder} : " in outcome.out
    assert " octets par token" in outcome.out
    return folder


def test_prepare_builds_the_index_beside_its_shards(cli, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text(STORY, encoding="utf-8")
    command = ("prepare", text, "--out", tmp_path / "d", "--index", "--index-memory", 16)
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert "Index        " in outcome.out
    index = TextIndex(tmp_path / "d")
    size = sum(path.stat().st_size for path in (tmp_path / "d").glob("provenance*"))
    assert index.size == size
    ids = index.tokenizer.encode(STORY[:300])
    assert max(index.lengths(ids)) >= len(ids) - 1
    again = cli(*command)
    assert (again.code, "rien à faire" in again.out) == (0, True)
    cli(*command, "--dry-run").check_one_line_error(2, "--dry-run", "--index")
    cli(*command[:-1], 3).check_one_line_error(2, "--index-memory", "16")


def test_a_text_is_found_or_not(cli, indexed, tmp_path):
    """Code 0 s'il y est, 3 s'il n'y est pas ; le modèle n'est pas demandé."""
    known, unknown = tmp_path / "connu.txt", tmp_path / "inconnu.txt"
    known.write_text(STORY[1000:1400], encoding="utf-8")
    unknown.write_text("Les machines comptent des colonnes de chiffres.", encoding="utf-8")
    found = cli("evaluate", "--index", indexed, "--find", known)
    assert found.code == 0, found.err
    assert found.out.startswith("Présent")
    assert f"{DATA}, document 1, token " in found.out
    missing = cli("evaluate", "--index", indexed, "--find", unknown)
    assert missing.code == 3, missing.err
    assert missing.out.startswith("Absent")
    as_json = cli("evaluate", "--index", indexed, "--find", known, "--json")
    record = json.loads(as_json.out)
    assert record["find"]["longest"] > record["find"]["chance"]["length"]
    assert record["bytes"] == TextIndex(indexed).size


def test_each_document_has_the_name_that_forget_takes(tmp_path):
    """Un fichier, un nom ; ce qui est oublié n'est plus dans un nouvel index, et le reste y est."""
    texts = write_documents(tmp_path)
    model = tmp_path / "m"
    train(texts, **{**TINY, **KEPT, "output_dir": model})

    def found(number, name):
        index = index_sources(tmp_path / f"i{number}", texts, model=model, progress=False)
        words = (texts / name).read_text(encoding="utf-8")[100:200]
        return find_in_sources(words, index)

    for name in ("a.txt", "b.txt", "c.txt"):
        assert found(1, name).passages[0].places[0].name == name
    forgotten(model, texts, document=found(1, "b.txt").passages[0].places[0].name)
    assert not found(2, "b.txt").is_whole
    for name in ("a.txt", "c.txt"):
        assert found(2, name).is_whole
        assert found(2, name).passages[0].places[0].name == name


def test_a_generated_text_shows_its_sources(cli, trained, indexed):
    """Sous le texte, et en JSON ; l'index d'un autre tokenizer est refusé."""
    asked = ("infer", "--model", trained, "--prompt", "Le passeur", "--seed", 3)
    outcome = cli(*asked, "--max-tokens", 12, "--sources", indexed)
    assert outcome.code == 0, outcome.err
    assert "Hasard : un texte jamais vu" in outcome.out
    as_json = cli(*asked, "--max-tokens", 12, "--sources", indexed, "--json")
    found = json.loads(as_json.out)["sources"]
    assert found["tokens"] == 12
    several = cli(*asked, "--max-tokens", 5, "--sources", indexed, "--n", 2)
    assert several.out.count("Hasard :") == 2
    without = cli(*asked, "--max-tokens", 12, "--json")
    assert "sources" not in json.loads(without.out)


def test_another_tokenizer_is_refused(cli, trained, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text(STORY, encoding="utf-8")
    assert cli("prepare", text, "--out", tmp_path / "d", "--index").code == 0
    for asked in (
        ("infer", "--model", trained, "--prompt", "Le passeur", "--sources", tmp_path / "d"),
        ("evaluate", trained, "--index", tmp_path / "d"),
    ):
        cli(*asked).check_one_line_error(2, "autre vocabulaire")


def test_no_index_is_said(cli, trained, tmp_path):
    asked = ("infer", "--model", trained, "--prompt", "Le passeur", "--sources", tmp_path)
    cli(*asked).check_one_line_error(1, "n'a pas d'index", "evaluate --index")
    cli("evaluate", "--index", tmp_path / "rien").check_one_line_error(2, "pas de fragments")


def test_what_does_not_go_together_is_refused(cli, trained, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text("Un soir.", encoding="utf-8")
    cli("evaluate", trained, "--find", text).check_one_line_error(2, "--find", "--index")
    cli("evaluate", trained, "--index-data", text).check_one_line_error(2, "--index-data")
    cli("evaluate", trained, "--index", tmp_path, "--data", text).check_one_line_error(2, "--index")
    asked = ("infer", "--model", trained, "--prompt", "a", "--sources", tmp_path)
    cli(*asked, "--score").check_one_line_error(2, "--score", "--sources")
    cli(*asked, "--trace").check_one_line_error(2, "--trace", "--sources")


def test_a_missing_file_is_said_before_anything_is_built(cli, trained, tmp_path):
    asked = ("evaluate", trained, "--index", tmp_path / "d", "--index-data", DATA)
    cli(*asked, "--find", tmp_path / "rien.txt").check_one_line_error(1, "rien.txt")
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_a_killed_build_is_finished_by_the_same_command(cli, tmp_path):
    """SIGKILL en plein travail : la relance rend les mêmes octets."""
    text = tmp_path / "texte.txt"
    text.write_text(STORY * 20, encoding="utf-8")
    options = ("--shard-tokens", 10_000, "--val-fraction", "0.05")
    whole, folder = tmp_path / "entier", tmp_path / "tué"
    assert cli("prepare", text, "--out", whole, "--index", *options).code == 0
    assert cli("prepare", text, "--out", folder, *options).code == 0
    command = [sys.executable, "-m", "gpt_architecture", "evaluate", "--index", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 100
    while len([*folder.glob("provenance_*.suf")]) < 2 and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "provenance.json").exists()
    outcome = cli(*command[3:])
    assert outcome.code == 0, outcome.err
    names = sorted(path.name for path in whole.glob("provenance*"))
    assert names == sorted(path.name for path in folder.glob("provenance*"))
    for name in names:
        assert (whole / name).read_bytes() == (folder / name).read_bytes(), name
