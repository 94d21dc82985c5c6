"""L'installation : ce que `tools/setup.py` choisit, et ce que promettent les versions épinglées."""

import importlib.util
import re
import socket
import subprocess
import sys
import time
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
setup = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(setup)


@pytest.mark.parametrize(
    ("choice", "system", "driver", "reachable", "cpu"),
    [
        ("auto", "Linux", False, True, True),
        ("auto", "Linux", False, False, False),
        ("auto", "Linux", True, True, False),
        ("cpu", "Linux", True, True, True),
        ("cuda", "Linux", False, True, False),
        ("auto", "Darwin", False, True, False),
    ],
)
def test_which_pytorch(choice, system, driver, reachable, cpu):
    """Sans CUDA : sous Linux, sans pilote ou sur demande, si l'index répond."""
    asked = []

    def answers(url):
        asked.append(url)
        return reachable

    chosen = setup.wants_cpu_wheels(choice, system=system, has_driver=driver, answers=answers)
    assert chosen is cpu
    assert len(asked) == (
        system == "Linux" and choice != "cuda" and not (choice == "auto" and driver)
    )


def test_a_silent_index_is_not_waited_for():
    """Une prise qui écoute et ne dit rien : non, dans le délai."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        assert setup.answers(url, seconds=0.2) is False
        assert time.monotonic() - start < 30


def test_what_is_needed_is_said():
    assert "8 Go (PyTorch sans CUDA)" in setup.needs("cpu")
    assert "14 Go (PyTorch et CUDA)" in setup.needs("cuda")
    assert "mémoire" in setup.needs("cpu")


def test_a_moved_or_broken_environment_is_not_sound(tmp_path):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    assert not setup.is_sound(venv)
    (venv / "emplacement").write_text(str(venv), encoding="utf-8")
    assert not setup.is_sound(venv)  # sans Python
    (venv / "bin" / "python").symlink_to(sys.executable)
    assert setup.is_sound(venv)
    moved = tmp_path / "ailleurs"
    venv.rename(moved)
    assert not setup.is_sound(moved)


def test_a_changed_pin_is_seen(tmp_path):
    venv = tmp_path / ".venv"
    venv.mkdir()
    (tmp_path / "requirements.txt").write_text("torch==1\n", encoding="utf-8")
    assert not setup.is_current("requirements.txt", venv, tmp_path)
    setup._stamp(venv, "requirements.txt").write_text("torch==1\n", encoding="utf-8")
    assert setup.is_current("requirements.txt", venv, tmp_path)
    (tmp_path / "requirements.txt").write_text("torch==2\n", encoding="utf-8")
    assert not setup.is_current("requirements.txt", venv, tmp_path)


@pytest.mark.process
def test_an_old_python_is_refused_in_one_sentence(tmp_path):
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 0); sys.argv = ['setup.py'];"
        f"runpy.run_path({str(ROOT / 'tools' / 'setup.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "3.11 ou plus récent attendu" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- Les versions épinglées ------------------------------------------------------------------


def pins(name):
    """Nom canonique → version exacte."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [
        re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line[:1] not in ("#", "")
    ]
    assert all(found), f"{name} : une ligne n'est pas « paquet==version »"
    return {canonicalize_name(match[1]): match[2] for match in found}


def needed(roots):
    """Tout ce que demandent ces exigences, de proche en proche, d'après ce qui est installé."""
    seen, queue = set(), list(roots)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        for text in requires(name) or []:
            inner = Requirement(text)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                queue.append(inner)
    return {name for name, _ in seen}


BASE, DEV = pins("requirements.txt"), pins("requirements-dev.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_daily_use_is_pinned_without_the_tests():
    """requirements.txt tient seul, ne contient rien de trop, et rien n'y est deux fois."""
    extras = PROJECT["optional-dependencies"]
    roots = [
        *PROJECT["dependencies"],
        *(r for e in ("plots", "fast", "bpe", "serve") for r in extras[e]),
    ]
    wanted = needed(map(Requirement, [*roots, "hatchling", "editables"])) - {"setuptools"}
    assert wanted <= set(BASE)
    assert set(BASE) - wanted == set()
    assert not set(BASE) & set(DEV)


def test_pins_agree_with_what_the_package_asks():
    everything = [
        *PROJECT["dependencies"],
        *(text for texts in PROJECT["optional-dependencies"].values() for text in texts),
    ]
    for requirement in map(Requirement, everything):
        version = (BASE | DEV)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} et {version}"
