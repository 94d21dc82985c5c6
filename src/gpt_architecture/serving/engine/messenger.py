"""Donner les événements hors du fil du moteur.

Prévenir la boucle HTTP la réveille aussitôt : elle prend le verrou de Python, et le moteur
attendrait qu'elle ait écrit sa réponse avant de lancer le pas suivant. Les événements d'un pas sont
donc remis ensemble, par un autre fil, pendant que le suivant calcule sans ce verrou. Quand les pas
se suivent de plus près qu'un œil ne voit, ceux de deux ou trois partent dans le même envoi : chacun
prend aux calculs une part de leurs cœurs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

GAP = 0.008
"""Secondes au moins entre deux envois dont rien ne presse."""

_PATIENCE = 5.0  # secondes ; une remise n'attend rien, sauf son tour

Delivery = Callable[[], None]
"""Remet un événement à qui l'attend ; ne lève rien."""


class Keep(Protocol):
    """Garde une remise pour le prochain envoi, qui attend un peu si rien de gardé ne presse."""

    def __call__(self, delivery: Delivery, *, urgent: bool = True) -> None:
        """Voir `Messenger.keep`."""
        ...


class Messenger:
    """Remet, dans l'ordre, ce que le moteur a gardé. Son fil naît au premier envoi."""

    def __init__(self) -> None:
        self._kept, self._urgent, self._sent = list[Delivery](), False, 0.0
        self._queue = SimpleQueue[list[Delivery] | None]()
        self._thread: threading.Thread | None = None

    def keep(self, delivery: Delivery, *, urgent: bool = True) -> None:
        """Garde une remise ; `urgent` : le prochain envoi la fait partir aussitôt."""
        self._kept.append(delivery)
        self._urgent |= urgent

    def send(self, *, urgent: bool = False) -> None:
        """Fait remettre ce qui est gardé, s'il est temps ou si c'est urgent ; n'attend pas."""
        now = time.monotonic()
        if not self._kept or not (urgent or self._urgent or now - self._sent >= GAP):
            return
        self._urgent, self._sent = False, now
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
        self.send(urgent=True)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (deliveries := self._queue.get()) is not None:
            for deliver in deliveries:
                deliver()
