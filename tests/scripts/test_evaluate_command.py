"""La commande evaluate : tableau, JSON, journal, refus."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from cli_helpers import run_process

from gpt_architecture import evaluate
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.training.distributed.world import World

TEXT = "Le passeur leva la lampe. Elle regarda l'eau. " * 20


@pytest.fixture
def run(trained, tmp_path):
    """Un dossier d'entraînement à soi."""
    return shutil.copytree(trained, tmp_path / "entraînement")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def lambada(tmp_path):
    path = tmp_path / "mots.jsonl"
    rows = [{"text": "Le passeur leva la lampe"}, {"text": "Elle regarda l'eau"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def choices(tmp_path):
    path = tmp_path / "suites.jsonl"
    row = {"ctx": "Le passeur", "endings": ["leva la lampe.", "regarda l'eau."], "label": 0}
    path.write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    return path


def test_everything_at_once(cli, run, text, lambada, choices, tmp_path):
    """Tableaux en français, fichier JSON, ligne du journal : les mêmes chiffres."""
    output = tmp_path / "sortie" / "mesures.json"
    outcome = cli(
        *("evaluate", run / "gpt-model.pt", "--data", text, text.parent / "mots.jsonl"),
        *("--lambada", lambada, "--choices", choices, "--json", output),
    )
    assert outcome.code == 0, outcome.err
    for words in ("Perplexité", "Bits/octet", "Total", "Exactitude", "acc_norm", "texte.txt"):
        assert words in outcome.out
    record = json.loads(output.read_text(encoding="utf-8"))
    assert [each["name"] for each in record["text"]["documents"]] == [
        *("texte.txt", "mots.jsonl:1", "mots.jsonl:2")
    ]
    assert f"{record['text']['loss']:.3f}".replace(".", ",") in outcome.out
    low, high = record["text"]["loss_interval"]
    assert low <= record["text"]["loss"] <= high
    assert record["last_word"]["count"] == 2
    assert len(record["choices"]["examples"][0]["log_probs"]) == 2
    line = json.loads((run / JOURNAL).read_text(encoding="utf-8").splitlines()[-1])
    assert line["kind"] == "measures"
    assert line["step"] > 0
    assert line["text"]["loss"] == record["text"]["loss"]
    assert "documents" not in line["text"]


def test_french(cli, run, text):
    """Paires minimales et mots à deviner : au tableau, en JSON, et en bref au journal."""
    told = "Le passeur posa sa lanterne. " + "Il regarda longtemps la rivière sans bouger. " * 4
    text.write_text(f"{told}Puis il reprit sa lanterne. " * 9, encoding="utf-8")
    options = ("--francais", "--cloze", text, "--limit", 1)
    outcome = cli("evaluate", run, *options)
    assert outcome.code == 0, outcome.err
    for words in (
        "Paires minimales du français (60 paires",
        "Ensemble",
        "Dernier mot (1 exemple)",
        "Mot manquant",
    ):
        assert words in outcome.out.replace("\u00a0", " ")
    assert "acc_norm" not in outcome.out
    line = json.loads((run / JOURNAL).read_text(encoding="utf-8").splitlines()[-1])
    record = json.loads(cli("evaluate", run, *options, "--json", "-").out)
    assert record["french"]["count"] == 60
    assert len(record["french"]["phenomena"]) == len(record["french"]["examples"]) == 60
    assert line["french"]["accuracy"] == record["french"]["accuracy"]
    assert "phenomena" not in line["french"]
    assert "examples" not in line["cloze"]["last_word"]
    text.write_text("Trop court.", encoding="utf-8")
    cli("evaluate", run, "--cloze", text).check_one_line_error(1, "aucun exemple à deviner")


def test_a_run_directory_is_a_model(cli, run, text):
    """Le dossier d'un entraînement ; sur stdout, un objet JSON seul."""
    outcome = cli("evaluate", run, "--data", text, "--stride", 32, "--json", "-")
    record = json.loads(outcome.out)
    assert record["model"] == str(run / "gpt-model.pt")
    assert record["text"]["stride"] == 32
    assert record["text"]["bytes"] == len(TEXT.encode())


def test_limits(cli, run, text, lambada):
    outcome = cli(
        *("evaluate", run, "--data", text, lambada, "--lambada", lambada),
        *("--limit", 1, "--tokens", 40, "--json", "-"),
    )
    record = json.loads(outcome.out)
    assert record["text"]["tokens"] == 40
    assert record["last_word"]["count"] == 1


@pytest.mark.slow
def test_quantised_figures_are_close(cli, run, text):
    """Sur 8 bits, ce petit modèle ne perd presque rien ; le fichier quantifié de même."""
    losses = []
    for options in ([], ["--quant", "int8"]):
        outcome = cli("evaluate", run, "--data", text, "--json", "-", *options)
        assert outcome.code == 0, outcome.err
        losses.append(json.loads(outcome.out)["text"]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert cli("quantize", run / "gpt-model.pt").code == 0
    outcome = cli("evaluate", run / "gpt-model-int8.safetensors", "--data", text, "--json", "-")
    assert json.loads(outcome.out)["text"]["loss"] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_lm_eval(cli, run, monkeypatch):
    """Une épreuve locale, au tableau et dans le journal ; une inconnue est dite."""
    pytest.importorskip("lm_eval", reason="le paquet lm-eval n'est pas installé")
    outcome = cli("evaluate", run, "--lm-eval", "suite_fr", "serie_fr", "--limit", 4)
    assert outcome.code == 0, outcome.err
    for words in ("acc_norm", "exact_match, premier_mot", "Erreur type"):
        assert words in outcome.out
    line = json.loads((run / JOURNAL).read_text(encoding="utf-8").splitlines()[-1])
    assert line["lm_eval"]["suite_fr"]["count"] == 4
    cli("evaluate", run, "--lm-eval", "absente").check_one_line_error(1, "absente", "suite_fr")
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    cli("evaluate", run, "--lm-eval", "suite_fr").check_one_line_error(1, "pip install lm-eval")


def test_outside_of_a_run(cli, run, text, tmp_path):
    """Un modèle seul : rien d'autre n'est écrit à côté de lui."""
    alone = tmp_path / "seul"
    alone.mkdir()
    shutil.copy(run / "gpt-model.pt", alone)
    assert cli("evaluate", alone / "gpt-model.pt", "--data", text).code == 0
    assert [each.name for each in alone.iterdir()] == ["gpt-model.pt"]


def test_nothing_to_measure(cli, run):
    cli("evaluate", run).check_one_line_error(2, "rien à mesurer", "--data")
    for typed in (("--french", "--cloze"), ("--data",), ("--cloze", "--french")):
        name = next(each for each in typed if each != "--french")
        cli("evaluate", run, *typed).check_one_line_error(2, f"{name} attend une valeur")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--stride", "0"], "--stride"),
        (["--stride", "999"], "stride"),
        (["--limit", "0"], "--limit"),
        (["--tokens", "0"], "--tokens"),
        (["--batch-size", "0"], "--batch-size"),
        (["--quant", "int3"], "int3"),
    ],
)
def test_bad_usage(cli, run, text, options, word):
    cli("evaluate", run, "--data", text, *options).check_one_line_error(2, word)


def test_bad_lines_come_before_the_model(cli, tmp_path, lambada):
    """Le numéro de la ligne est dit, et rien n'est écrit."""
    lambada.write_text('{"text": "un mot"}\n{"text": 3}\n', encoding="utf-8")
    output = tmp_path / "mesures.json"
    outcome = cli("evaluate", tmp_path / "absent.pt", "--lambada", lambada, "--json", output)
    outcome.check_one_line_error(1, "ligne 2")
    assert not output.exists()


def test_missing_files(cli, run, tmp_path):
    absent = tmp_path / "absent"
    cli("evaluate", absent, "--data", absent).check_one_line_error(1, "introuvable")
    cli("evaluate", run, "--data", absent).check_one_line_error(1, "introuvable")
    cli("evaluate", run, "--choices", absent).check_one_line_error(1, "absent")
    cli("evaluate", run, "--data", run, "--json-file", tmp_path).check_one_line_error(1, "dossier")


def test_many_documents_leave_the_totals_readable(cli, run, tmp_path):
    """Au-delà de vingt documents, le reste est compté sous le tableau ; le total reste entier."""
    folder = tmp_path / "textes"
    folder.mkdir()
    for number in range(23):
        (folder / f"un-nom-de-fichier-plutôt-long-{number:02}.txt").write_text(
            TEXT * 3, encoding="utf-8"
        )
    outcome = cli("evaluate", run / "gpt-model.pt", "--data", folder, "--json-file", "mesures.json")
    assert outcome.code == 0, outcome.err
    total = json.loads(Path("mesures.json").read_text(encoding="utf-8"))["text"]
    line = next(line for line in outcome.out.splitlines() if line.strip().startswith("Total"))
    assert f"{total['loss']:.3f}".replace(".", ",") in line
    assert f"{total['tokens']:,}".replace(",", " ") in line.replace("\u202f", " ").replace(
        "\u00a0", " "
    )
    assert "…" not in line
    assert "… et 3 autres documents" in outcome.out


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_give_the_figures_of_one(cli, run, text, lambada, tmp_path):
    """`--launch 2` : les mêmes mesures, dites une fois, et une seule ligne au journal."""
    asked = ("--data", text, "--lambada", lambada, "--device", "cpu", "--json-file")
    command = ("evaluate", run / "gpt-model.pt", *asked)
    assert cli(*command, tmp_path / "un.json").code == 0
    before = len((run / JOURNAL).read_text("utf-8").splitlines())
    done = run_process(
        *(sys.executable, "-m", "gpt_architecture"),
        *(*command, tmp_path / "deux.json", "--launch", "2"),
        timeout=90,
    )
    assert done.code == 0, done.err
    assert len((run / JOURNAL).read_text("utf-8").splitlines()) == before + 1
    one, two = (json.loads((tmp_path / f"{n}.json").read_text("utf-8")) for n in ("un", "deux"))
    for name in ("text", "last_word"):
        for key, value in one[name].items():
            if isinstance(value, float):
                assert two[name][key] == pytest.approx(value, rel=1e-6), key
    assert two["text"]["tokens"] == one["text"]["tokens"]


def test_what_generates_stays_alone(run, text):
    """Mémorisation et page à plusieurs processus : une phrase, avant tout travail."""
    world = World()
    world.size = 2
    with pytest.raises(ConfigurationError, match="`memorisation` avec 2 processus"):
        evaluate(run / "gpt-model.pt", memorisation=text, world=world)
    with pytest.raises(ConfigurationError, match="`report` avec 2 processus"):
        evaluate(run / "gpt-model.pt", data=text, report="page.html", world=world)
