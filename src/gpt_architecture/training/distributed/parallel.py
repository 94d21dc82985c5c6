"""Le parallélisme de données, appliqué au modèle de l'extérieur : DDP ou FSDP2 de PyTorch.

Les noms du `state_dict` ne changent pas : un point de reprise écrit à plusieurs se lit seul, et
l'inverse.

Sources : Li et al., 2020 (DDP) ; Zhao et al., 2023 (FSDP).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gpt_architecture.config import check_choice
from gpt_architecture.core.model import GPTModel, blank_model
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.distributed.group import DistributedWorld
from gpt_architecture.training.step import Batch, TrainingEngine

Strategy = Literal["ddp", "fsdp"]

_BUCKET = 2**22  # éléments échangés ensemble : assez pour le débit, peu pour la mémoire


@dataclass(frozen=True)
class ParallelModel:
    """Un modèle partagé entre les rangs d'un groupe ; `ModelSharing` le construit.

    Attributes:
        model: le modèle, aux noms habituels ; ses poids sont des `DTensor` avec FSDP.
        module: ce qu'un moteur d'entraînement appelle, pour que les gradients soient échangés.
    """

    model: GPTModel
    module: nn.Module

    def wrap(self, engine: TrainingEngine) -> TrainingEngine:
        """Le moteur, construit sur `module`, qui échange ses gradients au dernier lot d'une étape.

        Accumulés, les gradients des autres lots ne sont pas échangés.
        """
        return _ParallelEngine(engine, self)

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Des tenseurs entiers, répartis comme les paramètres auxquels ils appartiennent.

        Args:
            tensors: nom d'un paramètre, ou « paramètre/grandeur » pour l'état d'un optimiseur,
                vers le tenseur entier, le même sur chaque rang.

        Returns:
            Les mêmes noms ; ce qui n'a pas la forme de son paramètre est rendu tel quel.
        """
        owners: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        placed = {}
        for name, tensor in tensors.items():
            owner = owners.get(name, owners.get(name.rpartition("/")[0]))
            if isinstance(owner, DTensor) and tensor.shape == owner.shape:
                tensor = distribute_tensor(  # noqa: PLW2901 — le même, réparti
                    tensor.to(owner.device_mesh.device_type),
                    owner.device_mesh,
                    owner.placements,
                    src_data_rank=None,  # chaque rang coupe le sien : aucun échange
                )
            placed[name] = tensor
        return placed


@dataclass(frozen=True)
class _ParallelEngine:
    engine: TrainingEngine
    parallel: ParallelModel
    held_back: ClassVar[Sequence[str]] = ()

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward` ; la perte est celle des lots de ce rang."""
        with self._exchanging(batch.is_last):
            loss = self.engine.forward_backward(batch, scale=scale)
        if batch.is_last and self.parallel.module is self.parallel.model:
            average_gradients_(self.parallel.model)
        return loss

    def _exchanging(self, enabled: bool) -> AbstractContextManager[None]:
        module = self.parallel.module
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(enabled)
        elif isinstance(module, DistributedDataParallel) and not enabled:
            return module.no_sync()
        return nullcontext()


@torch.no_grad()
def average_gradients_(model: nn.Module) -> None:
    """Remplace chaque gradient par sa moyenne sur tous les rangs, quelques Mio à la fois.

    Pour un moteur qui écrit lui-même les `.grad`, sans les crochets que DDP pose sur autograd.
    Sans effet sur des poids répartis, dont FSDP échange les gradients.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if isinstance(parameters[0], DTensor):
        return
    for parameter in parameters:  # un rang à la perte non finie échange aussi, sans rien apporter
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    size = dist.get_world_size()
    for first, last in _buckets(gradients):
        bucket = gradients[first:last]
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        flat /= size
        means = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, mean in zip(bucket, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Tranches contiguës d'environ `_BUCKET` éléments."""
    first, elements = 0, 0
    for index, tensor in enumerate(tensors):
        if index > first and elements + tensor.numel() > _BUCKET:
            yield first, index
            first, elements = index, 0
        elements += tensor.numel()
    yield first, len(tensors)


@dataclass(frozen=True, kw_only=True)
class ModelSharing:
    """Comment un modèle se partage entre les rangs ; appelé, il le partage.

    Attributes:
        world: le groupe.
        strategy: ddp réplique les poids, fsdp les répartit.
    """

    world: DistributedWorld
    strategy: Strategy

    def __post_init__(self) -> None:
        check_choice("parallel", self.strategy, get_args(Strategy))

    @property
    def replicates(self) -> bool:
        """Vrai si chaque rang garde tous les poids."""
        return self.strategy == "ddp"

    def __call__(self, model: GPTModel, *, autograd: bool = True) -> ParallelModel:
        """Partage `model`, déjà sur `world.device` et le même sur chaque rang.

        Args:
            model: modifié sur place par FSDP, qui coupe chaque poids entre les rangs, bloc par
                bloc.
            autograd: faux : le moteur ne passe pas par autograd, et ses gradients sont échangés
                après coup au lieu de l'être pendant la rétropropagation.

        Raises:
            ConfigurationError: fsdp sans autograd.
        """
        device = self.world.device
        if not self.replicates:
            if not autograd:
                raise ConfigurationError(
                    "`parallel=fsdp` avec un moteur qui ne passe pas par autograd",
                    expected="le moteur autograd, dont FSDP répartit les poids",
                    remedy="choisissez `parallel=ddp` ou l'autre moteur",
                )
            mesh = init_device_mesh(device.type, (self.world.size,))
            for block in model.trf_blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
            return ParallelModel(model, model)
        if not autograd:
            return ParallelModel(model, model)
        module = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # les gradients ne sont pas gardés deux fois
        )
        return ParallelModel(model, module)


def whole_model(model: GPTModel) -> GPTModel:
    """Le modèle entier, sur CPU s'il était réparti ; tous les rangs l'appellent ensemble.

    Returns:
        `model` lui-même s'il n'est pas réparti ; sinon une copie, complète sur le rang 0
        seulement.
    """
    if not isinstance(model, FSDPModule):
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    whole = blank_model(model.cfg)
    if state:  # les autres rangs n'ont rien reçu
        whole.load_state_dict(state, assign=True)
        if whole.cfg.tie_weights:
            whole.tie_weights_()
    return whole
