"""Plusieurs fils, plusieurs processus : ce qu'ils partagent reste juste.

Après un `fork`, l'enfant n'a plus qu'un fil. Un verrou que tenait un autre ne lui serait jamais
rendu, et le moteur OpenMP de PyTorch, s'il a calculé à plusieurs fils dans le parent, y attendrait
pour toujours ceux qui n'existent plus : l'enfant calcule donc à un seul fil, comme le font déjà
les processus d'un `DataLoader`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakSet

import torch

from gpt_architecture.errors import GenerationError


class Turn:
    """Un seul fil à la fois ; les autres attendent. Réentrant, et neuf dans l'enfant d'un fork."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _TURNS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        """Une copie a son propre tour."""
        return Turn, ()

    def renew(self) -> None:
        """Oublie le fil qui le tient, s'il est resté dans le parent."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class Alone:
    """Un seul fil à la fois ; les autres sont refusés : ils écriraient dans la suite du premier."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise GenerationError(
                "un autre fil se sert de ce cache",
                expected="un cache par suite en cours",
                remedy="donnez le sien à chaque fil (new_cache)",
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Alone], tuple[()]]:
        """Une copie n'est à personne."""
        return Alone, ()


def after_fork(callback: Callable[[], None]) -> None:
    """Appelle `callback` dans tout enfant d'un `fork` à venir, avant qu'il ne calcule."""
    if hasattr(os, "register_at_fork"):  # Windows n'a pas de fork
        os.register_at_fork(after_in_child=callback)


_TURNS = WeakSet[Turn]()


def _in_child() -> None:
    for turn in list(_TURNS):
        turn.renew()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


after_fork(_in_child)
