"""Cache des clés et valeurs : chaque position n'est projetée qu'une fois.

Formes : B lot, T positions nouvelles, S positions au total, H têtes, K taille d'une tête.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig


class LayerCache:
    """Clés et valeurs d'une couche, dans deux tampons alloués d'avance (B, H, capacité, K)."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys = keys
        self._values = values
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Ajoute k et v (B, H, T, K), renvoie les vues de toutes les positions (B, H, S, K).

        Raises:
            ValueError: le tampon est plein.
        """
        end = self.length + k.size(-2)
        capacity = self._keys.size(-2)
        if end > capacity:
            raise ValueError(
                f"cache plein : {end} positions pour {capacity} ; "
                "videz-le avec reset() ou allouez-le plus grand"
            )
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class KVCache:
    """Cache de toutes les couches d'un modèle.

    Args:
        cfg: configuration du modèle.
        batch_size: nombre de séquences (B).
        capacity: positions au plus ; None : `cfg.context_length`.
        dtype: type des tampons, celui des activations.
        device: périphérique des tampons.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        batch_size: int,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        capacity = cfg.context_length if capacity is None else capacity
        shape = (2, batch_size, cfg.n_heads, capacity, cfg.head_dim)
        self.layers = [
            LayerCache(*torch.empty(shape, dtype=dtype, device=device)) for _ in range(cfg.n_layers)
        ]
        self.capacity = capacity

    @property
    def length(self) -> int:
        """Nombre de positions déjà présentes (S)."""
        return self.layers[0].length

    def reset(self) -> None:
        """Oublie toutes les positions, sans rendre la mémoire."""
        for layer in self.layers:
            layer.length = 0
