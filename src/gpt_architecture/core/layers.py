"""Les briques du Transformer : normalisation, activation, perceptron, bloc.

Formes : B lot, T tokens, D largeur, F largeur cachée (4·D dans GPT-2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.config import Activation, GPTConfig
from gpt_architecture.core.attention import MultiHeadAttention
from gpt_architecture.core.kv_cache import LayerCache


class LayerNorm(nn.Module):
    """Normalisation de la dernière dimension (Ba et al., 2016), variance biaisée."""

    def __init__(self, emb_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D) : (x − moyenne) / √(variance + eps) · scale + shift."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELU(nn.Module):
    """GELU par approximation tanh (Hendrycks et Gimpel, 2016), celle de GPT-2.

    0,5 · x · (1 + tanh(√(2/π) · (x + 0,044715 · x³)))
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (…) → même forme."""
        return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "gelu_tanh": GELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}
"""Le module de chaque activation."""


class FeedForward(nn.Module):
    """Perceptron appliqué à chaque position : D → F → D ; `cfg` : voir `GPTModel`."""

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = GPTConfig.coerce(cfg)
        self.layers = nn.Sequential(
            nn.Linear(cfg.emb_dim, cfg.inner_width),
            ACTIVATIONS[cfg.activation](),
            nn.Linear(cfg.inner_width, cfg.emb_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        out: Tensor = self.layers(x)
        return out


class TransformerBlock(nn.Module):
    """Bloc pré-normé : x + attention(norm1(x)), puis x + perceptron(norm2(x)) ; voir `GPTModel`."""

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = GPTConfig.coerce(cfg)
        self.att = MultiHeadAttention(
            d_in=cfg.emb_dim,
            d_out=cfg.emb_dim,
            context_length=cfg.context_length,
            dropout=cfg.drop_rate,
            num_heads=cfg.n_heads,
            qkv_bias=cfg.qkv_bias,
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg.emb_dim, cfg.norm_eps)
        self.norm2 = LayerNorm(cfg.emb_dim, cfg.norm_eps)
        self.drop_shortcut = nn.Dropout(cfg.drop_rate)
        self.drop_feed_forward = nn.Dropout(cfg.drop_rate)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        x = x + self.drop_shortcut(self.att(self.norm1(x), cache))
        x = x + self.drop_feed_forward(self.ff(self.norm2(x)))
        return x
