"""Le mode économe : AdamW pendant la rétropropagation, aux moments en bf16.

Chaque paramètre est mis à jour dès que son gradient est complet et que l'arrière n'a plus besoin
de sa valeur ; tous les gradients ne coexistent donc jamais. Les moments sont gardés en bf16 avec
un arrondi stochastique : un arrondi au plus proche figerait la moyenne des carrés, qui bouge
d'un millième par étape quand bf16 n'en distingue que 1/256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.workspace import Arena, huge_empty
from gpt_architecture.kernels.train import reduction_kernels
from gpt_architecture.kernels.train.gradients import BufferedSink, packed_buffers


class LeanAdamW(torch.optim.Optimizer):
    """AdamW découplé (Loshchilov et Hutter, 2019) aux moments en bf16.

    Args:
        params: paramètres fp32 sur CPU, ou groupes.
        lr, betas, eps, weight_decay: comme `torch.optim.AdamW`.
    """

    moment_dtype = torch.bfloat16

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Met à jour les paramètres dont le gradient est dans `.grad` ; les autres le sont déjà."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.apply_(parameter, parameter.grad, group)

    def apply_(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        """Met à jour un paramètre de `group`, sur place."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=self.moment_dtype)
        state["step"] += 1
        step = int(state["step"])
        beta1, beta2 = group["betas"]
        launch(
            reduction_kernels.adamw_,
            -(-parameter.numel() // reduction_kernels.ADAMW_BLOCK),
            *(parameter.view(-1), gradient.view(-1)),
            *(state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1)),
            *(float(beta1), float(beta2), float(group["eps"])),
            float(group["lr"] / (1 - beta1**step)),
            float((1 - beta2**step) ** -0.5),
            float(1 - group["lr"] * group["weight_decay"]),
            step,
        )


class LeanSink(BufferedSink):
    """Met à jour chaque paramètre dès que son gradient est complet.

    Un gradient qui n'est pas fini n'est pas appliqué.

    Args:
        model: le modèle.
        optimizer: sur tous ses paramètres.
    """

    def __init__(self, model: GPTModel, optimizer: LeanAdamW) -> None:
        self._optimizer = optimizer
        self._groups: dict[Tensor, Mapping[str, Any]] = {
            parameter: group for group in optimizer.param_groups for parameter in group["params"]
        }
        blocks = [list(block.parameters()) for block in model.trf_blocks]
        _, first = packed_buffers(blocks[0])
        shared = list(first.values())  # un seul jeu de tampons pour tous les blocs
        self._buffers: dict[Tensor, Tensor] = {
            parameter: buffer
            for parameters in blocks
            for parameter, buffer in zip(parameters, shared, strict=True)
        }
        table = huge_empty(*model.tok_emb.weight.shape)  # la tête, puis l'embedding
        for parameter in model.parameters():
            if parameter not in self._buffers:
                is_table = parameter is model.tok_emb.weight or parameter is model.out_head.weight
                self._buffers[parameter] = (
                    table if is_table else torch.empty_like(parameter, requires_grad=False)
                )
        self._zone = None if model.cfg.tie_weights else table
        self._late: set[Tensor] = {model.tok_emb.weight} if model.cfg.tie_weights else set()
        self._pending: dict[Tensor, None] = {}  # dans l'ordre
        self._all_finite = True

    def arenas(self) -> dict[int | None, Arena]:
        """Voir `GradientSink.arenas` : rien de ce qui dure pendant la tête n'y a place."""
        return {} if self._zone is None else dict.fromkeys((None, 0), Arena(self._zone))

    def begin(self) -> None:
        """Voir `GradientSink.begin`."""
        self._pending.clear()
        self._all_finite = True

    def buffer(self, parameter: Tensor) -> tuple[Tensor, float]:
        """Voir `GradientSink.buffer`."""
        is_written = parameter in self._pending
        self._pending[parameter] = None
        return self._buffers[parameter], float(is_written)

    def flush(self) -> None:
        """Applique les gradients complets."""
        for parameter in [each for each in self._pending if each not in self._late]:
            self._apply_(parameter)

    def finish(self) -> bool:
        """Applique ce qui restait ; voir `GradientSink.finish`."""
        for parameter in list(self._pending):
            self._apply_(parameter)
        return self._all_finite

    def _apply_(self, parameter: Tensor) -> None:
        del self._pending[parameter]
        gradient = self._buffers[parameter]
        if torch.isfinite(gradient.sum()):  # un NaN ou un infini contamine la somme
            self._optimizer.apply_(parameter, gradient, self._groups[parameter])
        else:
            self._all_finite = False
