"""Le chien de garde d'un processus : sans nouvelles à temps, il l'arrête."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from gpt_architecture.config import check_float


class Watchdog:
    """Termine le processus si `beat` n'est pas appelé pendant `timeout_s`.

    Une opération collective qui attend a déjà son propre délai ; un processus bloqué ailleurs
    (un disque réseau muet, un interblocage) n'en a pas, et personne sur un autre hôte ne peut
    le terminer. Le fil de garde écrit une ligne et la pile de chaque fil, puis sort.

    Args:
        timeout_s: secondes permises entre deux battements.
        name: le processus, tel qu'il se présente (« le processus 1 sur 2 »).
        on_expiry: ce qui termine le processus ; par défaut, une sortie immédiate en échec.

    Raises:
        ConfigurationError: `timeout_s` n'est pas un nombre strictement positif.
    """

    def __init__(
        self, timeout_s: float, *, name: str, on_expiry: Callable[[str], None] | None = None
    ) -> None:
        check_float("timeout_s", timeout_s, above=0.0)
        self._timeout_s = timeout_s
        self._name = name
        self._on_expiry = _leave if on_expiry is None else on_expiry
        self._deadline = time.monotonic() + timeout_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chien de garde", daemon=True)

    def beat(self) -> None:
        """Le travail avance : le délai repart."""
        self._deadline = time.monotonic() + self._timeout_s

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        seconds = f"{self._timeout_s:g}".replace(".", ",")
        self._on_expiry(f"erreur : {self._name} n'avance plus depuis {seconds} s ; il s'arrête.\n")


def _leave(message: str) -> None:
    # Ni logging ni print : le fil bloqué tient peut-être leur verrou.
    os.write(2, message.encode())
    faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(1)
