"""`gpt-architecture dossier` : de l'entraînement au dossier, et la fiche qui le cite."""

import json
from pathlib import Path

import pytest
from cli_helpers import tiny
from conftest import FRENCH_TEXT
from forget_helpers import KEPT, TINY, forgotten, write_documents, write_talks

from gpt_architecture import GPT, load, train
from gpt_architecture.api import dossier
from gpt_architecture.data.removal import REMOVAL_NAME, read_removal
from gpt_architecture.errors import ConfigurationError, OutputError

RUN = {
    "tokenizer": "bpe-300",
    "context_length": 64,
    "positions": 64,
    "emb_dim": 32,
    "n_heads": 2,
    "n_layers": 1,
    "batch_size": 4,
    "max_steps": 12,
    "eval_freq": 6,
    "engine": "autograd",
    "device": "cpu",
    "canaries": 2,
    "save_every": 6,
    "progress": False,
}
MAIL = "Écrivez à jean.dupont@exemple.fr ou au 06 12 34 56 78."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Un entraînement minuscule, avec canaris ; son texte à côté."""
    place = tmp_path_factory.mktemp("dossier")
    text = place / "texte.txt"
    text.write_text(f"{FRENCH_TEXT * 6}{MAIL} {FRENCH_TEXT * 6}", encoding="utf-8")
    train(text, output_dir=place / "m", **RUN)
    return place / "m"


def test_it_writes_a_page_and_its_json(cli, folder):
    text = folder.parent / "texte.txt"
    found = cli(*("dossier", folder, "--data", text, "--power", "65", "--carbon", "50", "--force"))
    assert found.code == 0, found.err
    assert f"Dossier : {folder / 'dossier.html'}" in found.err
    for part in ("Les canaris", "L'extraction par préfixes", "L'inférence d'appartenance"):
        assert part in found.out
    told = json.loads((folder / "dossier.json").read_text(encoding="utf-8"))
    assert told["canaries"]["canaries"] == 2
    assert told["canaries"]["secrets"] == 26**3
    assert told["canaries"]["controls"]["found"] == 0
    assert told["canary_repetitions"] == 3
    assert 0 <= told["canary_repetitions_read"] <= 3
    assert f"a lu {told['canary_repetitions_read']} de leurs 3 répétitions" in found.out
    assert told["membership"]["members"] > told["membership"]["others"] >= 8
    assert {each["kind"]: each["left"] for each in told["personal"]} == {
        "e-mail": 1,
        "téléphone": 1,
    }
    assert told["removals"] == []
    assert told["energy"]["kwh"] == pytest.approx(65 * told["energy"]["seconds"] / 3.6e6)
    assert told["sources"] == [{"name": "texte", "licence": None, "about": "", "size": None}]
    assert (folder / "dossier.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_shadows_join_the_attacks(cli, folder, tmp_path):
    out = tmp_path / "d.html"
    data = folder.parent / "texte.txt"
    found = cli("dossier", folder, "--data", data, "--shadow", "2", "--out", out, "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert [each["attack"] for each in told["membership"]["attacks"]] == [
        *("perte", "min-k", "référence", "aveugle")
    ]
    assert told["membership"]["shadow"] == 2
    assert json.loads(out.with_suffix(".json").read_text(encoding="utf-8")) == told
    assert "Modèles de référence" in out.read_text(encoding="utf-8")


def test_the_card_of_a_conversion_quotes_it(cli, folder, tmp_path):
    dossier(folder, progress=False, force=True)
    assert cli("convert", folder, tmp_path / "hf", "--to", "hf").code == 0
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "- **Confidentialité** : " in card
    assert "canaris retrouvés sur 2" in card
    assert "of 2 canaries found" in card
    assert "- **Certificat** : " in card
    assert card.count("- **") % 2 == 0
    gpt = load(folder)
    assert isinstance(gpt, GPT)
    shown = dict(gpt.card)
    assert shown["Canaris"] == "2, plantés exprès"
    assert "canaris retrouvés sur 2" in shown["Confidentialité"]
    assert "canaris retrouvés sur 2" in gpt._repr_html_()


def test_other_data_are_not_taken_for_the_training(folder, tmp_path):
    other = tmp_path / "autre.txt"
    other.write_text(FRENCH_TEXT * 3, encoding="utf-8")
    found = dossier(folder, other, out=tmp_path / "d.html", progress=False)
    assert found.extraction is None
    assert found.membership is None
    assert found.canaries is not None
    assert "autre empreinte" in found.record["notes"]["membership"]
    assert "autre empreinte" in str(found)
    assert "Canaris retrouvés" in repr(found)
    assert "d.html" in found._repr_html_()


def test_unnamed_data_are_not_opened(folder, tmp_path):
    """Comme `verify` : un point de reprise ne désigne pas de fichier ; les canaris restent."""
    found = dossier(folder, out=tmp_path / "d.html", progress=False)
    assert found.canaries is not None
    assert found.membership is None
    assert "nommez les données" in found.record["notes"]["membership"]
    assert "n'est pas connu" in str(found)


def test_what_is_forgotten_is_left_out(tmp_path):
    """Ni compté comme resté, ni membre, ni extrait ; et chaque oubli dit les siens."""
    texts = write_documents(tmp_path)
    second = texts / "b.txt"
    body = second.read_text(encoding="utf-8")
    second.write_text(f"{body[:200]} {MAIL} {body[200:]}", encoding="utf-8")
    folder = tmp_path / "m"
    train(texts, **{**TINY, **KEPT, "output_dir": folder, "max_steps": 70})
    before = dossier(folder, texts, progress=False).record
    assert {each["kind"] for each in before["personal"]} == {"e-mail", "téléphone"}
    forgotten(folder, texts, document="b.txt")
    forgotten(folder, texts, document="a.txt")
    after = dossier(folder, texts, progress=False).record
    assert after["personal"] == []
    removal = read_removal(folder / REMOVAL_NAME)
    assert sum(each["tokens"] for each in after["removals"]) == removal.tokens
    assert after["membership"]["members"] < before["membership"]["members"] // 2
    (last,) = after["extraction"]["by_prefix"][-1:]
    assert last["total"] < before["extraction"]["by_prefix"][-1]["total"] // 2
    (folder / REMOVAL_NAME).unlink()
    with pytest.raises(ConfigurationError, match="oublié des textes"):
        dossier(folder, texts, progress=False)


def test_members_are_what_was_read(tmp_path):
    """Deux étapes n'ont presque rien lu : ce qui n'est pas lu n'est pas un membre."""
    texts = write_documents(tmp_path)
    run = train(texts, **{**TINY, "output_dir": tmp_path / "m", "max_steps": 2})
    told = dossier(run, texts, progress=False).record
    assert told["membership"] is None
    assert "que l'entraînement a lus" in told["notes"]["membership"]


