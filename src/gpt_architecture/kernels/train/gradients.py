"""Où vont les gradients du pas fusionné : dans les `.grad`, ou tout de suite dans AdamW.

Leurs tampons sont gardés d'un pas à l'autre. Tant qu'un gradient n'est pas écrit, son tampon
sert de mémoire aux activations : celles du bloc l vivent dans le gradient du bloc l − 1, écrit
après que l'arrière les a lues, et celles qui ne durent pas dans celui de l'embedding, écrit en
dernier. L'entraînement ne demande ainsi presque rien de plus que poids, gradients et moments.

Le mode économe met à jour chaque paramètre dès que son gradient est complet et que l'arrière n'a
plus besoin de sa valeur ; tous les gradients ne coexistent donc jamais. Les moments sont gardés en
bf16 avec un arrondi stochastique : un arrondi au plus proche figerait la moyenne des carrés, qui
bouge d'un millième par étape quand bf16 n'en distingue que 1/256.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.core.attention import MultiHeadAttention
from gpt_architecture.core.machine import huge_zeros
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import gradients_of
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.workspace import Arena
from gpt_architecture.kernels.train import kernels

HEAD = -1
"""Couche fictive des tampons de la tête de sortie."""

SLAB = 3 << 20
"""Éléments d'une bande de produit bf16 : elle tient dans le cache jusqu'à son addition en fp32."""


class GradientSink(ABC):
    """Reçoit les gradients, du dernier bloc au premier."""

    _slab: Tensor | None = None

    @abstractmethod
    def arenas(self) -> dict[int | None, Arena]:
        """Zones libres pendant l'avant, par couche ; None : ce qui ne dure pas."""

    @abstractmethod
    def begin(self) -> None:
        """Un lot commence : ce qu'un lot interrompu avait écrit est oublié."""

    @abstractmethod
    def buffer(self, parameter: Tensor) -> tuple[Tensor, float]:
        """Où ajouter le gradient de `parameter`, et le poids de ce qui s'y trouve (0 ou 1)."""

    @abstractmethod
    def flush(self) -> None:
        """Les gradients ajoutés depuis le dernier appel sont complets."""

    @abstractmethod
    def finish(self) -> bool:
        """Tous les gradients du lot sont complets ; faux si l'un, non fini, a été écarté."""

    def zeroed(self, parameter: Tensor) -> Tensor:
        """Où ajouter le gradient de `parameter`, prêt à recevoir des sommes."""
        out, beta = self.buffer(parameter)
        return out if beta else out.zero_()

    def add_product_(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Ajoute left @ right."""
        out, beta = self.buffer(parameter)
        self.accumulate_(out, left, right, beta)

    def accumulate_(self, out: Tensor, left: Tensor, right: Tensor, beta: float) -> None:
        """out = beta · out + left @ right ; un produit bf16 y est ajouté en fp32, par bandes."""
        if left.dtype == out.dtype:
            torch.addmm(out, left, right, beta=beta, out=out)
            return
        for rows in slabs(out):
            part = out[rows]
            if self._slab is None or self._slab.numel() < part.numel():
                self._slab = huge_zeros(max(SLAB, part.numel()) // 2 + 1).view(left.dtype)
            product = self._slab[: part.numel()].view(part.shape)
            torch.mm(left[rows], right, out=product)
            lots = -(-part.numel() // kernels.ADAMW_BLOCK)
            launch(kernels.add_product_, lots, product.view(-1), part.view(-1), beta)

    def add_blocks_(self, parameter: Tensor, partial: Tensor, part: int = 0) -> None:
        """Ajoute la somme des blocs de `partial` (blocs, parts, D), pour une part."""
        out, beta = self.buffer(parameter)
        lots = -(-len(out) // kernels.COLUMN_BLOCK)
        launch(kernels.sum_blocks_, lots, partial, part, out, beta)

    def add_qkv_(self, attention: MultiHeadAttention, dqkv: Tensor, h: Tensor) -> None:
        """Ajoute les gradients des trois projections : dqkv (N, 3·D), h (N, D)."""
        layers = (attention.W_query, attention.W_key, attention.W_value)
        found = [self.buffer(layer.weight) for layer in layers]
        packed = _joined([out for out, _ in found])
        if packed is not None and len({beta for _, beta in found}) == 1:
            self.accumulate_(packed, dqkv.t(), h, found[0][1])
        else:
            for (out, beta), part in zip(found, dqkv.chunk(3, dim=1), strict=True):
                self.accumulate_(out, part.t(), h, beta)
        if isinstance(attention.W_query.bias, Tensor):
            for layer, part in zip(layers, dqkv.chunk(3, dim=1), strict=True):
                out, beta = self.buffer(layer.bias)
                total = part.sum(0, dtype=out.dtype)
                out.copy_(total + out if beta else total)


class GradientStore(GradientSink):
    """Ajoute les gradients aux `.grad` des paramètres, que l'optimiseur remet à None."""

    def __init__(self, model: GPTModel) -> None:
        self._model = model
        self._parameters = list(model.parameters())
        self._buffers: dict[Tensor, Tensor] = {}  # un tenseur se range par identité
        self._zones: dict[int | None, Tensor] = {}
        self._pending: set[Tensor] = set()

    def arenas(self) -> dict[int | None, Arena]:
        """Voir `GradientSink.arenas` ; aucune si des gradients attendent d'être complétés."""
        if any(parameter.grad is not None for parameter in self._parameters):
            return {}
        if not self._buffers:
            self._allocate()
        found: dict[int | None, Arena] = {}
        if None in self._zones:
            found = dict.fromkeys((None, HEAD, 0), Arena(self._zones[None]))
        found |= {slot: Arena(zone) for slot, zone in self._zones.items() if slot is not None}
        return found

    def begin(self) -> None:
        """Voir `GradientSink.begin`."""
        self._pending.clear()

    def buffer(self, parameter: Tensor) -> tuple[Tensor, float]:
        """Voir `GradientSink.buffer`."""
        if parameter.grad is not None:
            return parameter.grad, 1.0
        if not self._buffers:
            self._allocate()
        is_written = parameter in self._pending
        self._pending.add(parameter)
        return self._buffers[parameter], float(is_written)

    def flush(self) -> None:
        """Rien : les gradients attendent l'optimiseur."""

    def finish(self) -> bool:
        """Donne à chaque paramètre le gradient qui vient d'être calculé."""
        for parameter in self._pending:
            parameter.grad = self._buffers[parameter]
        self._pending.clear()
        return True

    def _allocate(self) -> None:
        model = self._model
        for index, block in enumerate(model.trf_blocks):
            zone, buffers = packed_buffers(block.parameters())
            self._buffers |= buffers
            self._zones[index + 1] = zone
        for parameter in self._parameters:
            if parameter not in self._buffers:
                self._buffers[parameter] = huge_zeros(*parameter.shape)
        if not model.cfg.tie_weights:
            self._zones[None] = self._buffers[model.tok_emb.weight]


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
        for parameter, gradient, group in gradients_of(self):
            self.apply_(parameter, gradient, group)

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
            kernels.adamw_,
            -(-parameter.numel() // kernels.ADAMW_BLOCK),
            *(parameter.view(-1), gradient.view(-1)),
            *(state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1)),
            *(float(beta1), float(beta2), float(group["eps"])),
            float(group["lr"] / (1 - beta1**step)),
            float((1 - beta2**step) ** -0.5),
            float(1 - group["lr"] * group["weight_decay"]),
            step,
        )


