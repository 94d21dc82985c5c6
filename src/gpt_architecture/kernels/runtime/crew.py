"""Combien de threads mènent un programme, d'après ce que la machine leur donne.

Quand un autre programme occupe un cœur, le système met l'un de nos threads de côté quelques
millisecondes à la fois, souvent avec un lot en main : tous l'attendent. Un thread de moins va alors
plus vite que tous. Les bits d'un noyau ne dépendent pas du nombre de ses threads : il peut changer
à chaque passage.
"""

from __future__ import annotations

_RUNS, _SPAN = 8, 0.03
"""Passages, et secondes, au moins, d'une mesure : plusieurs tours du système."""

_MISSING = 0.3
"""Cœurs qui manquent, en moyenne, pour que moins de threads soient essayés."""

_GAIN = 0.85
"""Part de la durée d'avant qu'un thread de plus, encore sans cœur, ne doit pas dépasser."""

_PAUSES = 4, 32
"""Mesures entre deux essais, au moins et au plus : deux fois plus après chaque essai sans gain."""


class Crew:
    """Le nombre de threads d'un programme, tous au départ.

    S'ils n'obtiennent pas leurs cœurs, ceux qui en ont un à eux sont essayés, seuls, le temps d'une
    mesure ; ensuite, de temps en temps, un de plus. Une machine au calme n'essaie donc rien.

    Attributes:
        most: threads au plus.
        size: threads du prochain passage.
    """

    def __init__(self, most: int) -> None:
        self.most = self.size = most
        self._runs, self._seconds, self._busy = 0, 0.0, 0.0
        self._before: tuple[int, float] | None = None  # avant l'essai : threads, durée
        self._pause, _ = _PAUSES
        self._wait = 0

    def note(self, seconds: float, busy: float) -> None:
        """Retient un passage à `size` threads.

        Args:
            seconds: sa durée.
            busy: secondes de processeur que le processus y a obtenues, tous threads confondus.
        """
        self._runs += 1
        self._seconds += seconds
        self._busy += busy
        if self._runs < _RUNS or self._seconds < _SPAN:
            return
        mean, cores = self._seconds / self._runs, self._busy / self._seconds
        self._runs, self._seconds, self._busy = 0, 0.0, 0.0
        if self._before is not None:
            self._judge(*self._before, mean, cores)
        elif self._wait > 0:
            self._wait -= 1
        elif self.size > 1 and self.size - cores > _MISSING:
            alone = round(self.size - 2 * (self.size - cores))  # un cœur disputé en donne la moitié
            self._before, self.size = (self.size, mean), max(1, min(self.size - 1, alone))
        elif self.size < self.most:
            self._before, self.size = (self.size, mean), self.size + 1

    def _judge(self, size: int, before: float, mean: float, cores: float) -> None:
        """Garde l'essai, ou revient.

        Moins de threads : s'il a duré moins. Un de plus : si tous ont eu leur cœur, ou s'il a duré
        nettement moins.
        """
        has_gained = mean < before * (1 if self.size < size else _GAIN)
        has_cores = self.size > size and self.size - cores <= _MISSING
        shortest, longest = _PAUSES
        if has_gained or has_cores:
            self._wait = self._pause = shortest
        else:
            self.size = size
            self._wait, self._pause = self._pause, min(2 * self._pause, longest)
        self._before = None