@pytest.mark.parametrize("kind", ["conversations", "mélange"])
def test_what_is_not_one_text_is_said(tmp_path, kind):
    texts = write_documents(tmp_path)
    settings = {**TINY, "output_dir": tmp_path / "m", "max_steps": 2}
    if kind == "mélange":
        sources = [f"un={texts / 'a.txt'}:0.5", f"deux={texts / 'b.txt'}:0.5"]
        run, data = train(sources=sources, **settings), texts / "a.txt"
    else:
        data = write_talks(tmp_path)
        size = {"context_length": 64, "positions": 64, "tokenizer": "bpe-280"}
        run = train(chat=data, **{**settings, **size})
    for given in ((), data):
        told = dossier(run, given, power=65, progress=False, force=True).record
        assert told["extraction"] is None
        assert "Non mesuré" in told["notes"]["extraction"]
        assert told["energy"]["kwh"] > 0
    assert kind in told["notes"]["extraction"]


def test_too_little_unseen_text_is_said(tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text(FRENCH_TEXT * 3, encoding="utf-8")
    settings = {**RUN, "canaries": 0, "context_length": 16, "train_ratio": 0.97}
    run = train(text, output_dir=tmp_path / "m", **settings)
    found = dossier(run, text, progress=False)
    assert found.canaries is None
    assert "gardez plus de texte pour la validation" in found.record["notes"]["membership"]
    assert found.path == tmp_path / "m" / "dossier.html"


def test_a_prepared_folder_tells_what_was_masked(cli, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text(f"{FRENCH_TEXT * 3}{MAIL} {FRENCH_TEXT * 3}", encoding="utf-8")
    prepared = tmp_path / "tokens"
    done = cli(
        *("prepare", text, "--out", prepared, "--personal-data", "mask"),
        *("--val-fraction", "0.3"),
    )
    assert done.code == 0, done.err
    settings = {**RUN, "canaries": 0}
    del settings["tokenizer"]
    run = train(prepared, output_dir=tmp_path / "m", **settings)
    told = dossier(run, prepared, progress=False).record
    assert {each["kind"]: (each["masked"], each["left"]) for each in told["personal"]} == {
        "e-mail": (1, 0),
        "téléphone": (1, 0),
    }
    assert [each["name"] for each in told["sources"]] == ["texte.txt"]
    assert str(tmp_path) not in json.dumps(told["sources"])


def test_refusals(cli, folder, tmp_path):
    with pytest.raises(ConfigurationError, match="nombre pair, de 2 à 64"):
        dossier(folder, shadow=3, out=tmp_path / "d.html", progress=False)
    mine = tmp_path / "mien.html"
    mine.write_text("<p>à moi</p>", encoding="utf-8")
    with pytest.raises(OutputError, match=r"mien\.html"):
        dossier(folder, out=mine, progress=False)
    found = cli("dossier", folder, "--power", "-3")
    found.check_one_line_error(2, "--power")
    assert not (tmp_path / "d.html").exists()
    cli("dossier", tmp_path / "rien").check_one_line_error(1, "rien")


def test_memorisation_knows_the_canaries(cli, folder):
    """Le texte relu est celui de l'entraînement, canaris compris : aucun avertissement."""
    text = Path(folder).parent / "texte.txt"
    found = cli("evaluate", folder, "--memorisation", text, "--length", "8")
    assert found.code == 0, found.err
    assert "autre empreinte" not in found.err


def test_train_tells_of_the_canaries(cli, tmp_path):
    options = tiny(tokenizer="bpe-300", context_length=64, max_steps=1, canaries=2)
    done = cli("train", *options, "--output-dir", tmp_path / "m")
    assert done.code == 0, done.err
    assert "2 canaris" in done.out
    assert "canaris.json" in done.out
