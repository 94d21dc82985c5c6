"""Prépare l'environnement : `.venv`, PyTorch d'abord, puis les versions épinglées, puis le projet.

    python3 tools/setup.py                  ce qu'il faut pour entraîner, écrire et servir
    python3 tools/setup.py --dev            aussi ce que demandent les tests, le style et les types
    python3 tools/setup.py --torch cuda     PyTorch de PyPI, CUDA compris, même sans pilote NVIDIA

Rien n'est refait tant que les versions épinglées ne changent pas ; un environnement cassé, déplacé
ou dont une version a changé est refait. Ne demande que Python et sa bibliothèque.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BASE, DEV, PROJECT = "requirements.txt", "requirements-dev.txt", "pyproject.toml"
OLDEST = (3, 11)
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
"""L'index des PyTorch sans CUDA, que PyPI n'a pas pour Linux."""
ANSWER_SECONDS = 3.0
GIB = 2**30
LEAST = 3 * GIB
"""Disque sans lequel rien ne sert de commencer : l'installation et un modèle, en octets."""
ROOM = {"cpu": 8 * GIB, "cuda": 14 * GIB}
"""Disque d'un entraînement entier, qui garde des points de reprise, en octets."""
NEEDS = """\
Première installation, une fois. Il faut :
  disque    environ {disk} Go ({wheels}), dont 6 pour « make train » : modèle, points de reprise
  mémoire   4 Go pour « make train », 2,5 Go avec ARGS="--memory lean"
  temps     {minutes} selon le réseau, puis 5 à 10 minutes d'entraînement sur 2 cœurs"""


def wants_cpu_wheels(
    choice: str, *, system: str, has_driver: bool, answers: Callable[[str], bool]
) -> bool:
    """Faut-il l'index sans CUDA ? Sous Linux, sans pilote NVIDIA, s'il répond à temps.

    Args:
        choice: `auto`, `cpu` ou `cuda`, ce que la personne demande.
        system: nom du système, celui de `platform.system()`.
        has_driver: un pilote NVIDIA est là.
        answers: dit si un index répond ; n'est appelé qu'au besoin.
    """
    if system != "Linux" or choice == "cuda" or (choice == "auto" and has_driver):
        return False
    return answers(CPU_WHEELS)


def has_nvidia_driver() -> bool:
    """Un pilote NVIDIA est chargé, ou son outil est installé."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def answers(url: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Cet index répond-il dans ce délai, résolution du nom comprise ?"""
    found = threading.Event()

    def ask() -> None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/torch/", timeout=seconds):
            found.set()

    threading.Thread(target=ask, daemon=True).start()
    return found.wait(seconds)


def is_current(name: str, venv: Path = VENV, root: Path = ROOT) -> bool:
    """Ce fichier de versions est-il celui qui a été installé ?"""
    with suppress(OSError):
        return (root / name).read_bytes() == _stamp(venv, name).read_bytes()
    return False


def is_sound(venv: Path = VENV) -> bool:
    """L'environnement est ici, et son Python tourne encore."""
    place = venv / "emplacement"
    if not place.is_file() or place.read_text(encoding="utf-8") != str(venv):
        return False
    with suppress(OSError):
        return subprocess.run([_python(venv), "-c", ""], check=False).returncode == 0
    return False


def needs(wheels: str) -> str:
    """Ce que demande l'installation, dit avant le premier octet téléchargé."""
    source = "PyTorch sans CUDA" if wheels == "cpu" else "PyTorch et CUDA"
    minutes = "2 à 5 minutes" if wheels == "cpu" else "5 à 20 minutes"
    return NEEDS.format(disk=ROOM[wheels] // GIB, wheels=source, minutes=minutes)


def install(*, torch: str, dev: bool) -> None:
    """Met `.venv` à jour : ce qui manque seulement.

    Raises:
        SystemExit: pas assez de disque, ou une installation a échoué.
    """
    if not (is_current(BASE) and is_sound()):
        _create(torch)
    if dev and not is_current(DEV):
        _say("Outils de test et bibliothèques comparées…")
        _pip("--requirement", BASE, "--requirement", DEV)
        shutil.copyfile(ROOT / DEV, _stamp(VENV, DEV))
    if not is_current(PROJECT):
        _pip("--no-deps", "--no-build-isolation", "--editable", ".")
        shutil.copyfile(ROOT / PROJECT, _stamp(VENV, PROJECT))


def _create(choice: str) -> None:
    cpu = wants_cpu_wheels(
        choice, system=platform.system(), has_driver=has_nvidia_driver(), answers=answers
    )
    wheels = "cuda" if platform.system() == "Linux" and not cpu else "cpu"
    _say(needs(wheels))
    free = shutil.disk_usage(ROOT).free
    if free < LEAST:
        sys.exit(
            f"erreur : {free / GIB:.1f} Go libres ici, il en faut {LEAST // GIB} au moins ; "
            "faites de la place, ou clonez ailleurs."
        )
    if free < ROOM[wheels]:
        _say(f"attention : {free / GIB:.1f} Go libres ici, c'est peu.")
    start = time.monotonic()
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    words = (ROOT / BASE).read_text(encoding="utf-8").split()
    pin = next(word for word in words if word.startswith("torch=="))
    if cpu:
        _say("PyTorch sans CUDA, de son propre index (TORCH=cuda pour celui de PyPI)…")
        _pip("--no-deps", "--index-url", CPU_WHEELS, pin)
    else:
        _say("PyTorch, de PyPI…")
        _pip(pin)
    _say("Bibliothèques…")
    _pip("--requirement", BASE)
    shutil.copyfile(ROOT / BASE, _stamp(VENV, BASE))
    (VENV / "emplacement").write_text(str(VENV), encoding="utf-8")
    _say(f"Installé en {time.monotonic() - start:.0f} s.")


def _pip(*arguments: str) -> None:
    command: list[str | Path] = [
        _python(VENV),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    try:
        subprocess.run([*command, *arguments], check=True, cwd=ROOT)
    except subprocess.CalledProcessError as error:
        sys.exit(
            "erreur : pip n'a pas pu installer (son message est au-dessus) ; "
            f"vérifiez le réseau et relancez (code {error.returncode})."
        )


def _python(venv: Path) -> Path:
    return venv / "bin" / "python"


def _stamp(venv: Path, name: str) -> Path:
    return venv / f"{name}.installe"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Lit les options, et installe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="aussi les outils de test")
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    if sys.version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        sys.exit(
            f"erreur : Python {platform.python_version()} trouvé, {oldest} ou plus récent attendu "
            f"(PYTHON=python{oldest} make …)"
        )
    install(torch=options.torch, dev=options.dev)


if __name__ == "__main__":
    main()
