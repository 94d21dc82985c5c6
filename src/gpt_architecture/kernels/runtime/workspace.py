"""Tampons réemployés d'un pas à l'autre, en grandes pages quand le système en a.

Rendre et redemander au système un tampon de 100 Mo coûte, à chaque pas, autant de défauts de
page qu'il a de pages de 4 Kio ; en grandes pages (2 Mio), et gardé, il n'en coûte plus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gpt_architecture.core.machine import huge_zeros


def lines_of(size: int) -> int:
    """Place de `size` valeurs de 4 octets, arrondie à une ligne de cache."""
    return -(-size // 16) * 16


class Arena:
    """Une zone de mémoire où tailler des tenseurs, l'un après l'autre.

    Args:
        memory: tenseur fp32 contigu, au contenu libre.
    """

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory.detach().reshape(-1)
        self._used = 0

    def take(self, *shape: int) -> Tensor | None:
        """Un tenseur de la zone, aligné sur 64 octets ; None s'il n'y a plus la place."""
        start, size = self._used, math.prod(shape)
        if start + size > self._memory.numel():
            return None
        self._used = start + lines_of(size)
        return self._memory[start : start + size].view(shape)


class Workspace:
    """Tampons nommés, alloués à la première demande puis réemployés.

    Args:
        arenas: zones où prendre les tampons d'une couche (par numéro) et les autres (None) ;
            un tampon qui n'y tient pas est alloué.
    """

    def __init__(self, arenas: Mapping[int | None, Arena] | None = None) -> None:
        self._arenas = dict(arenas or {})
        self._buffers: dict[tuple[str, int | None], Tensor] = {}

    def get(
        self,
        name: str,
        *shape: int,
        slot: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Le tampon `name` de la couche `slot`, en fp32 ou en bf16, au contenu quelconque.

        Raises:
            ValueError: il a déjà été demandé sous une autre forme.
        """
        buffer = self._buffers.get((name, slot))
        if buffer is None:
            arena = self._arenas.get(slot)
            size = -(-math.prod(shape) * dtype.itemsize // 4)  # en mots de 32 bits
            buffer = None if arena is None else arena.take(size)
            buffer = huge_zeros(size) if buffer is None else buffer
            buffer = buffer.view(dtype)[: math.prod(shape)].view(shape)
            self._buffers[name, slot] = buffer
        if buffer.shape != shape:
            raise ValueError(f"tampon {name} de forme {tuple(buffer.shape)}, demandé en {shape}")
        return buffer
