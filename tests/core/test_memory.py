"""La mémoire du processus : allocateur, code des bibliothèques."""

import platform
import sys
from pathlib import Path

import pytest
from cli_helpers import run_process

from gpt_architecture.core import memory


def test_setting_is_taken_with_glibc():
    """Dans un processus à part, pour ne pas ralentir les autres tests."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("l'allocateur de ce système n'est pas celui de la glibc")
    code = (
        "from gpt_architecture.core.memory import return_freed_memory as f; print(f());"
        "import torch; print(float(torch.ones(512, 768).sum()))"
    )
    assert run_process(sys.executable, "-c", code).out.split() == ["True", "393216.0"]


def test_other_systems_are_left_alone(monkeypatch):
    """Ailleurs, rien n'est touché."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.return_freed_memory() is False


def test_dropped_code_is_read_again_when_needed():
    """Le compilateur rendu au système compile encore."""
    if sys.platform != "linux":
        pytest.skip("les zones d'un processus ne se lisent ainsi que sous Linux")
    pytest.importorskip("numba", reason="numba n'est pas installé")
    code = (
        "import numba; from gpt_architecture.core.memory import drop_library_code as drop;"
        "f = numba.njit(lambda x: x + 1); first = f(1);"
        "dropped = drop('libllvmlite.so');"
        "g = numba.njit(lambda x: x * 2.5); print(first, dropped > 10_000_000, g(4))"
    )
    assert run_process(sys.executable, "-c", code).out.split() == ["2", "True", "10.0"]


def test_unknown_library_drops_nothing():
    assert memory.drop_library_code("libinconnue.so") == 0


def test_elsewhere_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory.drop_library_code("libllvmlite.so") == 0


def test_peak_is_measured_without_resource(monkeypatch):
    """Sans le module de POSIX, le noyau de Linux dit le même plus haut."""
    if sys.platform != "linux":
        pytest.skip("le fichier /proc/self/status est de Linux")
    expected = memory.peak_resident()
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_resident() == pytest.approx(expected, rel=0.02)
    monkeypatch.setattr(memory, "Path", lambda _name: Path("absent"))
    assert memory.peak_resident() == 0


def test_peak_of_windows(monkeypatch):
    """L'appel de Windows reçoit la structure de psapi.h, et son plus haut est rendu."""

    class Kernel:
        class GetCurrentProcess:
            def __new__(cls):
                return 42

        class K32GetProcessMemoryInfo:
            def __new__(cls, process, counters, size):
                counters = counters._obj
                assert (process, size, counters.cb) == (42, 72, 72)
                counters.peak_working_set = 123 << 20
                return 1

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(memory.ctypes, "WinDLL", {"kernel32": Kernel}.get, raising=False)
    assert memory.peak_resident() == 123 << 20
