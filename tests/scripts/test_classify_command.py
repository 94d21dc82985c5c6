"""`train --classify`, `evaluate --classify`, `infer` : de bout en bout, et leurs refus."""

import csv
import json

import pytest

TINY = {
    "tokenizer": "char",
    "context-length": 16,
    "emb-dim": 16,
    "n-heads": 2,
    "n-layers": 1,
    "batch-size": 4,
    "eval-freq": 20,
    "device": "cpu",
}


def tiny(**changes):
    options = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def table(path, count=40, separator=";"):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(("message", "genre", "prix"))
        writer.writerows(
            (f"{'éà'[n % 2]}{n}", ("été", "à côté")[n % 2], n / 4) for n in range(count)
        )
    return path


@pytest.fixture
def path(tmp_path):
    return table(tmp_path / "avis.csv")


@pytest.fixture
def model(cli, path, tmp_path):
    """Un modèle qui classe, et ce que la commande en a dit."""
    asked = ["--classify", path, "--label", "genre", "--field", "message", "--max-steps", "4"]
    outcome = cli("train", *asked, *tiny(output_dir=tmp_path / "m"))
    assert outcome.code == 0, outcome.err
    return tmp_path / "m" / "gpt-model.pt", outcome


def test_labelled_texts_replace_those_of_a_preset(cli, path, tmp_path):
    """`eclair` nomme un texte et le décalage de ses fenêtres : personne ne les a demandés."""
    asked = ["--preset", "eclair", "--classify", path, "--label", "genre", "--field", "message"]
    shape = tiny(output_dir=tmp_path / "m", optimizer="adamw", max_steps=1, epochs=1)
    outcome = cli("train", *asked, *shape)
    assert outcome.code == 0, outcome.err
    assert "avis (char) : 36 exemples" in outcome.out
    cli("train", *asked, *shape, "--data", path).check_one_line_error(2, "--classify et --data")
    outcome = cli("train", *asked, *tiny(max_steps=1), "--force", "--estimate")
    assert "évaluation" in outcome.out, outcome.err
    assert " exemples de " not in outcome.out.split("Durée", 1)[1]


def test_train_says_what_it_learns_and_what_it_is_worth(model):
    out = model[1].out
    for words in (
        "avis (char) : 36 exemples d'entraînement, 4 de validation",
        "À apprendre  2 classes (à côté, été) ; 18 exemples chacune",
        "Classement de avis (4 exemples)",
        "TF-IDF + régression",
        "seuls ses exemples de validation sont mesurés",
        "36 exemples",
        "--prompt",
    ):
        assert words in out, words
    assert "Exemple :" not in out


def test_evaluate(cli, model, path, tmp_path):
    outcome = cli("evaluate", model[0], "--classify", path, "--json")
    assert outcome.code == 0, outcome.err
    (record,) = (
        json.loads(outcome.out) if outcome.out.startswith("[") else [json.loads(outcome.out)]
    )
    labels = record["labels"]
    assert (labels["count"], labels["held_out"]) == (4, True)
    assert labels["labels"] == ["à côté", "été"]
    assert labels["reference"]["learned"] == 36
    other = table(tmp_path / "autre.csv", 10, separator=",")
    outcome = cli("evaluate", model[0], "--classify", other, "--limit", 6)
    assert outcome.code == 0, outcome.err
    assert "6 exemples" in outcome.out
    assert "--reference" in outcome.out
    outcome = cli("evaluate", model[0], "--classify", other, "--reference", path)
    assert "apprise de 36 exemples" in outcome.out


def test_infer(cli, model, tmp_path):
    outcome = cli("infer", model[0], "--prompt", "é12")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(("été (", "à côté ("))
    texts = tmp_path / "textes.txt"
    texts.write_text("é1\n\nà2\n" + "é" * 40, encoding="utf-8")
    outcome = cli("infer", model[0], "--prompts", texts)
    assert len(outcome.out.splitlines()) == 3
    assert "1 texte : seul le début est lu, 16 tokens" in outcome.err
    outcome = cli("infer", model[0], "--prompts", texts, "--json")
    first = json.loads(outcome.out)[0] if outcome.out.startswith("[") else json.loads(
        outcome.out.splitlines()[0]
    )  # fmt: skip
    assert first["text"] == "é1"
    assert set(first["probabilities"]) == {"été", "à côté"}


def test_it_says_what_it_is(cli, model):
    for command in (("inspect", model[0]), ("models", model[0].parent)):
        outcome = cli(*command)
        assert outcome.code == 0, outcome.err
        assert "rend 2 classes (à côté, été)" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("infer", "--score", "--prompt", "é"), ("classe des textes", "n'en écrit pas")),
        (("infer", "--trace", "--prompt", "é"), ("classe des textes",)),
        (("infer",), ("aucun texte à juger", "--prompt")),
        (("evaluate", "--data", "la-lampe-du-passeur"), ("classe des textes",)),
        (("evaluate", "--french"), ("classe des textes",)),
        (("evaluate", "--classify", "avis.csv", "--label", "absente"), ("message, genre, prix",)),
        (("evaluate", "--label", "genre", "--french"), ("--label", "--classify")),
        (("quantize",), ("classe des textes",)),
    ],
    ids=" ".join,
)
def test_what_it_does_not_do(cli, model, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    outcome = cli(command, model[0], *rest)
    outcome.check_one_line_error(1 if "absente" in rest else 2, *words)


def test_a_model_that_writes_does_not_judge(cli, trained, path):
    outcome = cli("evaluate", trained / "gpt-model.pt", "--classify", path)
    outcome.check_one_line_error(2, "n'a pas de tête", "train --classify")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--label", "absente"), ("genre", "message, genre, prix")),
        (("--label", "genre", "--val", "absent.csv"), ("absent.csv",)),
        (("--label", "genre", "--regress"), ("un nombre", "--regress")),
        (("--label", "genre", "--data", "x.txt"), ("--classify", "--data")),
    ],
    ids=" ".join,
)
def test_train_refuses(cli, path, tmp_path, asked, words):
    outcome = cli("train", "--classify", path, "--field", "message", *asked,
                  *tiny(output_dir=tmp_path / "m"))  # fmt: skip
    outcome.check_one_line_error(outcome.code, *words[:1])
    assert outcome.code in (1, 2)
    assert all(word in outcome.err for word in words)
    assert not (tmp_path / "m").exists()


def test_a_value(cli, path, tmp_path):
    asked = ["--classify", path, "--label", "prix", "--field", "message", "--regress"]
    outcome = cli("train", *asked, "--max-steps", "3", *tiny(output_dir=tmp_path / "m"))
    assert outcome.code == 0, outcome.err
    assert "Écart absolu moyen" in outcome.out
    outcome = cli("infer", tmp_path / "m" / "gpt-model.pt", "--prompt", "é", "--json")
    assert isinstance(json.loads(outcome.out)["value"], float)
