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
