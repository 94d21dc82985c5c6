"""Ce que chaque couche croit : le flux résiduel lu par la tête de sortie, couche après couche.

La lentille (nostalgebraist, 2020) n'apprend rien : elle applique au flux de chaque couche la norme
finale et la tête de sortie du modèle. La dernière ligne est donc le modèle lui-même.

Formes : L couches, T tokens, D largeur, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.core.anatomy import Site, embedded, through_blocks, unembedded
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.evaluation.inside.sentence import MAX_TOKENS, network_of, sentence_of

MOST_CANDIDATES = 20
"""Tokens gardés à chaque place, au plus."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Le flux résiduel d'une phrase, lu après chaque couche.

    La ligne 0 est l'embedding, la ligne l le flux après la couche l ; il y en a L + 1. Tout est sur
    le processeur.

    Attributes:
        tokens: identifiants de la phrase (T).
        top_ids: (L + 1, T, n) int64, tokens les plus probables, du plus au moins probable.
        top_probabilities: (L + 1, T, n) float32.
        next_probabilities: (L + 1, T - 1) float32, part donnée au token qui suit vraiment.
        entropies: (L + 1, T) float32, en bits.
        divergences: (L + 1, T) float32 : KL de la dernière ligne à celle-ci, en bits ; ce qui reste
            à apprendre des couches suivantes.
        norms: (L + 1, T) float32, longueur du flux.
        attention_norms: (L, T) float32, longueur de ce que chaque attention y ajoute.
        feed_forward_norms: (L, T) float32, longueur de ce que chaque perceptron y ajoute.
    """

    tokens: tuple[int, ...]
    top_ids: Tensor
    top_probabilities: Tensor
    next_probabilities: Tensor
    entropies: Tensor
    divergences: Tensor
    norms: Tensor
    attention_norms: Tensor
    feed_forward_norms: Tensor


def read_layers(
    model: CausalLM,
    ids: Sequence[int] | Tensor,
    *,
    top: int = 5,
    window: int | None = None,
    most: int = MAX_TOKENS,
) -> Reading:
    """Lit le flux résiduel d'une phrase après chaque couche.

    Args:
        model: un `GPTModel`.
        ids: identifiants (T).
        top: tokens gardés à chaque place.
        window: contexte d'entraînement ; None : tout le contexte du modèle.
        most: tokens de la phrase, au plus.

    Raises:
        ConfigurationError: modèle quantifié, phrase vide ou trop longue, `top` hors bornes.
    """
    check_int("top", top, minimum=1, maximum=MOST_CANDIDATES)
    network = network_of(model)
    tokens = sentence_of(network, ids, window=window, most=most)
    lengths: dict[Site, list[Tensor]] = {"residual": [], "attention": [], "feed_forward": []}
    stream = list[Tensor]()

    def keep(site: Site, layer: int, value: Tensor) -> None:
        del layer
        if site in lengths:
            lengths[site].append(value[0].float().norm(dim=-1).cpu())
        if site == "residual":
            stream.append(value)

    rows = list[tuple[Tensor, ...]]()
    with torch.inference_mode(), evaluation_mode(network):
        through_blocks(network, embedded(network, tokens), keep)
        final = _log_shares(unembedded(network, stream[-1]))
        for x in stream:  # une ligne à la fois : T·V nombres, et non (L + 1)·T·V
            rows.append(_row(_log_shares(unembedded(network, x)), final, tokens[0, 1:], top))
    ids_, probabilities, following, entropies, divergences = (
        torch.stack(each).cpu() for each in zip(*rows, strict=True)
    )
    return Reading(
        tokens=tuple(tokens[0].tolist()),
        top_ids=ids_,
        top_probabilities=probabilities,
        next_probabilities=following,
        entropies=entropies,
        divergences=divergences,
        norms=torch.stack(lengths["residual"]),
        attention_norms=torch.stack(lengths["attention"]),
        feed_forward_norms=torch.stack(lengths["feed_forward"]),
    )


def _log_shares(logits: Tensor) -> Tensor:
    """Logits (1, T, V) → log-probabilités (T, V) float32."""
    return logits[0].float().log_softmax(dim=-1)


def _row(logs: Tensor, final: Tensor, following: Tensor, top: int) -> tuple[Tensor, ...]:
    """Ce qu'une ligne garde : tokens, probabilités, part du vrai suivant, entropie, divergence."""
    shares = logs.exp()
    best, ids = shares.topk(min(top, shares.size(-1)), dim=-1)
    given = shares[:-1].gather(-1, following.unsqueeze(-1)).squeeze(-1)
    bits = 1 / math.log(2)
    entropy = -torch.special.xlogy(shares, shares).sum(-1) * bits
    return ids, best, given, entropy, divergence(final, logs)


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL (…) en bits, de log-probabilités (…, V) à d'autres ; jamais négative."""
    gap = (wanted.exp() * (wanted - found)).nan_to_num(0.0)  # 0 · −∞ ne compte pas
    return gap.sum(-1).clamp_min(0.0) / math.log(2)
