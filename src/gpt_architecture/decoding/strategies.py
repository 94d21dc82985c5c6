"""Stratégies de décodage : des fonctions pures, par lots.

Formes : (…, V), V vocabulaire. Les deux filtres rendent les logits, −∞ là où le token est
retiré ; il reste toujours au moins un token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.decoding.ordering import descending, largest

HEAD = 512
"""Tokens que top-p trie d'abord, avant d'en venir à tout le vocabulaire."""


def greedy(logits: Tensor) -> Tensor:
    """Token le plus probable : (…, V) → (…, 1) int64. À égalité, le plus petit identifiant."""
    if logits.device.type == "cpu" and logits.dtype is torch.float32:
        # NumPy cherche par vecteurs : neuf fois plus vite que PyTorch, par ligne de vocabulaire.
        return torch.from_numpy(logits.detach().numpy().argmax(axis=-1, keepdims=True))
    return logits.argmax(dim=-1, keepdim=True)


def softmax_avec_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Distribution softmax(logits / temperature) : (…, V) → (…, V), de somme 1.

    Une température de 0 n'est pas une division : toute la masse va au token le plus
    probable. Sous 1 la distribution se resserre, au-dessus elle s'aplatit.

    Raises:
        ConfigurationError: température négative ou non finie.
    """
    check_float("temperature", temperature, minimum=0.0)
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, greedy(logits), 1.0)
    return torch.softmax(divide_by_temperature(logits, temperature), dim=-1)


def divide_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """(logits − maximum) / temperature, pour une température > 0 : (…, V) → (…, V).

    Ôter le maximum d'abord ne change pas le softmax et garde finis les logits du plus
    probable, même à une température trop petite ou trop grande pour leur type.
    """
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """Garde exactement les k plus grands logits (Fan et al., 2018).

    k est ramené à la taille du vocabulaire. À égalité sur la k-ième place, les plus petits
    identifiants sont gardés.

    Raises:
        ConfigurationError: k n'est pas un entier ≥ 1.
    """
    check_int("k", k, minimum=1)
    if k >= logits.size(-1):
        return logits
    threshold = logits.topk(k, dim=-1).values[..., -1:]
    return _keep_largest(logits, threshold, torch.full_like(threshold, k, dtype=torch.int64))


def top_p(logits: Tensor, p: float) -> Tensor:
    """Garde le plus petit ensemble de tokens dont la probabilité atteint p (Holtzman et al., 2020).

    Le token qui franchit p est gardé, si bien que p = 0 garde le plus probable seul ; p = 1
    garde tout. À probabilité égale, les plus petits identifiants passent d'abord.

    Raises:
        ConfigurationError: p hors de [0, 1].
    """
    check_float("p", p, minimum=0.0, maximum=1.0)
    if p == 1:
        return logits
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # mps s'arrête là
    maximum = logits.amax(dim=-1, keepdim=True).to(precise)
    total = (logits.to(precise) - maximum).exp().sum(dim=-1, keepdim=True)
    ordered = largest(logits, min(HEAD, logits.size(-1)))
    count = _nucleus_size(ordered, maximum, total, p)
    if bool((count == ordered.size(-1)).any()):  # le noyau dépasse peut-être la tête
        ordered = descending(logits)
        count = _nucleus_size(ordered, maximum, total, p)
    return _keep_largest(logits, ordered.gather(-1, count - 1), count)


def _nucleus_size(ordered: Tensor, maximum: Tensor, total: Tensor, p: float) -> Tensor:
    """Taille du noyau de masse p, (…, 1), d'après des logits décroissants (…, n)."""
    probabilities = (ordered.to(maximum.dtype) - maximum).exp() / total
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    return (mass_before < p).sum(dim=-1, keepdim=True).clamp(min=1)


def _keep_largest(logits: Tensor, threshold: Tensor, count: Tensor) -> Tensor:
    """Garde les `count` (…, 1) plus grands logits, dont le dernier vaut `threshold` (…, 1).

    À égalité sur la dernière place, les plus petits identifiants sont gardés.
    """
    kept = logits >= threshold
    if bool((kept.sum(dim=-1, keepdim=True) > count).any()):
        above = logits > threshold
        tied = logits == threshold
        seats_left = count - above.sum(dim=-1, keepdim=True)
        kept = above | (tied & (tied.cumsum(dim=-1) <= seats_left))
    return logits.masked_fill(~kept, -torch.inf)
