"""Ce que regarde chaque tête d'attention d'un modèle, sur un texte court.

Formes : L couches, H têtes, T tokens, D largeur, K taille d'une tête.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.core.anatomy import Site, embedded, through_blocks
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.inside.sentence import network_of, sentence_of


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
    network = network_of(model)
    tokens = sentence_of(network, ids, window=window)
    found = list[Tensor]()

    def keep(site: Site, layer: int, value: Tensor) -> None:
        del layer
        if site == "weights":
            found.append(value)

    with torch.inference_mode(), evaluation_mode(network):
        through_blocks(network, embedded(network, tokens), keep)
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
