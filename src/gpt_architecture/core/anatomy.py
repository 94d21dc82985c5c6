"""La passe avant écrite pièce par pièce : chaque valeur se regarde, et se remplace.

Rien n'est posé sur le modèle : d'autres threads peuvent s'en servir en même temps. Les modules
sont appelés tels quels, adaptateurs compris.

Formes : B lot, T tokens, L couches, H têtes, K taille d'une tête, D largeur, F largeur cachée.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from gpt_architecture.core.attention import attention_weights
from gpt_architecture.core.layers import TransformerBlock
from gpt_architecture.core.model import GPTModel

Site = Literal["residual", "weights", "heads", "attention", "neurons", "feed_forward"]
"""Ce qui se regarde d'une couche, dans l'ordre du calcul :

- `residual` : le flux résiduel à l'entrée du bloc (B, T, D) ; à la couche L, il en est la sortie ;
- `weights` : les poids d'attention (B, H, T, T) ;
- `heads` : ce que chaque tête rapporte, avant la projection de sortie (B, T, H, K) ;
- `attention` : ce que l'attention ajoute au flux (B, T, D) ;
- `neurons` : les neurones du perceptron, après leur activation (B, T, F) ;
- `feed_forward` : ce que le perceptron ajoute au flux (B, T, D).
"""


class Visit(Protocol):
    """Reçoit chaque valeur d'une passe avant ; ce qu'elle rend la remplace."""

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor | None:
        """Site, couche (depuis 0) et valeur → valeur à sa place ; None : la même."""
        ...


def embedded(model: GPTModel, tokens: Tensor) -> Tensor:
    """Le flux résiduel à l'entrée du premier bloc : tokens (B, T) int64 → (B, T, D)."""
    positions = torch.arange(tokens.size(-1), device=tokens.device)
    x: Tensor = model.tok_emb(tokens) + model.pos_emb(positions)  # (B, T, D)
    return x


def through_blocks(
    model: GPTModel, x: Tensor, visit: Visit, *, first: int = 0, last: int | None = None
) -> Tensor:
    """Le flux résiduel après les blocs de `first` à `last`, exclu ; `visit` voit tout.

    Le modèle est en évaluation : aucun dropout n'est appliqué ici.

    Args:
        model: le modèle.
        x: (B, T, D), le flux à l'entrée du bloc `first`.
        visit: voir `Visit`.
        first: première couche, depuis 0.
        last: fin exclue ; None : toutes les couches.
    """

    def seen(site: Site, value: Tensor) -> Tensor:
        found = visit(site, layer, value)
        return value if found is None else found

    layer, end = first, len(model.trf_blocks) if last is None else last
    for layer in range(first, end):
        block = model.trf_blocks[layer]
        assert isinstance(block, TransformerBlock)  # noqa: S101 — la liste perd le type
        x = seen("residual", x)
        normed = block.norm1(x)
        q, k, v = (
            projection(normed).unflatten(-1, (block.att.num_heads, -1)).transpose(1, 2)
            for projection in (block.att.W_query, block.att.W_key, block.att.W_value)
        )  # (B, H, T, K)
        weights = seen("weights", attention_weights(q, k))
        heads = seen("heads", (weights @ v).transpose(1, 2))  # (B, T, H, K)
        x = x + seen("attention", block.att.out_proj(heads.flatten(2)))
        *before, output = block.ff.layers
        hidden = block.norm2(x)
        for module in before:
            hidden = module(hidden)  # (B, T, F)
        x = x + seen("feed_forward", output(seen("neurons", hidden)))
    layer = end
    return seen("residual", x)


def unembedded(model: GPTModel, x: Tensor) -> Tensor:
    """Les logits que le modèle lirait d'un flux résiduel (…, D) : (…, V)."""
    logits: Tensor = model.out_head(model.final_norm(x))
    return logits
