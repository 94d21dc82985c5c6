"""Le réseau dont on regarde l'intérieur, et la phrase qu'on lui fait lire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError
from gpt_architecture.french import counted

MAX_TOKENS = 256
"""Tokens d'une phrase, au plus : ce qui s'y regarde en contient parfois le carré."""

_WORD_TOKENS = 16  # au-delà, ce n'est plus un mot


def network_of(model: CausalLM) -> GPTModel:
    """Le réseau, s'il laisse voir son intérieur.

    Raises:
        ConfigurationError: un modèle quantifié ou compacté, qui n'a pas ces modules.
    """
    if isinstance(model, GPTModel):
        return model
    raise ConfigurationError(
        "ce modèle ne donne pas ses poids d'attention, ni ce qui se passe entre ses couches",
        expected="un modèle en virgule flottante, non quantifié",
        remedy="donnez le gpt-model.pt d'origine",
    )


def sentence_of(
    model: GPTModel,
    ids: Sequence[int] | Tensor,
    *,
    window: int | None = None,
    most: int = MAX_TOKENS,
) -> Tensor:
    """Les identifiants d'une phrase (1, T) int64, sur le périphérique du modèle.

    Args:
        model: le réseau.
        ids: (T) ou (1, T).
        window: contexte d'entraînement ; None : tout le contexte du modèle.
        most: tokens, au plus.

    Raises:
        ConfigurationError: aucun token, trop de tokens, ou identifiant hors du vocabulaire.
    """
    ids = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
    limit = min(most, window or most, model.cfg.context_length)
    if not 1 <= len(ids) <= limit:
        raise ConfigurationError(
            f"phrase de {counted(len(ids), 'token')}",
            expected=f"de 1 à {limit} tokens",
            remedy="donnez une phrase plus courte" if len(ids) else "donnez quelques mots",
        )
    return tokens_of(model, ids).unsqueeze(0)


def tokens_of(model: GPTModel, ids: Sequence[int] | Tensor) -> Tensor:
    """Les identifiants d'un texte non vide (T) int64, sur le périphérique du modèle.

    Raises:
        ConfigurationError: un identifiant est hors du vocabulaire.
    """
    tokens = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.cfg.vocab_size:
        raise ConfigurationError(
            f"identifiants de {low} à {high} dans la phrase",
            expected=f"des identifiants de 0 à {model.cfg.vocab_size - 1}",
            remedy="codez la phrase avec le tokenizer du modèle",
        )
    return tokens.to(model.device)


def single_token(ids: Sequence[int], text: str, encode: Callable[[str], Sequence[int]]) -> int:
    """Le seul token d'un texte.

    Args:
        ids: les tokens de ce texte.
        text: ce texte.
        encode: code un texte ; l'erreur dit si une espace devant celui-ci en fait un seul token.

    Raises:
        ConfigurationError: il en fait plusieurs, ou aucun.
    """
    if len(ids) == 1:
        return ids[0]
    remedy = "donnez un token de ce vocabulaire, ou son identifiant"
    if 1 < len(ids) <= _WORD_TOKENS:
        with suppress(GPTArchitectureError):  # un vocabulaire de caractères peut être sans espace
            if len(encode(f" {text}")) == 1:
                remedy = f"ajoutez cette espace : « ␣{text} » est un seul token"
    raise ConfigurationError(
        f"« {text} » fait {counted(len(ids), 'token')}",
        expected="un texte d'un seul token, son espace d'avant compris",
        remedy=remedy,
    )
