"""Ce que regarde chaque tête d'attention d'un modèle, sur un texte court.

Formes : L couches, H têtes, T tokens, D largeur, K taille d'une tête.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.core.attention import MultiHeadAttention, attention_weights
from gpt_architecture.core.layers import TransformerBlock
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted

MAX_TOKENS = 256
"""Tokens d'un texte, au plus : la carte en contient le carré, par tête et par couche."""


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """Les poids d'attention d'une phrase.

    Attributes:
        pieces: texte de chaque token (T).
        weights: (L, H, T, T) ; la ligne i dit où regarde le token i, de somme 1.
    """

    pieces: tuple[str, ...]
    weights: Tensor


def attention_maps(
    model: CausalLM,
    tokenizer: Tokenizer,
    sentence: str | Sequence[int],
    *,
    window: int | None = None,
) -> AttentionMaps:
    """Les poids d'attention d'une phrase, texte ou identifiants ; `window` : voir `attention_of`.

    Raises:
        ConfigurationError: phrase vide ou trop longue, ou modèle quantifié.
    """
    ids = tokenizer.encode(sentence) if isinstance(sentence, str) else sentence
    return AttentionMaps(
        pieces=tuple(tokenizer.decode([token]) for token in ids),
        weights=attention_of(model, ids, window=window),
    )


def attention_of(
    model: CausalLM, ids: Sequence[int] | Tensor, *, window: int | None = None
) -> Tensor:
    """Poids d'attention de toutes les têtes (L, H, T, T), float32 sur le processeur.

    Le modèle n'est ni modifié ni instrumenté : d'autres threads peuvent s'en servir en même temps.

    Args:
        model: un `GPTModel` ; un modèle quantifié ou compacté ne donne pas ses projections.
        ids: identifiants (T) ou (1, T).
        window: contexte d'entraînement : au-delà, les positions n'ont rien appris ; None : tout le
            contexte du modèle.

    Raises:
        ConfigurationError: autre sorte de modèle, aucun token, trop de tokens ou identifiant
            hors du vocabulaire.
    """
    if not isinstance(model, GPTModel):
        raise ConfigurationError(
            "ce modèle ne donne pas ses poids d'attention",
            expected="un modèle en virgule flottante, non quantifié",
            remedy="donnez le gpt-model.pt d'origine",
        )
    tokens = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
    limit = model.cfg.context_length if window is None else min(window, model.cfg.context_length)
    _check(tokens, model.cfg.vocab_size, min(MAX_TOKENS, limit))
    tokens = tokens.to(model.device)
    found = list[Tensor]()
    with torch.inference_mode(), evaluation_mode(model):
        positions = torch.arange(len(tokens), device=model.device)
        x = (model.tok_emb(tokens) + model.pos_emb(positions)).unsqueeze(0)  # (1, T, D)
        for block in model.trf_blocks:
            assert isinstance(block, TransformerBlock)  # noqa: S101 — la liste perd le type
            found.append(_weights(block.att, block.norm1(x)))
            x = block(x)
        return torch.cat(found).float().cpu()  # (L, H, T, T)


def attention_profile(weights: Tensor) -> tuple[float, float, float]:
    """Part moyenne des poids (…, T, T) donnée au premier token, au précédent, à soi-même.

    Comptée à partir du troisième token : avant, les trois se confondent. Zéro pour un texte de
    moins de trois tokens.
    """
    rows = weights[..., 2:, :]
    if not rows.numel():
        return 0.0, 0.0, 0.0
    diagonals = (
        rows[..., 0],
        rows.diagonal(offset=1, dim1=-2, dim2=-1),
        rows.diagonal(offset=2, dim1=-2, dim2=-1),
    )
    first, previous, itself = (float(each.mean()) for each in diagonals)
    return first, previous, itself


def _weights(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Poids (1, H, T, T) d'une couche, depuis son entrée normée (1, T, D)."""
    q, k = (
        projection(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (1, H, T, K)
        for projection in (attention.W_query, attention.W_key)
    )
    return attention_weights(q, k)


def _check(tokens: Tensor, vocab_size: int, limit: int) -> None:
    if not 1 <= len(tokens) <= limit:
        raise ConfigurationError(
            f"phrase de {counted(len(tokens), 'token')}",
            expected=f"de 1 à {limit} tokens",
            remedy="donnez une phrase plus courte" if len(tokens) else "donnez quelques mots",
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size:
        raise ConfigurationError(
            f"identifiants de {int(tokens.min())} à {int(tokens.max())} dans la phrase",
            expected=f"des identifiants de 0 à {vocab_size - 1}",
            remedy="codez la phrase avec le tokenizer du modèle",
        )
