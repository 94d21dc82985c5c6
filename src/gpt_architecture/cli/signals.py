"""Arrêt en douceur : le premier signal demande, le second impose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpt_architecture.cli.command import silence
from gpt_architecture.cli.launch import speaks

_NOTICE = (
    "Arrêt demandé : le travail en cours se termine, puis un point de reprise est écrit "
    "(de nouveau pour quitter sans attendre).\n"
)
_HANGUP = getattr(signal, "SIGHUP", None)  # absent de Windows


class StopRequest:
    """Retient le signal reçu ; appelable, il répond à « faut-il s'arrêter ? »."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Faut-il s'arrêter ?"""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + numéro du signal : 129 terminal fermé, 130 pour Ctrl-C, 143 pour SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Ctrl-C, SIGTERM et SIGHUP demandent un arrêt ; les deux premiers, répétés, l'imposent.

    Un terminal qui se ferme envoie SIGHUP, souvent deux fois : du noyau, puis du shell. Sous
    `nohup`, il reste sans effet.
    """
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal = number
            if speaks():
                _say(_NOTICE)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif number == signal.SIGTERM:
            raise SystemExit(128 + number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        numbers.append(_HANGUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Écrit sur stderr sans passer par `print`, que le signal a pu interrompre."""
    try:
        os.write(2, ("\n" * os.isatty(2) + text).encode())  # sous la barre
    except OSError:  # terminal fermé ; « 2>&1 | tee » : Ctrl-C a emporté le lecteur aussi
        silence(2)
