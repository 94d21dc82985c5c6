"""Arrêt en douceur : le premier signal demande, le second impose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gpt_architecture.scripts._launch import speaks

_NOTICE = (
    "Arrêt demandé : le travail en cours se termine, puis un point de reprise est écrit "
    "(de nouveau pour quitter sans attendre).\n"
)


class StopRequest:
    """Retient le signal reçu ; appelable, il répond à « faut-il s'arrêter ? »."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + numéro du signal : 130 pour Ctrl-C, 143 pour SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Ctrl-C et SIGTERM demandent un arrêt ; répétés, ils interrompent tout de suite."""
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal is not None:
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)
            raise KeyboardInterrupt
        request.signal = number
        if speaks():
            with suppress(OSError):  # « 2>&1 | tee » : Ctrl-C a pu emporter le lecteur aussi
                os.write(2, ("\n" * os.isatty(2) + _NOTICE).encode())  # sous la barre

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
