"""Trier un vocabulaire : sur CPU par NumPy, dont le tri vectoriel est dix fois celui de PyTorch.

Un tri de 50 257 logits par PyTorch coûte autant que le calcul d'un token. Ces fonctions rendent
exactement les mêmes valeurs, sur tout périphérique. NumPy ignore les demi-précisions : elles
deviennent float32, sans perte.

Formes : (…, V), V vocabulaire, n premiers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def descending(values: Tensor) -> Tensor:
    """Les valeurs, de la plus grande à la plus petite : (…, V) → (…, V)."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(_array(values), axis=-1)).flip(-1)


def largest(values: Tensor, count: int) -> Tensor:
    """Les n plus grandes valeurs, décroissantes : (…, V) → (…, n), 1 ≤ n ≤ V."""
    if values.device.type != "cpu":
        return values.topk(count, dim=-1).values
    first = values.size(-1) - count
    return descending(torch.from_numpy(np.partition(_array(values), first, axis=-1)[..., first:]))


def ascending(values: Tensor) -> tuple[Tensor, Tensor]:
    """Les valeurs croissantes et leurs places, ex æquo dans l'ordre des places.

    Args:
        values: (…, V) float32, ≥ 0.

    Returns:
        (…, V) float32 et (…, V) int64.
    """
    if values.device.type != "cpu":
        return values.sort(dim=-1, stable=True)
    # Les bits d'un float32 ≥ 0 s'ordonnent comme lui : valeur et place tiennent dans un entier.
    places = torch.arange(values.size(-1))
    keys = (values.view(torch.int32).to(torch.int64) << 32) | places
    ordered = torch.from_numpy(np.sort(_array(keys), axis=-1))
    return (ordered >> 32).to(torch.int32).view(torch.float32), ordered & 0xFFFFFFFF


def _array(values: Tensor) -> np.ndarray:
    small = values.dtype in (torch.float16, torch.bfloat16)
    array: np.ndarray = (values.float() if small else values).detach().numpy()
    return array
