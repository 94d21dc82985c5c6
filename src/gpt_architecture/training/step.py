"""Une étape d'entraînement : ses lots, le moteur qui en tire des gradients, et un exemple.

Écrire un exemple ne tire rien des générateurs de l'entraînement, et rend la main si l'arrêt est
demandé.

Formes : B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt_architecture.config import PrecisionName
from gpt_architecture.core.documents import DocumentSpans
from gpt_architecture.core.kv_cache import LayerCache
from gpt_architecture.core.machine import instructions
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.data.mixtures import SourceUse, mixture_use
from gpt_architecture.data.sampler import WindowSampler, document_starts, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.data.tokenizers.protocol import Tokenizer
from gpt_architecture.decoding.simple import stream_tokens
from gpt_architecture.decoding.strategies import greedy_token
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.objectives import Objective
from gpt_architecture.training.simple import SAMPLE_TOKENS


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Un lot, ou l'un des lots d'une étape qui accumule.

    Attributes:
        inputs: (B, T) int64.
        targets: (B, T) int64, l'entrée décalée d'un token ; `data.sampler.IGNORED` : sans perte.
        sequence_ids: (B,) int64, numéros des séquences depuis le début de l'entraînement.
        document_starts: (B, T) int64, voir `data.sampler.document_starts` ; None : l'attention voit
            toute la fenêtre.
        share: part de ce lot dans la moyenne de l'étape sur ce processus ; ce qu'il fait apprendre
            la fixe. Nulle : le lot n'a plus de cible.
        is_last: vrai pour le dernier lot de l'étape : les gradients sont ensuite complets.
    """

    inputs: Tensor
    targets: Tensor
    sequence_ids: Tensor
    document_starts: Tensor | None = None
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
    """Le moteur lisible : la perte du modèle, puis `backward` de PyTorch.

    Args:
        model: rend des logits (B, T, V).
        device: où calculer.
        dtype: type de l'autocast ; None : celui des poids.
        compiled: passe le modèle par `torch.compile`.
        n_layers: nombre de blocs, que seuls des documents séparés demandent.
        objective: la perte ; None : l'entropie croisée.
    """

    held_back: Sequence[str] = ()

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        n_layers: int = 0,
        objective: Objective | None = None,
    ) -> None:
        self._objective = objective
        self._forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        self._device = torch.device(device)
        self._dtype = dtype
        self._n_layers = n_layers

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward`."""
        documents = spans_of(batch.document_starts, self._n_layers, self._device)
        pair, objective = (batch.inputs, batch.targets), self._objective
        with autocast(self._device, self._dtype):
            if objective is None:
                loss = calc_loss_batch(*pair, self._forward, self._device, documents=documents)
            else:
                seen = () if documents is None else (documents,)
                logits = self._forward(batch.inputs.to(self._device), *seen).flatten(0, 1)
                loss = objective(logits[objective.positions(batch).to(self._device)], batch)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def spans_of(starts: Tensor | None, n_layers: int, device: torch.device) -> DocumentSpans | None:
    """De quoi séparer les documents d'un lot, d'après `Batch.document_starts`."""
    return None if starts is None else DocumentSpans(starts.to(device), n_layers)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Contexte qui calcule en `dtype` ; None : ne change rien."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def resolve_precision(
    name: PrecisionName, device: torch.device, *, fused: bool
) -> torch.dtype | None:
    """Type des produits de matrices : None pour fp32.

    `auto` choisit bf16 là où le matériel le calcule (sans quoi il est émulé, plusieurs fois plus
    lentement) et où il gagne assez : un GPU, un processeur à AMX, ou, pour l'étape fusionnée, qui
    garde les logits en fp32, à AVX512-BF16. Autograd y arrondirait aussi les logits.

    Args:
        fused: vrai si l'étape fusionnée calcule ; faux : autograd.

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
    chosen = name == "bf16" or fused or device.type != "cpu" or "amx_bf16" in instructions()
    return torch.bfloat16 if chosen and has_bf16(device) else None


def has_bf16(device: torch.device) -> bool:
    """Vrai si le matériel calcule bf16 sans l'émuler."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and not instructions().isdisjoint(("avx512_bf16", "amx_bf16"))


def checkpoint_activations_(model: GPTModel) -> None:
    """Fait recalculer à la rétropropagation les activations de chaque bloc, sur place.

    Les tirages du dropout sont rejoués : les gradients ne changent pas d'un bit. Hors de
    l'entraînement, les blocs calculent comme avant.
    """
    for block in model.trf_blocks:
        block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, cache: Any = None) -> Tensor:
        if not block.training or isinstance(cache, LayerCache):
            return forward(x, cache)
        out: Tensor = checkpoint(forward, x, cache, use_reentrant=False)
        return out

    return run


@dataclass(frozen=True)
class TokenBatches:
    """Les lots d'un `WindowSampler` : une fonction pure de l'étape et du rang.

    Attributes:
        source: la suite de tokens.
        sampler: ce qui distribue les fenêtres ; son lot est celui de l'étape entière.
        micro_batch: séquences calculées ensemble, au plus.
        separator: token qui commence un document, pour que chacun ne voie que lui-même ; None :
            l'attention voit toute la fenêtre.
        world: les processus qui se partagent l'étape.
    """

    rows_per_sequence: ClassVar[int] = 1
    """Rangées du lot par séquence."""

    source: TokenSource
    sampler: WindowSampler
    micro_batch: int
    separator: int | None = None
    world: World = field(default_factory=World)

    def __call__(self, step: int) -> list[Batch]:
        """Les lots de l'étape, pour ce processus."""
        world, window = self.world, self.sampler.window
        starts, ids = self.sampler.batch(step, rank=world.rank, world_size=world.size)
        every = starts if world.size == 1 else self.sampler.batch(step)[0]
        total = learned_tokens(self.source, every, window)
        batches = []
        for first in range(0, len(starts), self.micro_batch):
            chosen = slice(first, first + self.micro_batch)
            inputs, targets = make_batch(self.source, starts[chosen], window)
            learned = learned_tokens(self.source, starts[chosen], window)
            batches.append(
                Batch(
                    inputs=inputs,
                    targets=targets,
                    sequence_ids=torch.from_numpy(ids[chosen].copy()),
                    document_starts=document_starts(
                        self.source, starts[chosen], inputs, self.separator
                    ),
                    share=learned * world.size / max(1, total),
                    is_last=first + self.micro_batch >= len(starts),
                )
            )
        return batches

    def epoch_of(self, step: int) -> int:
        """Époque de la première séquence de l'étape, à partir de 1."""
        return step * self.sampler.batch_size // self.sampler.num_windows + 1

    def ends_epoch(self, step: int) -> bool:
        """Vrai si une époque s'achève dans l'étape."""
        return self.epoch_of(step + 1) > self.epoch_of(step)

    def mixture_after(self, sequences: int) -> Mapping[str, SourceUse]:
        """Ce que les `sequences` premières séquences lisent de chaque source d'un mélange."""
        return mixture_use(self.sampler, sequences)

    def sequences_in(self, step: int) -> int:
        """Séquences de l'étape, tous processus compris."""
        return len(self.sampler.sequence_ids(step))


class TextSampler:
    """Écrit un exemple glouton de `SAMPLE_TOKENS` tokens, invite comprise.

    Args:
        model: le modèle entraîné.
        tokenizer: pour coder l'invite et décoder l'exemple.
        device: où calculer.
        start: invite de l'exemple.
        window: derniers tokens relus, au plus.
        eos_id: token qui achève l'exemple ; None : aucun.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        device: torch.device,
        start: str,
        *,
        window: int,
        eos_id: int | None = None,
    ) -> None:
        self._model = model
        self._eos_id = eos_id
        self._tokenizer = tokenizer
        self._device = device
        self._start = torch.tensor([encode_text(start, tokenizer)])  # un mot inconnu se dit ici
        self._window = window

    def __call__(self, should_stop: Callable[[], bool]) -> str | None:
        """Le texte, ou None si l'arrêt demandé l'a interrompu."""
        ids = self._start.to(self._device)
        produced = []
        stream = stream_tokens(
            self._model,
            ids,
            SAMPLE_TOKENS,
            greedy_token,
            context_size=self._window,
            eos_id=self._eos_id,
        )
        for token, _ in stream:
            produced.append(token)
            if should_stop():
                return None
        return self._tokenizer.decode(torch.cat([ids, *produced], dim=1)[0].tolist())
