"""Donner les événements hors du fil du moteur.

Prévenir la boucle HTTP la réveille aussitôt : elle prend le verrou de Python, et le moteur
attendrait qu'elle ait écrit sa réponse avant de lancer le pas suivant. Les événements d'un pas sont
donc remis ensemble, par un autre fil, pendant que le suivant calcule sans ce verrou.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

_PATIENCE = 5.0  # secondes ; une remise n'attend rien, sauf son tour

Delivery = Callable[[], None]
"""Remet un événement à qui l'attend ; ne lève rien."""


class Messenger:
    """Remet, dans l'ordre, ce que le moteur a gardé. Son fil naît au premier envoi."""

    def __init__(self) -> None:
        self._kept = list[Delivery]()
        self._queue = SimpleQueue[list[Delivery] | None]()
        self._thread: threading.Thread | None = None

    def keep(self, delivery: Delivery) -> None:
        """Garde une remise pour le prochain envoi."""
        self._kept.append(delivery)

    def send(self) -> None:
        """Fait remettre ce qui est gardé ; n'attend pas."""
        if not self._kept:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="messager", daemon=True)
            self._thread.start()
        self._queue.put(self._kept)
        self._kept = []

    def settle(self) -> bool:
        """Attend que tout ce qui a été envoyé soit remis ; faux si une remise n'en finit pas."""
        if self._thread is None:
            return True
        reached = threading.Event()
        self._queue.put([reached.set])
        return reached.wait(_PATIENCE)

    def close(self) -> None:
        """Remet tout, puis arrête le fil."""
        self.send()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (deliveries := self._queue.get()) is not None:
            for deliver in deliveries:
                deliver()