class LeanSink(GradientSink):
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
        table = huge_zeros(*model.tok_emb.weight.shape)  # la tête, puis l'embedding
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


def slabs(matrix: Tensor) -> Iterator[slice]:
    """Les bandes de lignes d'une matrice, d'au plus `SLAB` éléments."""
    height = max(1, SLAB // matrix.size(1))
    for start in range(0, len(matrix), height):
        yield slice(start, min(len(matrix), start + height))


def packed_buffers(parameters: Iterable[nn.Parameter]) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Une zone, et le tampon qu'y a chaque paramètre, dans l'ordre."""
    known = list(parameters)
    sizes = [-(-parameter.numel() // 16) * 16 for parameter in known]  # 64 octets
    zone = huge_zeros(sum(sizes))
    arena = Arena(zone)
    buffers: dict[Tensor, Tensor] = {}
    for parameter in known:
        part = arena.take(*parameter.shape)
        assert part is not None  # noqa: S101 — la zone est à leur mesure
        buffers[parameter] = part
    return zone, buffers


def _joined(parts: list[Tensor]) -> Tensor | None:
    """Les matrices voisines en mémoire, vues comme une seule ; None si elles ne le sont pas."""
    first = parts[0]
    for before, after in pairwise(parts):
        end = before.data_ptr() + before.numel() * before.element_size()
        if not after.is_contiguous() or after.data_ptr() != end:
            return None
    rows = sum(len(part) for part in parts)
    if not first.is_contiguous() or first.untyped_storage().nbytes() < 4 * (
        first.storage_offset() + rows * first.size(1)
    ):
        return None
    return first.as_strided((rows, first.size(1)), first.stride(), first.storage_offset())
