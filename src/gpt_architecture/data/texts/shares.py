"""La part d'une tâche parmi plusieurs machines : une plage pure de (source, bloc).

Les octets des sources, mis bout à bout, sont coupés en plages égales ; un bloc est à la plage où il
commence. Personne n'a donc besoin de savoir ce que font les autres, et l'ordre des tâches est celui
des sources. Une tâche ne lit, de trop, que le début du premier fichier de sa plage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gpt_architecture.config import check_int
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.errors import ConfigurationError, shown

MAX_TASKS = 99_999
_WRITTEN = re.compile(r"(?:(\d{1,9})|auto)(?:/(\d{1,9}))?")
_SLURM = "SLURM_ARRAY_TASK_"
_KUBERNETES = "JOB_COMPLETION_INDEX"


class Block(Protocol):
    """Ce qui se compte en octets lus d'une source."""

    @property
    def consumed(self) -> int:
        """Octets de la source lus."""
        ...


Each = TypeVar("Each", bound=Block)


@dataclass(frozen=True, order=True)
class Share:
    """La tâche `number` sur `count`.

    Attributes:
        number: son numéro, de 1 à `count`.
        count: nombre de tâches.

    Raises:
        ConfigurationError: un nombre est hors bornes.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        check_int("le nombre de tâches", self.count, minimum=1, maximum=MAX_TASKS)
        check_int("le numéro de la tâche", self.number, minimum=1, maximum=self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] | None = None) -> Share:
        """Lit « 3/7 », ou « auto » et « auto/7 », qui demandent leur numéro à l'environnement.

        Slurm numérote de 1 (`--array=1-7`) et dit leur nombre ; un Job Kubernetes indexé numérote
        de 0 et ne le dit pas. Rien n'est lu de l'environnement sans « auto ».

        Args:
            text: la demande.
            environment: les variables ; None : celles de ce processus.

        Raises:
            ConfigurationError: forme inconnue, numéro hors bornes, ou variables absentes.
        """
        match = _WRITTEN.fullmatch(text.strip())
        if match is None or (match[1] is not None and match[2] is None):
            raise ConfigurationError.wrong(
                "`task`", text, expected="3/7, ou auto, ou auto/7, de 1/7 à 7/7"
            )
        if match[1] is not None:
            return cls._of(text, int(match[1]), int(match[2]))
        values = os.environ if environment is None else environment
        count = None if match[2] is None else int(match[2])
        if f"{_SLURM}ID" in values:
            return cls._of(text, _variable(values, f"{_SLURM}ID"), count or _slurm_count(values))
        if _KUBERNETES in values:
            if count is None:
                raise ConfigurationError(
                    "`task` vaut auto, et un Job Kubernetes ne dit pas combien il a de tâches",
                    expected="auto/N, où N est son champ completions",
                    remedy="donnez ce nombre",
                )
            return cls._of(text, _variable(values, _KUBERNETES) + 1, count)
        raise ConfigurationError(
            "`task` vaut auto, mais rien ne dit quelle est cette tâche",
            expected=f"{_SLURM}ID (Slurm) ou {_KUBERNETES} (Kubernetes)",
            remedy="lancez-la dans un tableau Slurm ou un Job indexé, ou donnez 3/7",
        )

    @classmethod
    def _of(cls, text: str, number: int, count: int) -> Share:
        """Cette tâche ; un refus dit ce qui était demandé."""
        try:
            return cls(number, count)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"`task` vaut {shown(text)} : {error.found}",
                expected=error.expected,
                remedy="corrigez `task`",
            ) from None

    def bounds(self, total: int) -> tuple[int, int]:
        """[Début, fin[ de sa plage sur `total` octets ; la dernière n'a pas de fin."""
        high = total * self.number // self.count if self.number < self.count else total + 1
        return total * (self.number - 1) // self.count, high


WHOLE = Share()
"""Une seule tâche : tout."""


def _variable(values: Mapping[str, str], name: str) -> int:
    if not (text := values.get(name, "")).isdecimal():
        raise ConfigurationError.wrong(f"la variable {name}", text, expected="un entier")
    return int(text)


def _slurm_count(values: Mapping[str, str]) -> int:
    """Le nombre de tâches d'un tableau complet, numéroté de 1 en 1."""
    first, last, count = (_variable(values, f"{_SLURM}{name}") for name in ("MIN", "MAX", "COUNT"))
    if (first, last) != (1, count):
        raise ConfigurationError(
            f"un tableau Slurm de {count} tâches, numérotées de {first} à {last}",
            expected="un tableau complet, de 1 à N",
            remedy="pour n'en relancer que quelques-unes, donnez auto/N",
        )
    return count


def owned(
    sources: Sequence[Source],
    blocks_of: Callable[[Source], Iterator[Each]],
    share: Share = WHOLE,
    *,
    begin: int = 0,
) -> Iterator[tuple[int, int, Each]]:
    """(Rang de la source, rang du bloc, bloc) de chaque bloc d'une tâche, dans l'ordre.

    Args:
        sources: toutes les sources.
        blocks_of: rend les blocs d'une source, toujours les mêmes.
        share: la tâche.
        begin: rang de la première source à lire.

    Raises:
        DataError: une source a changé depuis le début.
    """
    low, high = share.bounds(sum(source.size for source in sources))
    start = 0
    for rank, source in enumerate(sources):
        first, start = start, start + source.size
        last = first + max(source.size - 1, 0)  # un bloc sans octet reste dans sa source
        if rank < begin or last < low or first >= high:
            continue
        read = first
        for number, block in enumerate(blocks_of(source)):
            place = min(read, last)
            if place >= high:
                break
            if place >= low:
                yield rank, number, block
            read += block.consumed
        source.check_unchanged()
