"""La roue : tout ce qu'elle doit contenir, et elle suffit, avec les seules dépendances de base."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from cli_helpers import run_process
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TINY = ["--emb-dim", "48", "--n-heads", "4", "--n-layers", "2", "--context-length", "64"]
ALONE = """\
import json, sys

names = set(json.loads(sys.argv.pop(1)))


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in names:
            return self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Without, sys.meta_path)
from gpt_architecture.main import main
main()
"""
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """La roue du projet, écrite une fois."""
    folder = tmp_path_factory.mktemp("roue")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def needed(requirements):
    """Ce que demandent ces exigences, de proche en proche."""
    seen, queue = set(), [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        inner = map(Requirement, requires(name) or [])
        queue += [r for r in inner if r.marker is None or r.marker.evaluate({"extra": ""})]
    return seen


def optional_modules():
    """Les modules installés ici qu'une installation de base n'a pas."""
    base = needed(PROJECT["dependencies"]) | {"gpt-architecture", "pip", "setuptools"}
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & base
    )


def test_everything_is_in_the_wheel(wheel):
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc")
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_trains_and_writes_alone(wheel, tmp_path):
    """Ni matplotlib, ni Numba, ni FastAPI : l'entraînement et l'écriture n'en ont pas besoin."""
    hidden = optional_modules()
    assert {"matplotlib", "numba", "fastapi", "tokenizers", "transformers"} <= set(hidden)
    zipfile.ZipFile(wheel).extractall(tmp_path / "seule")
    alone = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "seule"), os.environ["PYTHONPATH"]])}

    def run(*arguments):
        command = [sys.executable, "-W", "error", "-c", ALONE, json.dumps(hidden)]
        return run_process(*command, *arguments, cwd=tmp_path, env=alone)

    training = ["--epochs", "1", "--device", "cpu", "--data", "la-lampe-du-passeur"]
    outcome = run("train", *TINY, *training)
    assert outcome.code == 0, outcome.err
    assert "matplotlib" in outcome.err
    assert (tmp_path / "gpt-model.pt").is_file()
    outcome = run("infer", "--prompt", "Le passeur", "--max-tokens", "8")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Le passeur")
    outcome = run("serve", "--port", "0")
    assert outcome.code == 1
    assert "pip install" in outcome.err
