"""Ce que les tests partagent : pas de réseau, un petit modèle, un petit texte."""

import inspect
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import Outcome, run_process, tiny

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.main import main

HERE = Path(__file__).resolve().parent
runpy.run_path(str(HERE / "_sans_reseau" / "sitecustomize.py"))  # bloque le réseau ici aussi
ROOT = HERE.parent

# Les modèles de test sont minuscules : un fil suffit, ici et dans les processus lancés.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
SHARED_DATA = Path(os.environ.get("GPT_ARCHITECTURE_TEST_DATA", ROOT.parent / "shared" / "data"))

FRENCH_TEXT = (
    "Le passeur leva la lampe deux fois, puis il détacha le bateau. L'eau frottait les "
    "graviers ; elle se taisait au milieu. — Regarde l'eau, dit-il. Elle regarda l'eau. "
) * 12


def pytest_configure() -> None:
    """Rend leur effet aux signaux que nohup ou un lancement en arrière-plan fait ignorer.

    Les processus que lancent les tests hériteraient de cette surdité, et n'en finiraient pas.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


LAUNCHES = {"subprocess", "Popen", "multiprocessing", "spawn"}
"""Ce que nomme une fonction qui lance des processus."""


def pytest_collection_modifyitems(items) -> None:
    """Marque ce qui lance des processus ou un navigateur : `make test-rapide` s'en passe."""
    known = {}
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker("browser")
            continue
        fixtures = [each[-1].func for each in item._fixtureinfo.name2fixturedefs.values()]
        if any(launches(each, known) for each in (item.function, *fixtures)):
            item.add_marker("process")


def launches(thing, known) -> bool:
    """Vrai si cette fonction, ou l'une de celles des tests qu'elle emploie, lance un processus."""
    if inspect.isclass(thing):
        return any(launches(each, known) for each in vars(thing).values())
    thing = getattr(getattr(thing, "hypothesis", None), "inner_test", thing)
    thing = getattr(thing, "py_func", thing)  # compilée par Numba
    code = getattr(thing, "__code__", None)
    if code is None or not Path(code.co_filename).is_relative_to(HERE):
        return False
    if code not in known:
        known[code] = False  # le temps de répondre : elle peut s'appeler elle-même
        names = names_in(code)
        used = (thing.__globals__.get(name) for name in names)
        known[code] = bool(names & LAUNCHES) or any(launches(each, known) for each in used)
    return known[code]


def names_in(code) -> set[str]:
    """Les noms qu'emploie une fonction, fonctions intérieures comprises."""
    inner = (each for each in code.co_consts if inspect.iscode(each))
    return {*code.co_names, *(name for each in inner for name in names_in(each))}


@pytest.fixture
def tiny_config():
    """Une forme minuscule en mode livre ; vocabulaire de GPT-2 réduit."""
    return GPTConfig(
        vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.0
    )


@pytest.fixture
def tiny_model(tiny_config):
    """Modèle minuscule, en évaluation, aux poids fixés."""
    torch.manual_seed(0)
    return GPTModel(tiny_config).eval()


@pytest.fixture
def verdict_path():
    """The Verdict, s'il est à côté du projet."""
    path = SHARED_DATA / "the-verdict.txt"
    if not path.is_file():
        pytest.skip(f"texte absent : {path} (GPT_ARCHITECTURE_TEST_DATA le situe)")
    return path


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch, tmp_path):
    """Chaque test a son dossier de travail et n'hérite d'aucun réglage."""
    for name in list(os.environ):
        ours = name.startswith("GPT_ARCHITECTURE_") and name != "GPT_ARCHITECTURE_TEST_DATA"
        if ours or name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPT_ARCHITECTURE_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(HERE / "_sans_reseau"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workdir = tmp_path / "travail"
    workdir.mkdir()
    monkeypatch.chdir(workdir)


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
        env={"PYTHONPATH": str(HERE / "_sans_reseau"), "GPT_ARCHITECTURE_OFFLINE": "1"},
    )
    assert outcome.code == 0, outcome.err
    (folder / "sortie.txt").write_text(outcome.out, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium, sans tête, lancé une fois par fichier."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as running:
        found = running.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield found
        found.close()
