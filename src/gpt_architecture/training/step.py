"""Un pas d'entraînement : ses lots, et les moteurs qui en calculent la perte et les gradients.

Formes : B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt_architecture.config import ComputeConfig, PrecisionName
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.sampler import WindowSampler, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.distributed.world import SingleProcess, World


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Un lot, ou l'un des lots d'une étape qui accumule.

    Attributes:
        inputs: (B, T) int64.
        targets: (B, T) int64, l'entrée décalée d'un token ; `data.sampler.IGNORED` : sans perte.
        sequence_ids: (B,) int64, numéros des séquences depuis le début de l'entraînement.
        share: part de ce lot dans la moyenne de l'étape sur ce processus ; ce qu'il fait apprendre
            la fixe.
        is_last: vrai pour le dernier lot de l'étape : les gradients sont ensuite complets.
    """

    inputs: Tensor
    targets: Tensor
    sequence_ids: Tensor
    share: float = 1.0
    is_last: bool = True


class TrainingEngine(Protocol):
    """Calcule la perte d'un lot et ajoute ses gradients à ceux des paramètres."""

    @property
    def held_back(self) -> Sequence[str]:
        """Les paramètres que le dernier lot a laissés tels quels, faute d'un gradient fini.

        Vide pour un moteur qui laisse la mise à jour à l'optimiseur : elle a lieu pour tous, ou
        pour aucun.
        """
        ...

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Ajoute `scale` × gradient aux `.grad` ; rend la perte moyenne du lot, détachée.

        Returns:
            Scalaire, en nats par token, avant mise à l'échelle.
        """
        ...


class AutogradEngine:
    """Le moteur lisible : l'entropie croisée du modèle, puis `backward` de PyTorch.

    Args:
        model: rend des logits (B, T, V).
        device: où calculer.
        dtype: type de l'autocast ; None : celui des poids.
        compiled: passe le modèle par `torch.compile`.
    """

    held_back: Sequence[str] = ()

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self._forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        self._device = torch.device(device)
        self._dtype = dtype

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward`."""
        with autocast(self._device, self._dtype):
            loss = calc_loss_batch(batch.inputs, batch.targets, self._forward, self._device)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Contexte qui calcule en `dtype` ; None : ne change rien."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def training_precision(compute: ComputeConfig, device: torch.device) -> torch.dtype | None:
    """Type de l'autocast que demandent les réglages ; le pas fusionné, exigé, calcule en fp32."""
    if compute.wants_fused and compute.precision == "auto":
        return None
    return resolve_precision(compute.precision, device)


def resolve_precision(name: PrecisionName, device: torch.device) -> torch.dtype | None:
    """Type de l'autocast : None pour fp32.

    `auto` choisit bf16 là où il fait gagner : un GPU qui le calcule, ou un processeur à matrices
    bf16 (AMX). Avec les seules instructions vectorielles (AVX512-BF16), le pas fusionné en fp32 va
    aussi vite, et il est exact (voir docs/performances.md) ; sans elles, bf16 est émulé, plusieurs
    fois plus lentement.

    Raises:
        ConfigurationError: bf16 demandé à un matériel qui ne le calcule pas.
    """
    if name == "fp32":
        return None
    if name == "bf16" and not has_bf16(device):
        raise ConfigurationError(
            f"`precision=bf16` sur {device}, qui ne la calcule pas",
            expected="un matériel à instructions bf16",
            remedy="retirez `precision` ou changez `device`",
        )
    gains = _cpu_has("amx_bf16") if device.type == "cpu" else has_bf16(device)
    return torch.bfloat16 if name == "bf16" or gains else None


def has_bf16(device: torch.device) -> bool:
    """Vrai si le matériel calcule bf16 sans l'émuler."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (_cpu_has("avx512_bf16") or _cpu_has("amx_bf16"))


def _cpu_has(feature: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(feature, False))


def checkpoint_activations_(model: GPTModel) -> None:
    """Fait recalculer à la rétropropagation les activations de chaque bloc, sur place.

    Les tirages du dropout sont rejoués : les gradients ne changent pas d'un bit. Hors de
    l'entraînement, les blocs calculent comme avant.
    """
    for block in model.trf_blocks:
        block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, cache: Any = None) -> Tensor:
        if not block.training or cache is not None:
            return forward(x, cache)
        out: Tensor = checkpoint(forward, x, use_reentrant=False)
        return out

    return run


class BatchSource(Protocol):
    """Ce que la boucle demande aux données."""

    def __call__(self, step: int) -> Sequence[Batch]:
        """Les lots de l'étape, pour ce processus."""
        ...

    def epoch_of(self, step: int) -> int:
        """Époque de la première séquence de l'étape, à partir de 1."""
        ...

    def ends_epoch(self, step: int) -> bool:
        """Vrai si une époque s'achève dans l'étape."""
        ...

    def sequences_in(self, step: int) -> int:
        """Séquences de l'étape, tous processus compris."""
        ...


class TokenBatches:
    """Les lots d'un `WindowSampler` : une fonction pure de l'étape et du rang.

    Args:
        source: la suite de tokens.
        sampler: ce qui distribue les fenêtres ; son lot est celui de l'étape entière.
        micro_batch: séquences calculées ensemble, au plus.
        world: les processus qui se partagent l'étape.
    """

    def __init__(
        self,
        source: TokenSource,
        sampler: WindowSampler,
        *,
        micro_batch: int,
        world: World | None = None,
    ) -> None:
        self._source = source
        self._sampler = sampler
        self._micro_batch = micro_batch
        self._world: World = SingleProcess() if world is None else world

    def __call__(self, step: int) -> list[Batch]:
        """Voir `BatchSource`."""
        world, window = self._world, self._sampler.window
        starts, ids = self._sampler.batch(step, rank=world.rank, world_size=world.size)
        every = starts if world.size == 1 else self._sampler.batch(step)[0]
        total = learned_tokens(self._source, every, window)
        batches = []
        for first in range(0, len(starts), self._micro_batch):
            chosen = slice(first, first + self._micro_batch)
            inputs, targets = make_batch(self._source, starts[chosen], window)
            learned = learned_tokens(self._source, starts[chosen], window)
            batches.append(
                Batch(
                    inputs=inputs,
                    targets=targets,
                    sequence_ids=torch.from_numpy(ids[chosen].copy()),
                    share=learned * world.size / total,
                    is_last=first + self._micro_batch >= len(starts),
                )
            )
        return batches

    def epoch_of(self, step: int) -> int:
        """Voir `BatchSource`."""
        return step * self._sampler.batch_size // self._sampler.num_windows + 1

    def ends_epoch(self, step: int) -> bool:
        """Voir `BatchSource`."""
        return self.epoch_of(step + 1) > self.epoch_of(step)

    def sequences_in(self, step: int) -> int:
        """Voir `BatchSource`."""
        return len(self._sampler.sequence_ids(step))
