"""Les textes qui arrêtent la génération, même quand ils commencent au milieu d'un token."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Cherche des textes d'arrêt dans un flux, et retient ce qui pourrait en être le début.

    Args:
        stops: textes non vides ; le premier trouvé dans le flux l'emporte, le plus long à début
            égal.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Ajoute du texte ; rend ce qui est certain de ne pas appartenir à un arrêt.

        Une fois un arrêt trouvé, `matched` le dit et plus rien n'est rendu.
        """
        if self.matched is not None:
            return ""
        self._held += text
        found = [(start, stop) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            start, self.matched = min(found, key=lambda pair: pair[0])
            certain, self._held = self._held[:start], ""
            return certain
        kept = self._longest_beginning()
        cut = len(self._held) - kept
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """Rend ce qui était retenu : plus rien ne viendra l'achever."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self) -> int:
        """Caractères de la fin qui pourraient commencer un arrêt."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
