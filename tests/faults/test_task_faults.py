"""Une préparation partagée entre machines, tâches et réunions tuées n'importe où : mêmes octets."""

import json
import random
import sys
from pathlib import Path

import pytest
from cli_helpers import run_process

WORKER = Path(__file__).parent / "task_worker.py"


def launch(*arguments):
    done = run_process(sys.executable, WORKER, *arguments)
    assert done.code == 0, done.err
    return int(done.out)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def corpus(tmp_path):
    """Des lignes où tout se répète un peu, un long texte, et un fichier fautif."""
    rng = random.Random(0)  # noqa: S311 — un corpus d'essai
    words = ["le", "la", "passeur", "lampe", "fleuve", "miel", "rive", "manteau", "vent", "voix"]
    texts = [" ".join(rng.choice(words) for _ in range(60)) + "." for _ in range(40)]
    texts += [f"{text[:-1]} {rng.choice(words)}." for text in texts[:10]] + texts[20:25]
    texts = [f"Accueil, contact et mentions légales\n{text}" for text in texts]
    folder = tmp_path / "s"
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(texts[:20]), encoding="utf-8")
    (folder / "c.txt").write_bytes(b"faux \xe9")
    return folder


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(("steps", "count", "deaths"), [("hygiene", 3, 50), ("rien", 2, 10)])
def test_killed_anywhere_the_bytes_are_those_of_one_machine(corpus, tmp_path, steps, count, deaths):
    """Tant de morts, tâches et réunions comprises : les octets d'une seule machine, sans mort."""
    pytest.importorskip("rensa", reason="demande rensa")
    launch(corpus, tmp_path / "un", steps, 0, 0, 0)
    found = launch(corpus, tmp_path / "tué", steps, count, 1, deaths)
    assert found == deaths
    assert content(tmp_path / "tué") == content(tmp_path / "un")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("tué.")]
