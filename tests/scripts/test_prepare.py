"""La commande prepare : ce qu'elle écrit, ce qu'elle dit, et comment elle s'arrête."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import run_process

from gpt_architecture.data.shards import job as library
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.tokenizer import SimpleTokenizerV2

TEXTS = [f"Le passeur leva la lampe {i} fois, puis il détacha le bateau." for i in range(40)]


@pytest.fixture
def source(tmp_path):
    """Un dossier : un JSONL, un texte, un fichier d'une autre extension."""
    folder = tmp_path / "textes"
    folder.mkdir()
    lines = "".join(json.dumps({"corps": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl").write_text(lines + "{\n", encoding="utf-8")
    (folder / "b.txt").write_text("Un texte.", encoding="utf-8")
    (folder / "c.xyz").write_text("x", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_prepare_says_what_it_did(cli, source, tmp_path):
    """Documents, tokens, octets par token, ce qui est écarté ; la relance ne refait rien."""
    command = ("prepare", source, "--out", tmp_path / "d", "--field", "corps", "--skip-bad")
    outcome = cli(*command, "--val_fraction", "0.2")
    assert outcome.code == 0, outcome.err
    assert "Documents    41" in outcome.out
    tokens = sum(open_shards(tmp_path / "d", split).num_tokens for split in ("train", "val"))
    assert f"Tokens       {tokens:,} : ".replace(",", " ") in outcome.out
    assert " octets par token" in outcome.out
    assert f"JSON invalide : 1 — {source}/a.jsonl:41 (colonne" in outcome.out
    assert f"extension inconnue : 1 — {source}/c.xyz" in outcome.out
    again = cli(*command, "--val-fraction", "0.2")
    assert (again.code, "rien à faire" in again.out) == (0, True)
    assert again.out.splitlines()[1:] == outcome.out.splitlines()[1:]
    cli(*command).check_one_line_error(1, "val_fraction 0.2 → 0.1", "--force")
    assert cli(*command, "--force").code == 0


def test_single_document_is_said(cli, source, tmp_path):
    """Un seul fichier texte : sa fin fait la validation, et c'est dit."""
    (source / "b.txt").write_text("un texte assez long " * 40, encoding="utf-8")
    outcome = cli("prepare", source / "b.txt", "--out", tmp_path / "d")
    assert outcome.code == 0, outcome.err
    assert "Un seul document" in outcome.out


@pytest.mark.slow
def test_unbalanced_split_is_said(cli, source, tmp_path):
    """Deux documents : la validation en prend un entier, et la commande prévient."""
    (source / "d.txt").write_text("Un autre texte.", encoding="utf-8")
    command = ("prepare", source / "b.txt", source / "d.txt", "--out", tmp_path / "d")
    small = cli(*command, "--val-fraction", "0.01")
    assert "% des tokens pour 1 % demandé" in small.out
    assert "demandé" not in cli(*command, "--val-fraction", "0.5", "--force").out
    texts = [source / "long.txt", source / "court.txt"]
    for path, count in zip(texts, (400, 1), strict=True):
        path.write_text("Une phrase toute simple. " * count, encoding="utf-8")
    tiny = cli("prepare", *texts, "--out", tmp_path / "e", "--val-fraction", "0.1").out
    assert "% des tokens pour 10 % demandés" in tiny
    assert "--val-fraction ou --seed" in tiny


@pytest.mark.slow
def test_the_embedded_story_then_train(cli, tmp_path):
    """Le premier essai d'une personne : préparer la nouvelle embarquée, puis entraîner dessus."""
    prepared = cli("prepare", "la-lampe-du-passeur", "--out", tmp_path / "fragments")
    assert prepared.code == 0, prepared.err
    trained = cli(
        *("train", "--data", tmp_path / "fragments", "--output-dir", tmp_path / "m"),
        *("--emb-dim", 16, "--n-heads", 2, "--n-layers", 1, "--epochs", 1, "--max-steps", 1),
        "--document-mask",
    )
    assert trained.code == 0, trained.err
    assert "chaque document seul dans sa fenêtre" in trained.out
    assert "Documents : chacun seul" in cli("inspect", tmp_path / "m" / "gpt-model.pt").out
    preset = ("train", "--preset", "eclair", "--data", tmp_path / "fragments", "--max-steps", 1)
    trained = cli(*preset, "--output-dir", tmp_path / "e")
    assert trained.code == 0, trained.err
    typed = cli(*preset, "--output-dir", tmp_path / "t", "--tokenizer", "bpe-1024")
    typed.check_one_line_error(2, "le tokenizer bpe-1024 pour", "codé par gpt2", "--tokenizer")


def test_written_separators_are_said(cli, tmp_path):
    """<|endoftext|> écrit dans un texte sépare deux documents, et la commande le dit."""
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>".join(TEXTS), encoding="utf-8")
    out = cli("prepare", path, "--out", tmp_path / "d").out
    assert "Documents    40, dont 39 après un <|endoftext|> écrit" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xlsx", "enregistrez-le en .csv"),
        ("a.doc", "enregistrez-le en .docx"),
        ("a.docx", "sa vraie extension"),
        ("a.PDF", "sa vraie extension"),
        ("a.txt.gz", "n'est pas celui d'un fichier compressé"),
        ("a.png", "retirez-le"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("prepare", "--out", "d"),
        ("tokenizer", "train", "--out", "t.json"),
        ("train", "--data"),
        ("evaluate", "{model}", "--data"),
    ],
    ids=["prepare", "tokenizer", "train", "evaluate"],
)
def test_what_is_not_text_is_refused_by_name(cli, trained, command, name, words):
    """Une seule règle pour toutes les commandes, et le remède qui convient à ce format."""
    Path(name).write_text('{"text": "<p>un texte</p>"}', encoding="utf-8")
    filled = [part.format(model=trained / "gpt-model.pt") for part in command]
    where = len(filled) if filled[-1] == "--data" else len(command) - 2
    filled.insert(where, name)
    outcome = cli(*filled)
    outcome.check_one_line_error(1, name, words)
    assert "iconv" not in outcome.err


@pytest.mark.slow
def test_shared_between_machines(cli, source, tmp_path, monkeypatch):
    """Deux tâches, dont une nommée par Slurm, puis leur réunion : les octets d'une seule machine.

    Avec une étape qui compare les documents, chacune dit ce qu'il reste à faire.
    """
    asked = ("--field", "corps", "--skip-bad", "--exact-duplicates")
    assert cli("prepare", source, "--out", tmp_path / "un", *asked).code == 0
    command = ("prepare", source, "--out", tmp_path / "d", *asked)
    for name, value in {"ID": 2, "MIN": 1, "MAX": 2, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in ("1/2", "auto"):
        found = cli(*command, "--task", task)
        assert found.code == 0, found.err
        assert "--merge décide de ce qui se répète" in found.out
    assert "Décisions prises sur l'ensemble" in cli(*command, "--merge").out
    for task in ("1/2", "auto"):
        out = cli(*command, "--task", task).out
        assert "Tâche finie. Quand toutes le sont" in out
        assert "--val-fraction" not in out  # d'une tâche, ce conseil casserait l'ensemble
    merged = cli(*command, "--merge", "--report", tmp_path / "bilan.html")
    assert "Préparé en" in merged.out
    assert (tmp_path / "bilan.html").stat().st_size > 1000
    for path in (tmp_path / "un").iterdir():
        assert (tmp_path / "d" / path.name).read_bytes() == path.read_bytes()


def test_shared_vocabulary(cli, source, tmp_path):
    """Un vocabulaire appris sur ce que deux tâches ont tiré : le fichier d'une seule machine."""
    asked = ("--field", "corps", "--skip-bad", "--sample", "0.7", "--vocab-size", "280")
    train = ("tokenizer", "train", source, *asked, "--out")
    assert cli(*train, tmp_path / "un.json").code == 0
    out = tmp_path / "deux.json"
    for task in ("1/2", "2/2"):
        assert "Tâche finie" in cli(*train, out, "--task", task).out
    assert cli(*train, out, "--merge").code == 0
    assert out.read_bytes() == (tmp_path / "un.json").read_bytes()
    assert not out.with_name("deux.json.taches").exists()
    cli(*train, tmp_path / "v.json", "--merge").check_one_line_error(1, "aucune tâche")
    both = cli(*train, tmp_path / "v.json", "--merge", "--task", "1/2")
    both.check_one_line_error(2, "--task", "--merge")


def test_shared_usage_errors(cli, source, tmp_path):
    """Une tâche mal dite, ce qui s'exclut, une réunion sans tâche : une phrase."""
    command = ("prepare", source, "--out", tmp_path / "d", "--field", "corps", "--skip-bad")
    cli(*command, "--task", "0/7").check_one_line_error(2, "--task", "numéro de la tâche")
    cli(*command, "--task", "3/2").check_one_line_error(2, "--task vaut '3/2'", "≤ 2")
    cli(*command, "--task", "trois").check_one_line_error(2, "--task", "3/7")
    cli(*command, "--task", "auto").check_one_line_error(2, "SLURM_ARRAY_TASK_ID")
    cli(*command, "--task", "1/2", "--merge").check_one_line_error(2, "--task", "--merge")
    cli(*command, "--task", "1/2", "--dry-run").check_one_line_error(2, "--task", "--dry-run")
    page = ("--report", tmp_path / "bilan.html")
    cli(*command, "--task", "1/2", *page).check_one_line_error(2, "--report", "--merge")
    cli(*command, "--merge").check_one_line_error(1, "aucune tâche")
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_saved_tokenizer(cli, source, tmp_path):
    """Un tokenizer enregistré sert ; un tokenizer simple par son nom est refusé en une phrase."""
    SimpleTokenizerV2.from_text(" ".join(TEXTS)).save(tmp_path / "mots.json")
    more = ("--field", "corps", "--skip-bad", "--tokenizer")
    command = ("prepare", source, "--out", tmp_path / "d", *more)
    cli(*command, "simple-v2").check_one_line_error(2, "simple-v2", "SimpleTokenizerV2.from_text")
    assert cli(*command, tmp_path / "mots.json").code == 0
    assert open_shards(tmp_path / "d", "train").tokenizer["name"] == "simple-v2"


@pytest.mark.slow
def test_usage_errors(cli, source, tmp_path):
    """Sans source, sans --out, réglage ou source impossible : une phrase."""
    cli("prepare", "--out", tmp_path / "d").check_one_line_error(2, "aucune source")
    cli("prepare", source).check_one_line_error(2, "--out n'est pas donné")
    out = ("--out", tmp_path / "d")
    cli("prepare", source, *out, "--val-fraction", "2").check_one_line_error(2, "--val-fraction")
    cli("prepare", source, *out, "--workers", "0").check_one_line_error(2, "workers")
    cli("prepare", "absent", *out).check_one_line_error(1, "source de texte introuvable : absent")
    misspelt = cli("prepare", "la-lampe-du-passeurr", *out)
    misspelt.check_one_line_error(1, "essayez la-lampe-du-passeur")
    for extra, advice in (
        (("--source", "a=a.txt:0.7", "b=b.txt:0.3"), "essayez --source b=b.txt:0.3"),
        (("--document-mask", "no"), "--document-mask ne prend pas de valeur"),
        (("--epochs", 2, "texte.txt"), "essayez --data texte.txt"),
    ):
        cli("train", *extra).check_one_line_error(2, "argument en trop", advice)
    cli("prepare", source / "a.jsonl", *out, "--field", "absent").check_one_line_error(
        1, f"{source}/a.jsonl:1 (absent ; il y a corps) : champ absent", "--field", "--skip-bad"
    )
    cli("prepare", source / "a.jsonl", *out).check_one_line_error(
        1, "a.jsonl:41 (colonne 1) : JSON invalide", "--skip-bad"
    )
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_interruption_is_one_line(cli, source, tmp_path, monkeypatch):
    """Ctrl-C : une ligne, 130, et la relance finit le travail."""
    command = ("prepare", source, "--out", tmp_path / "d", "--field", "corps", "--skip-bad")
    with monkeypatch.context() as patch:

        def interrupt(*_arguments):
            raise KeyboardInterrupt

        patch.setattr(library.Tally, "add", interrupt)
        outcome, dry = cli(*command), cli(*command, "--dry-run")
    assert outcome.code == dry.code == 130
    assert dry.err.splitlines() == ["Interrompu ; rien n'est gardé."]
    assert outcome.err.splitlines() == ["Interrompu ; relancez la même commande pour reprendre."]
    assert not (tmp_path / "d").exists()
    assert cli(*command).code == 0


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_with_workers(source, tmp_path, number, code):
    """Ctrl-C et SIGTERM pendant le travail de deux processus : une ligne, le bon code."""
    line = json.dumps({"corps": " ".join(TEXTS)}) + "\n"
    (source / "a.jsonl").write_text(line * 3000, encoding="utf-8")
    script = (
        "import os\n"
        "from gpt_architecture.main import main\n"
        "from gpt_architecture.data.shards import job\n"
        "add = job.Tally.add\n"
        "def signalled(*counts):\n"
        "    add(*counts)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "job.Tally.add = signalled\n"
        "if __name__ == '__main__':\n"
        f"    main(['prepare', {str(source)!r}, '--out', {str(tmp_path / 'd')!r}, "
        "'--field', 'corps', '--workers', '2'])\n"
    )
    path = tmp_path / "lance.py"
    path.write_text(script, encoding="utf-8")
    outcome = run_process(sys.executable, "-W", "error", path)
    assert outcome.code == code
    errors = outcome.err.splitlines()
    assert len(errors) == 1, outcome.err
    assert errors[0].endswith("relancez la même commande pour reprendre.")
    assert not (tmp_path / "d").exists()


@pytest.mark.process
def test_orphans_die_with_their_parent(source, tmp_path):
    """Tué sans préavis, le programme ne laisse aucun processus derrière lui."""
    line = json.dumps({"corps": " ".join(TEXTS)}) + "\n"
    (source / "a.jsonl").write_text(line * 3000, encoding="utf-8")
    path = tmp_path / "lance.py"
    path.write_text(
        "import multiprocessing, os, signal\n"
        "from gpt_architecture.main import main\n"
        "from gpt_architecture.data.shards import job\n"
        "def killed(*counts):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "job.Tally.add = killed\n"
        "if __name__ == '__main__':\n"
        f"    main(['prepare', {str(source)!r}, '--out', {str(tmp_path / 'd')!r}, "
        "'--field', 'corps', '--workers', '2'])\n",
        encoding="utf-8",
    )
    # stdout est hérité par les processus : la lecture finit quand le dernier est mort
    done = subprocess.run(
        [sys.executable, str(path)], stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL


PROSE = (
    "Il attendait depuis des heures que quelqu'un l'appelle de l'autre rive, mais personne ne "
    "venait plus ce soir-là, et le vent du fleuve n'était pas tendre."
)


def test_hygiene_options(cli, tmp_path):
    """Un préréglage allume, une option éteint ou règle ; le bilan dit ce qui est retiré."""
    source = tmp_path / "a.jsonl"
    texts = [*(f"{text} {PROSE}" for text in TEXTS), "court", f"a@b.fr {PROSE}"]
    texts += [texts[0]] * 3
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    command = ("prepare", source, "--hygiene", "neutre", "--near-duplicates", 0)
    options = ("--min-words", 10, "--repeated-paragraphs", 0, "--without", "validation")
    outcome = cli(*command, *options, "--out", tmp_path / "d")
    assert outcome.code == 0, outcome.err
    assert "Hygiène      41 documents gardés sur 45" in outcome.out
    assert "qualité : trop court : 1 document, 5 caractères" in outcome.out
    assert "Masqué       e-mail : 1 passage" in outcome.out
    assert "doublon exact : 3 documents" in outcome.out
    index = json.loads((tmp_path / "d" / "index.json").read_text("utf-8"))
    assert index["settings"]["hygiene"]["near"] == 0
    assert index["settings"]["hygiene"]["quality"]["min_words"] == 10


def test_one_step_alone(cli, tmp_path):
    """Sans préréglage, une option n'allume que son étape."""
    source = tmp_path / "a.jsonl"
    texts = [*TEXTS, TEXTS[0], "court"]
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    outcome = cli("prepare", source, "--exact-duplicates", "--out", tmp_path / "d")
    assert outcome.code == 0, outcome.err
    assert "41 documents gardés sur 42" in outcome.out
    assert outcome.out.count("Retiré") == 1


def test_dry_run_leaves_only_the_report(cli, tmp_path, monkeypatch):
    """--dry-run dit tout et n'écrit que la page, sans --out ; la page n'écrase rien d'autrui."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), "utf-8")
    command = ("prepare", "a.jsonl", "--dry-run", "--hygiene", "doublons", "--near-duplicates", 0)
    before = {path.name for path in tmp_path.iterdir()}
    outcome = cli(*command, "--report", "bilan.html")
    assert outcome.code == 0, outcome.err
    assert "rien n'est gardé" in outcome.out
    assert {path.name for path in tmp_path.iterdir()} == before | {"bilan.html"}
    assert cli(*command, "--report", "bilan.html").code == 0
    Path("bilan.html").write_text("précieux", "utf-8")
    cli(*command, "--report", "bilan.html").check_one_line_error(1, "existe déjà", "--force")
    assert Path("bilan.html").read_text("utf-8") == "précieux"


def test_bad_hygiene(cli, tmp_path):
    """Un préréglage inconnu, un seuil hors bornes, --out oublié : une phrase, code 2."""
    (tmp_path / "a.txt").write_text("un texte", encoding="utf-8")
    command = ("prepare", tmp_path / "a.txt", "--out", tmp_path / "d")
    cli(*command, "--hygiene", "frr").check_one_line_error(2, "frr", "fr ou en")
    near = cli(*command, "--near-duplicates", 80)
    near.check_one_line_error(2, "--near-duplicates vaut 80", "≤ 1")
    cli("prepare", tmp_path / "a.txt").check_one_line_error(2, "--out")
    assert not (tmp_path / "d").exists()
