"""Attention multi-têtes causale (Vaswani et al., 2017), sur deux moteurs équivalents.

Formes : B lot, T requêtes, S clés (S ≥ T), D largeur, H têtes, K taille d'une tête.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.core.kv_cache import LayerCache


class AttentionBackend(Protocol):
    """Calcul de l'attention causale, interchangeable.

    Sans masque, les T requêtes sont les T *dernières* des S positions : la requête i voit les
    clés 0 … S − T + i. Sans cache, S = T et l'on retrouve le triangle habituel. Le masque
    (B, 1, T, S), vrai là où une clé est vue, sert aux lots de longueurs différentes.
    """

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float, mask: Tensor | None = None
    ) -> Tensor:
        """q (B, H, T, K), k et v (B, H, S, K) → contexte (B, H, T, K)."""
        ...


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Masque booléen (T, S), vrai là où la requête peut voir la clé (aligné en bas à droite)."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Part que chaque requête donne à chaque clé : (B, H, T, S), de somme 1 sur S."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, H, T, S)
    visible = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
    return torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float, mask: Tensor | None = None
) -> Tensor:
    """Attention écrite pas à pas : l'oracle lisible, comparé par les tests à `sdpa_attention`."""
    weights = F.dropout(attention_weights(q, k, mask), p=dropout_p, training=dropout_p > 0.0)
    return weights @ v  # (B, H, T, K)


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float, mask: Tensor | None = None
) -> Tensor:
    """Attention par `scaled_dot_product_attention` de PyTorch : le chemin rapide.

    Le drapeau `is_causal` de PyTorch aligne le triangle en haut à gauche : il n'est exact
    que pour T = S. Une requête seule voit tout ; les autres cas passent par un masque.
    """
    queries, keys = q.size(-2), k.size(-2)
    if mask is None and queries == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout_p)
    if mask is None and queries > 1:
        mask = causal_mask(queries, keys, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)


class MultiHeadAttention(nn.Module):
    """Attention causale à H têtes, avec projections requête, clé, valeur et sortie.

    Args:
        d_in: largeur de l'entrée (D).
        d_out: largeur de la sortie, multiple de `num_heads`.
        context_length: nombre maximal de positions vues ensemble.
        dropout: probabilité de dropout sur les poids d'attention.
        num_heads: nombre de têtes (H).
        qkv_bias: biais sur les trois premières projections.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        if d_out % num_heads:
            raise ValueError(f"d_out ({d_out}) doit être un multiple de num_heads ({num_heads})")
        self.d_out = d_out
        self.context_length = context_length
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.backend: AttentionBackend = sdpa_attention

        # L'ordre de création fixe les tirages aléatoires, donc les poids d'une graine.
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_load_state_dict_pre_hook(_drop_stored_mask)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, D) → (B, T, d_out) ; `cache` reçoit les clés et valeurs nouvelles.

        Raises:
            ValueError: plus de positions que `context_length`.
        """
        batch, queries, _ = x.shape
        q = self._split_heads(self.W_query(x))
        k = self._split_heads(self.W_key(x))
        v = self._split_heads(self.W_value(x))
        mask = None
        if cache is not None:
            k, v, mask = cache.append(k, v)  # (B, H, S, K)
        if k.size(-2) > self.context_length:
            raise ValueError(
                f"{k.size(-2)} positions demandées, le modèle en accepte {self.context_length} ; "
                "raccourcissez la séquence"
            )
        dropout_p = self.dropout.p if self.training else 0.0
        context = self.backend(q, k, v, dropout_p=dropout_p, mask=mask)
        context = context.transpose(1, 2).reshape(batch, queries, self.d_out)  # (B, T, H·K)
        out: Tensor = self.out_proj(context)
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        batch, positions, _ = x.shape
        x = x.view(batch, positions, self.num_heads, self.head_dim)  # (B, T, H, K)
        return x.transpose(1, 2)  # (B, H, T, K)


def use_attention_(model: nn.Module, backend: AttentionBackend) -> None:
    """Remplace, sur place, le moteur de toutes les attentions de `model`."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.backend = backend


def _drop_stored_mask(
    _module: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: object
) -> None:
    """Les fichiers du livre de Raschka portent un masque constant : on l'ignore."""
    state_dict.pop(prefix + "mask", None)
