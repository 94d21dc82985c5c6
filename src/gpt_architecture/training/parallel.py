"""Le parallélisme de données, appliqué au modèle de l'extérieur : DDP ou FSDP2 de PyTorch.

Les noms du `state_dict` ne changent pas : un point de reprise écrit à plusieurs se lit seul, et
l'inverse.

Sources : Li et al., 2020 (DDP) ; Zhao et al., 2023 (FSDP).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gpt_architecture.config import check_choice
from gpt_architecture.core.model import GPTModel
from gpt_architecture.training.distributed import DistributedWorld
from gpt_architecture.training.engine import Batch, TrainingEngine

Strategy = Literal["ddp", "fsdp"]


class ParallelModel:
    """Un modèle partagé entre les rangs d'un groupe ; `parallelize_` le construit.

    Attributes:
        model: le modèle, aux noms habituels ; ses poids sont des `DTensor` avec FSDP.
        module: ce qu'un moteur d'entraînement appelle, pour que les gradients soient échangés.
        strategy: ddp ou fsdp.
    """

    def __init__(self, model: GPTModel, module: nn.Module, strategy: Strategy) -> None:
        self.model = model
        self.module = module
        self.strategy = strategy

    def exchanging(self, enabled: bool) -> AbstractContextManager[None]:
        """Contexte d'une rétropropagation ; faux : ses gradients s'ajoutent sans être échangés."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(enabled)
        elif isinstance(self.module, DistributedDataParallel) and not enabled:
            return self.module.no_sync()
        return nullcontext()

    def whole_model(self) -> GPTModel:
        """Le modèle entier, sur CPU s'il était réparti ; tous les rangs l'appellent ensemble.

        Returns:
            `model` lui-même avec DDP ; avec FSDP, une copie, complète sur le rang 0 seulement.
        """
        if self.strategy == "ddp":
            return self.model
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.model, options=options)
        with torch.device("meta"):
            whole = GPTModel(self.model.cfg)
        if state:  # les autres rangs n'ont rien reçu
            whole.load_state_dict(state, assign=True)
            if whole.cfg.tie_weights:
                whole.tie_weights_()
        return whole


class ParallelEngine:
    """N'échange les gradients qu'au dernier lot d'une étape ; le calcul est celui de `engine`.

    Args:
        engine: moteur construit sur `parallel.module`.
        parallel: le modèle partagé.
    """

    def __init__(self, engine: TrainingEngine, parallel: ParallelModel) -> None:
        self._engine = engine
        self._parallel = parallel

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward` ; la perte est celle des lots de ce rang."""
        with self._parallel.exchanging(batch.is_last):
            return self._engine.forward_backward(batch, scale=scale)


def parallelize_(model: GPTModel, world: DistributedWorld, strategy: Strategy) -> ParallelModel:
    """Partage `model`, déjà sur `world.device` et le même sur chaque rang.

    Args:
        model: modifié sur place par FSDP, qui coupe chaque poids entre les rangs, bloc par bloc.
        world: le groupe.
        strategy: ddp réplique les poids, fsdp les répartit.

    Raises:
        ConfigurationError: stratégie inconnue.
    """
    check_choice("strategy", strategy, get_args(Strategy))
    if strategy == "ddp":
        module = DistributedDataParallel(
            model,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # les gradients ne sont pas gardés deux fois
        )
        return ParallelModel(model, module, strategy)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.trf_blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return ParallelModel(model, model, strategy)


def place_like(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Des tenseurs entiers, répartis comme les paramètres auxquels ils appartiennent.

    Args:
        tensors: nom d'un paramètre, ou « paramètre/grandeur » pour l'état d'un optimiseur, vers
            le tenseur entier, le même sur chaque rang.
        model: dont les paramètres sont, ou non, des `DTensor`.

    Returns:
        Les mêmes noms ; ce qui n'a pas la forme de son paramètre est rendu tel quel.
    """
    owners: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
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
