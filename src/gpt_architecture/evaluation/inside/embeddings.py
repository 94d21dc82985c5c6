"""Les tokens qui se ressemblent : les voisins d'un embedding, et une carte à deux dimensions.

La carte est l'analyse en composantes principales, exacte, de Pearson (1901) : les deux axes le long
desquels les embeddings montrés varient le plus.

Formes : V vocabulaire, D largeur, n tokens montrés.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.inside.sentence import network_of

MOST_NEIGHBOURS = 200
MOST_POINTS = 500


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Un token voisin.

    Attributes:
        token: son identifiant.
        similarity: cosinus de l'angle des deux embeddings, de −1 à 1.
    """

    token: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Des embeddings, sur leurs deux axes principaux.

    Attributes:
        tokens: identifiants (n).
        points: (n, 2) float64 ; le premier axe est celui qui varie le plus.
        shares: part de la variance que porte chaque axe.
    """

    tokens: tuple[int, ...]
    points: Tensor
    shares: tuple[float, float]


def nearest_tokens(
    model: CausalLM, token: int, *, top: int = 10, vocab_size: int | None = None
) -> list[Neighbour]:
    """Les tokens dont l'embedding fait le plus petit angle avec celui de `token`, lui excepté.

    Args:
        model: un `GPTModel`.
        token: son identifiant.
        top: voisins, au plus.
        vocab_size: tokens parmi lesquels chercher ; None : tous ceux du modèle.

    Raises:
        ConfigurationError: modèle quantifié, ou réglage hors bornes.
    """
    network = network_of(model)
    size = min(vocab_size or network.cfg.vocab_size, network.cfg.vocab_size)
    check_int("token", token, minimum=0, maximum=size - 1)
    check_int("top", top, minimum=1, maximum=MOST_NEIGHBOURS)
    with torch.inference_mode():
        vectors = F.normalize(network.tok_emb.weight[:size].float(), dim=-1)  # (V, D)
        found = (vectors @ vectors[token]).clamp(-1.0, 1.0)
        found[token] = -torch.inf
        values, ids = found.sort(descending=True, stable=True)
    count = min(top, size - 1)
    pairs = zip(ids[:count].tolist(), values[:count].tolist(), strict=True)
    return [Neighbour(token=each, similarity=value) for each, value in pairs]


def embedding_plane(model: CausalLM, tokens: Sequence[int]) -> Plane:
    """Les embeddings de ces tokens, sur leurs deux axes principaux.

    Args:
        model: un `GPTModel`.
        tokens: identifiants, au moins trois différents ; un identifiant répété ne compte qu'une
            fois.

    Raises:
        ConfigurationError: modèle quantifié, trop peu ou trop de tokens, identifiant inconnu.
    """
    network = network_of(model)
    chosen = tuple(dict.fromkeys(int(each) for each in tokens))
    if not 3 <= len(chosen) <= MOST_POINTS:
        raise ConfigurationError(
            f"carte de {len(chosen)} tokens différents",
            expected=f"de 3 à {MOST_POINTS}",
            remedy="donnez un autre texte",
        )
    for each in chosen:
        check_int("token", each, minimum=0, maximum=network.cfg.vocab_size - 1)
    with torch.inference_mode():
        vectors = network.tok_emb.weight[torch.tensor(chosen, device=network.device)]
        points, shares = principal_plane(vectors.double().cpu())
    return Plane(tokens=chosen, points=points, shares=shares)


def principal_plane(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Vecteurs (n, D) float64 → coordonnées (n, 2), et part de variance de chaque axe.

    Le sens d'un axe est libre : sa plus grande composante, en valeur absolue, est mise positive.
    """
    centred = vectors - vectors.mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    points = centred @ (axes * largest.sign()).T  # (n, 2), ou (n, 1) si D = 1
    variance = spread.square()
    total = float(variance.sum())
    shares = [float(each) / total if total > 0 else 0.0 for each in variance[:2]]
    missing = 2 - len(shares)
    points = F.pad(points, (0, missing))
    first, second = (*shares, *(0.0 for _ in range(missing)))
    return points, (first, second)
