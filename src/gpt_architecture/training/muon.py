"""Muon (Jordan, 2024), orthogonalisé dans une précision que le matériel calcule.

`torch.optim.Muon` mène l'itération de Newton et Schulz en bf16 : gratuit sur une carte qui le
calcule, très lent sur un processeur qui l'émule. Ici, le type est un argument ; le reste est le
sien, état et réglages compris.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, qui orthogonalise en `dtype`.

    Args:
        params: matrices, ou groupes de matrices.
        dtype: type de l'itération ; None : celui du gradient.
        options: celles de `torch.optim.Muon`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, **options)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Met à jour chaque matrice dans la direction orthogonale la plus proche de son inertie."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._apply_(parameter, parameter.grad, group)

    def _apply_(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        update = orthogonalize(
            update if self._dtype is None else update.to(self._dtype),
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        rows, columns = parameter.shape
        lr = group["lr"]
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(update, alpha=-lr * math.sqrt(max(1.0, rows / columns)))


def orthogonalize(
    matrix: Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Rapproche de 1 les valeurs singulières de `matrix`, par Newton et Schulz, dans son type.

    Le polynôme, du cinquième degré, monte vite depuis 0 sans converger tout à fait : les valeurs
    finissent entre 0,7 et 1,2 environ, et Muon s'en contente.

    Args:
        matrix: (lignes, colonnes).
        coefficients: du polynôme, degrés 1, 3 et 5.
        steps: itérations.
        eps: plancher de la norme.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
