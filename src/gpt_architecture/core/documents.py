"""Plusieurs documents dans une rangée, dont chacun ne voit que lui-même.

Chaque token sait où commence son document ; ses positions en partent, et son attention s'y tient.
Le calcul est exactement celui de chaque document seul : `GPTModel` n'en sait rien, qui reçoit à la
place d'un cache de quoi placer et masquer.

Formes : B rangées, T tokens, H têtes, K taille d'une tête.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class DocumentSpans:
    """Un `KVCache` qui ne garde rien : il donne les positions et le masque d'un seul passage.

    Il sert aussi de cache à chaque couche.

    Args:
        starts: (B, T) int64, la place dans la rangée du premier token du document de chaque token.
        n_layers: nombre de blocs du modèle.
    """

    length = 0
    alone: AbstractContextManager[None] = nullcontext()

    def __init__(self, starts: Tensor, n_layers: int) -> None:
        places = torch.arange(starts.size(1), device=starts.device)
        causal = places <= places.unsqueeze(1)  # (T, T)
        self._positions = places - starts  # (B, T)
        self._mask = (causal & (places >= starts.unsqueeze(-1))).unsqueeze(1)  # (B, 1, T, T)
        self.layers = (self,) * n_layers

    def positions(self, count: int) -> Tensor:
        """Place de chacun des `count` tokens dans son document : (B, T)."""
        return self._positions[:, :count]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """k et v (B, H, T, K) tels quels, et le masque (B, 1, T, T), vrai là où un token en voit un
        autre : de son document, et pas après lui.
        """
        return k, v, self._mask

    def advance_(self, count: int) -> None:
        """Rien à compter."""
