"""Un passage par les produits de PyTorch, sur les poids d'un modèle compacté.

Il sert aux lots plus grands que ceux d'un pas compilé, et partout où les noyaux manquent.

Formes : B lot, T tokens, D largeur, F largeur du perceptron, N lignes de poids, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.attention import sdpa_attention
from gpt_architecture.core.grouped_codes import dequantize
from gpt_architecture.core.kv_cache import KVCache, LayerCache
from gpt_architecture.core.layers import ACTIVATIONS
from gpt_architecture.kernels.decode.weights import Decoder, PackedMatrix
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

Activate = Callable[[Tensor, Tensor], Tensor]
"""(x (n, F) contigu, qui peut être récrit, biais (F,)) → activation(x + biais)."""


class TorchPass:
    """Le passage d'un modèle.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module.
        vectors: normes et biais, par nom du `state_dict`.
        decode: rend les poids fp32 de codes ; None : par PyTorch.
        activate: l'activation, biais compris ; None : par PyTorch.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, PackedMatrix],
        vectors: Mapping[str, Tensor],
        *,
        decode: Decoder | None = None,
        activate: Activate | None = None,
    ) -> None:
        self._cfg, self._matrices, self._vectors = cfg, matrices, vectors
        activation = ACTIVATIONS[cfg.activation]()
        self._decode: Decoder = dequantize if decode is None else decode
        self._activate: Activate = activate or (lambda x, bias: activation(x + bias))

    @fastest_matmul()
    def __call__(self, x: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        """x (B, T, D), embeddings → logits (B, T, V), ou (B, 1, V) avec `at` (B,).

        Le cache reçoit clés et valeurs ; il n'est pas avancé.
        """
        batch, layers = x.size(0), None if cache is None else cache.layers
        for index in range(self._cfg.n_layers):
            block = f"trf_blocks.{index}."
            layer = None if layers is None else layers[index]
            h = self._norm(f"{block}norm1", x)
            x = x + self._linear(f"{block}att.out_proj", self._attention(block, h, layer))
            h = self._product(f"{block}ff.layers.0", self._norm(f"{block}norm2", x))
            h = self._activate(h.flatten(0, 1), self._vectors[f"{block}ff.layers.0.bias"])
            x = x + self._linear(f"{block}ff.layers.2", h.view(*x.shape[:2], -1))
        if at is not None:
            x = x[torch.arange(batch), at].unsqueeze(1)  # (B, 1, D)
        return self._linear("out_head", self._norm("final_norm", x))

    def _attention(self, block: str, h: Tensor, layer: LayerCache | None) -> Tensor:
        """Contexte (B, T, D) de h (B, T, D)."""
        batch, count, width = h.shape
        q, k, v = (
            self._linear(f"{block}att.W_{name}", h)
            .view(batch, count, self._cfg.n_heads, self._cfg.head_dim)
            .transpose(1, 2)  # (B, H, T, K)
            for name in ("query", "key", "value")
        )
        mask = None
        if layer is not None:
            k, v, mask = layer.append(k, v)  # (B, H, S, K)
        context = sdpa_attention(q, k, v, dropout_p=0.0, mask=mask)
        return context.transpose(1, 2).reshape(batch, count, width)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """x (B, T, D) · matrice transposée + biais, s'il existe."""
        out, bias = self._product(name, x), self._vectors.get(f"{name}.bias")
        return out if bias is None else out.add_(bias)

    def _product(self, name: str, x: Tensor) -> Tensor:
        """x (B, T, D) · matrice transposée."""
        out = self._matrices[name].times(x.flatten(0, 1), self._decode)
        return out.view(*x.shape[:2], -1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain, shift = self._vectors[f"{name}.scale"], self._vectors[f"{name}.shift"]
        return F.layer_norm(x, gain.shape, gain, shift, self._cfg.norm_eps)
