"""Sans POSIX : chaque module s'importe, et la mémoire se mesure autrement."""

import subprocess
import sys

import pytest

WITHOUT_POSIX = """
import importlib, importlib.abc, os, pkgutil, select, signal, socket, sys, warnings

warnings.simplefilter("error")
warnings.filterwarnings("ignore", module=r"(?!gpt_architecture)")
import gpt_architecture

names = ["gpt_architecture"] + [
    found.name
    for found in pkgutil.walk_packages(gpt_architecture.__path__, "gpt_architecture.")
    if not found.name.endswith("__main__")
]
for name in names:  # les bibliothèques s'importent d'abord, avec ce qu'elles trouvent ici
    importlib.import_module(name)

ABSENT = {"resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog", "posix", "readline"}
ATTRIBUTES = (
    *((os, name) for name in ("fork", "register_at_fork", "getuid", "geteuid", "killpg", "setsid")),
    *((os, name) for name in ("sched_getaffinity", "mkfifo", "O_NONBLOCK", "O_CLOEXEC", "sysconf")),
    *((signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGQUIT", "SIGALRM", "pthread_sigmask")),
    *((select, "poll"), (select, "epoll"), (socket, "AF_UNIX")),
)
for module, name in ATTRIBUTES:
    if hasattr(module, name):
        delattr(module, name)


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
for name in [*names, *ABSENT]:
    sys.modules.pop(name, None)
for name in names:
    importlib.import_module(name)
from gpt_architecture.core.machine import peak_resident

print(len(names), peak_resident())
"""


@pytest.mark.timeout(240)
def test_every_module_without_posix():
    """Aucun import du paquet n'a besoin de ce que Windows n'a pas."""
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    count, peak = map(int, found.stdout.split())
    assert count > 150
    assert peak > 10 << 20
