"""Un modèle minuscule, entraîné une fois par la vraie commande, et de quoi lancer les autres."""

import sys
from pathlib import Path

import pytest
from scripts_helpers import Outcome, run_process, tiny

from gpt_architecture.main import main

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def cli(capsys):
    """Lance une commande dans ce processus."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = stop.value.code
        return Outcome(0 if code is None else code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Dossier d'un entraînement minuscule fait par « python -m gpt_architecture train »."""
    folder = tmp_path_factory.mktemp("entraine")
    outcome = run_process(
        *(sys.executable, "-W", "error", "-m", "gpt_architecture", "train", *tiny()),
        cwd=folder,
        env={"PYTHONPATH": str(TESTS / "_sans_reseau"), "GPT_ARCHITECTURE_OFFLINE": "1"},
    )
    assert outcome.code == 0, outcome.err
    (folder / "sortie.txt").write_text(outcome.out, encoding="utf-8")
    return folder
