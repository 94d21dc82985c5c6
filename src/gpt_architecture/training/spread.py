"""Quels points de reprise garder pour qu'un oubli coûte peu, et ce qu'il coûte alors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Un étalement des points de reprise : serrés vers la fin, rares vers le début.

    La première époque lit tout une fois : un oubli ne repart jamais d'un point qui la suit, et seul
    le dernier de ceux-là reste, pour reprendre. Les autres s'espacent à peu près comme les termes
    d'une suite géométrique, comptés depuis la fin de l'entraînement.

    Attributes:
        count: points gardés, au moins 2.
        total: étapes de l'entraînement.
        first_epoch: étapes de la première époque.
    """

    count: int
    total: int
    first_epoch: int

    def keep(self, steps: Sequence[int]) -> list[int]:
        """Au plus `count` de ces étapes ; la dernière reste.

        L'étape ôtée est celle dont l'absence coûte le moins : repartir de la précédente (le début,
        avant la première) plutôt que d'elle, en part de ce qui la sépare de la fin.

        Args:
            steps: étapes enregistrées, croissantes.
        """
        kept = list(steps)
        late = [each for each in kept[:-1] if each > self.first_epoch]
        while len(kept) > self.count:
            if late:
                kept.remove(late.pop())
                continue

            def cost(index: int) -> float:
                before = kept[index - 1] if index else 0
                after = min(kept[index + 1], self.first_epoch)
                return (after - before) / max(1, self.total - before)

            del kept[min(range(len(kept) - 1), key=cost)]
        return kept

    def saved(self, every: int) -> list[int]:
        """Ce qui reste, à la fin, d'un point de reprise toutes les `every` étapes."""
        kept = list[int]()
        for step in range(every, self.total + 1, every):
            kept = self.keep([*kept, step])
        return kept


def expected_redo(kept: Iterable[int], *, total: int, first_epoch: int, windows: int = 1) -> float:
    """La part d'un entraînement qu'un oubli refait, en moyenne.

    Chaque fenêtre est lue une première fois à une étape quelconque de la première époque ; l'oubli
    repart du dernier point gardé qui ne suit pas la plus précoce.

    Args:
        kept: points de reprise gardés.
        total: étapes de l'entraînement.
        first_epoch: étapes de la première époque.
        windows: fenêtres où se trouve ce qui est à oublier, chacune placée sans égard aux autres.
    """
    anchors = [0, *sorted(kept)]
    mean = 0.0
    for step in range(first_epoch):
        later, latest = ((first_epoch - s) / first_epoch for s in (step, step + 1))
        first_here = later**windows - latest**windows
        mean += first_here * (total - anchors[bisect_right(anchors, step) - 1])
    return mean / total
