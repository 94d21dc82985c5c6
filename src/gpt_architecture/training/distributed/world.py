"""Les processus d'un entraînement ; ici, le cas d'un seul."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


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

    def barrier(self) -> None:
        """Attend tous les rangs."""
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

    def barrier(self) -> None:
        """Rien à attendre."""
