"""Ce que la machine pourrait faire, et la part qu'elle en fait."""

from __future__ import annotations

import time

import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

_SIDES = {"cpu": 1024, "cuda": 8192, "mps": 4096}
_PRODUCTS = 4


def flops_per_token(config: GPTConfig, window: int) -> int:
    """Opérations flottantes de l'entraînement d'un token, aller et retour.

    Six par poids des matrices (Kaplan et al., 2020), tête comprise, embeddings lus par indice
    non ; plus l'attention causale, qui voit en moyenne la moitié des `window` positions.
    """
    d = config.emb_dim
    matrices = config.n_layers * (4 * d + 2 * config.inner_width) * d + config.vocab_size * d
    attention = config.n_layers * window * d
    return 6 * (matrices + attention)


@fastest_matmul()
def measure_peak_flops(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Opérations par seconde du meilleur de quelques produits de matrices carrées.

    Args:
        device: où mesurer.
        dtype: type des matrices ; None : fp32.
    """
    side = _SIDES.get(device.type, 1024)
    a = torch.ones(side, side, device=device, dtype=dtype or torch.float32)
    out = a @ a
    best = float("inf")
    for _ in range(_PRODUCTS):
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
