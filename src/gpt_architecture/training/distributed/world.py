"""Les processus d'un entraînement : ce qu'il leur demande, le cas d'un seul, ce qu'un seul fait.

Rien ici n'importe `torch.distributed` : c'est long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gpt_architecture.errors import ConfigurationError

T = TypeVar("T")


class World(Protocol):
    """Ce que l'entraînement demande aux processus qui le partagent.

    Les opérations collectives sont appelées par tous les rangs, dans le même ordre.
    """

    @property
    def rank(self) -> int:
        """Rang de ce processus, depuis 0."""
        ...

    @property
    def size(self) -> int:
        """Nombre de processus."""
        ...

    @property
    def is_main(self) -> bool:
        """Vrai pour celui qui écrit et qui parle."""
        ...

    @property
    def device(self) -> torch.device | None:
        """Où ce processus calcule, si sa place parmi les autres en décide."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Moyenne d'un tenseur sur tous les rangs."""
        ...

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        """Le tenseur du rang `source`, rendu à tous ; forme et type sont ceux de `value`."""
        ...

    def whole(self, value: Tensor) -> Tensor:
        """Le tenseur entier, même si FSDP l'a réparti entre les rangs."""
        ...

    def any(self, flag: bool) -> bool:
        """Vrai si un rang au moins dit vrai."""
        ...


class SingleProcess:
    """Un seul processus : rien à échanger."""

    rank = 0
    size = 1
    is_main = True
    device = None

    def mean(self, value: Tensor) -> Tensor:
        """`value`, tel quel."""
        return value

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        """`value`, tel quel."""
        del source
        return value

    def whole(self, value: Tensor) -> Tensor:
        """`value`, tel quel."""
        return value

    def any(self, flag: bool) -> bool:
        """`flag`, tel quel."""
        return flag


def check_share(sequences: int, world: World) -> None:
    """Vérifie que chaque processus aura sa part d'une étape.

    Raises:
        ConfigurationError: le lot effectif ne se partage pas également.
    """
    if sequences % world.size:
        raise ConfigurationError(
            f"{sequences} séquence(s) par étape pour {world.size} processus",
            expected=f"un lot effectif (`batch_size` × `accumulate`) multiple de {world.size}",
            remedy="changez l'un ou l'autre",
        )


def on_main(world: World, action: Callable[[], T]) -> T | None:
    """Fait agir le premier processus pendant que les autres l'attendent ; ils échouent avec lui.

    Returns:
        Ce que `action` rend, ou None dans les autres processus.
    """
    result: T | None = None
    failure: BaseException | None = None
    if world.is_main:
        try:
            result = action()
        except (Exception, KeyboardInterrupt) as error:
            failure = error
    if world.any(failure is not None):
        if failure is not None:
            raise failure
        raise SystemExit(1)
    return result
