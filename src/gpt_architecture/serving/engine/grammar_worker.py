"""Le processus qui essaie les contraintes : il lit, mesure, répond, et meurt plutôt que de durer.

Une ligne de JSON par message. D'abord le vocabulaire et les bornes, à quoi il répond `{}` quand il
est prêt ; puis une grammaire par ligne, à quoi il répond ce qu'elle a coûté. Il finit avec le
service : son entrée est alors fermée.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from gpt_architecture.decoding.grammars import build_matcher, token_tree, why_refused

resource: Any
try:
    resource = import_module("resource")
except ImportError:  # Windows
    resource = None

TOO_LONG, TOO_LARGE = 61, 62
"""Codes de sortie : la grammaire demandait trop de temps, trop de mémoire."""

_POLL_SECONDS = 0.005
_NICENESS = 10  # le calcul des séquences passe avant ; pas au point que rien n'avance ici
_SLACK = 256 << 20  # octets d'adresses que des threads réservent sans les employer
_STATM = Path("/proc/self/statm")


def main() -> None:
    """Sert jusqu'à la fin de son entrée."""
    for number in (signal.SIGINT, signal.SIGTERM):  # un Ctrl-C au terminal vise le service
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    setup = _read()
    tokens = [token.encode("latin-1") for token in setup["tokens"]]
    tree = token_tree(tokens, setup["eos_id"], lambda _text: [])
    memory: int = setup["memory"]
    if resource is not None and _STATM.exists():  # qui demande tout d'un coup est tué par là
        limit = _pages(0) + memory + _SLACK
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit <= hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    _write({})
    first = _memory()
    while True:
        grammar = _read()["grammar"]
        answer = _try(tree, grammar, seconds=setup["seconds"], ceiling=_memory() + memory)
        last = _memory() > first + memory // 2  # ce que malloc garde fausserait les mesures
        _write({**answer, "last": last})
        if last:
            return


def _try(tree: Any, grammar: str, *, seconds: float, ceiling: int) -> dict[str, Any]:
    """Construit une grammaire et son premier masque ; sort du processus si elle dépasse."""
    found = dict[str, Any]()

    def work() -> None:
        found["reason"] = why_refused(build_matcher(tree, grammar))

    start = time.process_time()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if time.process_time() - start > seconds:
            os._exit(TOO_LONG)
        if _memory() > ceiling:
            os._exit(TOO_LARGE)
    if "reason" not in found:  # le thread est mort, faute de mémoire : rien n'est sûr ensuite
        os._exit(1)
    return {**found, "seconds": time.process_time() - start}


def _memory() -> int:
    """Octets tenus ; leur plus haut niveau hors de Linux, 0 où rien ne le dit."""
    if _STATM.exists():
        return _pages(1)
    if resource is None:
        return 0
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # des octets, chez macOS
    return most


def _pages(column: int) -> int:
    return int(_STATM.read_text(encoding="ascii").split()[column]) * os.sysconf("SC_PAGE_SIZE")


def _read() -> dict[str, Any]:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    found: dict[str, Any] = json.loads(line)
    return found


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()
