"""Les phénomènes déclarés : un nom, un titre, et une fonction qui en écrit les candidates.

Une candidate est une phrase où « [juste|fausse] » sépare ce qui distingue les deux de ce qu'elles
ont en commun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Sentences = Iterator[str]


@dataclass(frozen=True)
class Phenomenon:
    """Un phénomène.

    Attributes:
        name: son identifiant.
        family: sa famille : « nom », « verbe », « temps », « préposition » ou « pronom ».
        title: ce qu'il éprouve : la docstring de sa fonction.
        candidates: écrit toutes ses candidates.
    """

    name: str
    family: str
    title: str
    candidates: Callable[[], Sentences]


PHENOMENA: list[Phenomenon] = []


def phenomenon(
    name: str, family: str
) -> Callable[[Callable[[], Sentences]], Callable[[], Sentences]]:
    """Déclare la fonction qui suit."""

    def declare(candidates: Callable[[], Sentences]) -> Callable[[], Sentences]:
        title = (candidates.__doc__ or "").removesuffix(".")
        PHENOMENA.append(Phenomenon(name, family, title, candidates))
        return candidates

    return declare
