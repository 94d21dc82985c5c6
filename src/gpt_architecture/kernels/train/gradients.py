"""Où vont les gradients du pas fusionné.

Leurs tampons sont gardés d'un pas à l'autre. Tant qu'un gradient n'est pas écrit, son tampon
sert de mémoire aux activations : celles du bloc l vivent dans le gradient du bloc l − 1, écrit
après que l'arrière les a lues, et celles qui ne durent pas dans celui de l'embedding, écrit en
dernier. L'entraînement ne demande ainsi presque rien de plus que poids, gradients et moments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from gpt_architecture.core.attention import MultiHeadAttention
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.workspace import Arena, huge_empty
from gpt_architecture.kernels.train import reduction_kernels

HEAD = -1
"""Couche fictive des tampons de la tête de sortie."""


class GradientSink(Protocol):
    """Reçoit les gradients, du dernier bloc au premier."""

    def arenas(self) -> dict[int | None, Arena]:
        """Zones libres pendant l'avant, par couche ; None : ce qui ne dure pas."""
        ...

    def begin(self) -> None:
        """Un lot commence : ce qu'un lot interrompu avait écrit est oublié."""
        ...

    def buffer(self, parameter: Tensor) -> tuple[Tensor, float]:
        """Où ajouter le gradient de `parameter`, et le poids de ce qui s'y trouve (0 ou 1)."""
        ...

    def zeroed(self, parameter: Tensor) -> Tensor:
        """Où ajouter le gradient de `parameter`, prêt à recevoir des sommes."""
        ...

    def add_product_(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Ajoute left @ right."""
        ...

    def add_blocks_(self, parameter: Tensor, partial: Tensor, part: int = 0) -> None:
        """Ajoute la somme des blocs de `partial` (blocs, parts, D), pour une part."""
        ...

    def add_qkv_(self, attention: MultiHeadAttention, dqkv: Tensor, h: Tensor) -> None:
        """Ajoute les gradients des trois projections : dqkv (N, 3·D), h (N, D)."""
        ...

    def flush(self) -> None:
        """Les gradients ajoutés depuis le dernier appel sont complets."""
        ...

    def finish(self) -> bool:
        """Tous les gradients du lot sont complets ; faux si l'un, non fini, a été écarté."""
        ...


class BufferedSink(ABC):
    """Ce que les destinations ont en commun : ajouter à un tampon."""

    @abstractmethod
    def buffer(self, parameter: Tensor) -> tuple[Tensor, float]:
        """Voir `GradientSink.buffer`."""

    def zeroed(self, parameter: Tensor) -> Tensor:
        """Voir `GradientSink.zeroed`."""
        out, beta = self.buffer(parameter)
        return out if beta else out.zero_()

    def add_product_(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Voir `GradientSink.add_product_`."""
        out, beta = self.buffer(parameter)
        torch.addmm(out, left, right, beta=beta, out=out)

    def add_blocks_(self, parameter: Tensor, partial: Tensor, part: int = 0) -> None:
        """Voir `GradientSink.add_blocks_`."""
        out, beta = self.buffer(parameter)
        launch(
            reduction_kernels.sum_blocks_,
            -(-len(out) // reduction_kernels.COLUMN_BLOCK),
            partial,
            part,
            out,
            beta,
        )

    def add_qkv_(self, attention: MultiHeadAttention, dqkv: Tensor, h: Tensor) -> None:
        """Voir `GradientSink.add_qkv_`."""
        layers = (attention.W_query, attention.W_key, attention.W_value)
        found = [self.buffer(layer.weight) for layer in layers]
        packed = _joined([out for out, _ in found])
        if packed is not None and len({beta for _, beta in found}) == 1:
            torch.addmm(packed, dqkv.t(), h, beta=found[0][1], out=packed)
        else:
            for (out, beta), part in zip(found, dqkv.chunk(3, dim=1), strict=True):
                torch.addmm(out, part.t(), h, beta=beta, out=out)
        if isinstance(attention.W_query.bias, Tensor):
            for layer, part in zip(layers, dqkv.chunk(3, dim=1), strict=True):
                out, beta = self.buffer(layer.bias)
                total = part.sum(0)
                out.copy_(total + out if beta else total)


class GradientStore(BufferedSink):
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
                self._buffers[parameter] = huge_empty(*parameter.shape)
        if not model.cfg.tie_weights:
            self._zones[None] = self._buffers[model.tok_emb.weight]


def packed_buffers(parameters: Iterable[nn.Parameter]) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Une zone, et le tampon qu'y a chaque paramètre, dans l'ordre."""
    known = list(parameters)
    sizes = [-(-parameter.numel() // 16) * 16 for parameter in known]  # 64 octets
    zone = huge_empty(sum(sizes))
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
