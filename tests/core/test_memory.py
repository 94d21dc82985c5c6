"""Le réglage de l'allocateur."""

import platform
import sys

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


def test_library_pages_are_given_back_and_read_again():
    """Moins de pages résidentes, et les mêmes calculs ensuite."""
    if sys.platform != "linux":
        pytest.skip("ce conseil n'existe que sous Linux")
    code = (
        "import torch\n"
        "from gpt_architecture.core.memory import release_library_pages as f\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1])\n"
        "before = rss(); heard = f(); print(heard, rss() <= before)\n"
        "print(float((torch.ones(64, 64) @ torch.ones(64, 64)).sum()))"
    )
    outcome = run_process(sys.executable, "-W", "error", "-c", code)
    assert outcome.out.split() == ["True", "True", "262144.0"], outcome.err


def test_pages_elsewhere_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.release_library_pages() is False
