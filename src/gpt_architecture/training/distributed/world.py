"""Les processus d'un entraînement : un seul, ou ce qu'il demande à plusieurs.

Rien ici n'importe `torch.distributed` : c'est long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted

T = TypeVar("T")


class World:
    """Les processus d'un entraînement : ici, un seul ; `DistributedWorld` en réunit plusieurs.

    Les opérations collectives sont appelées par tous les rangs, dans le même ordre.

    Attributes:
        rank: rang de ce processus, depuis 0.
        size: nombre de processus.
        is_main: vrai pour celui qui écrit et qui parle.
        device: où ce processus calcule, si sa place parmi les autres en décide.
    """

    rank = 0
    size = 1
    is_main = True
    device: torch.device | None = None

    def sum(self, value: Tensor) -> Tensor:
        """Somme d'un tenseur sur tous les rangs, la même au bit près sur chacun."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Moyenne d'un tenseur flottant sur tous les rangs, la même au bit près sur chacun."""
        return value

    def whole(self, value: Tensor) -> Tensor:
        """Le tenseur entier, même si FSDP l'a réparti entre les rangs."""
        return value

    def any(self, flag: bool) -> bool:
        """Vrai si un rang au moins dit vrai."""
        return flag


def check_share(sequences: int, world: World) -> None:
    """Vérifie que chaque processus aura sa part d'une étape.

    Raises:
        ConfigurationError: le lot effectif ne se partage pas également.
    """
    if sequences % world.size:
        raise ConfigurationError(
            f"{counted(sequences, 'séquence')} par étape pour {world.size} processus",
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
