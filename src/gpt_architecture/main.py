"""La commande `gpt-architecture` ; sans argument, une courte visite guidée."""

from __future__ import annotations

import atexit
import gc
import sys

if __package__ in (None, ""):  # lancé par son chemin : python src/gpt_architecture/main.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence

from gpt_architecture.cli.app import build_app, launch

_ALLOCATIONS = 100_000
"""Objets de plus que de libérés avant que le ramasse-miettes ne passe ; 700 par défaut."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Point d'entrée ; `arguments` remplace ceux de la ligne de commande."""
    if arguments is None:
        _start_and_stop_fast()
    launch(build_app(), sys.argv[1:] if arguments is None else list(arguments))


def _start_and_stop_fast() -> None:
    """Le ramasse-miettes parcourrait des centaines de fois ce que torch et numba importent.

    Un import en est plus court d'un dixième, et la fin du processus de deux tiers.
    """
    gc.set_threshold(_ALLOCATIONS)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    main()
