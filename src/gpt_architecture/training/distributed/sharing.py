"""Un entraînement, à un processus comme à plusieurs : ce qui se décide, s'écrit et se réunit.

Ce que PyTorch demande à plusieurs n'est importé que là : c'est long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch

from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.callbacks import Store
from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from gpt_architecture.training.distributed.world import SingleProcess, World

if TYPE_CHECKING:
    from gpt_architecture.training.backends import Sharing
    from gpt_architecture.training.distributed.group import DistributedWorld
    from gpt_architecture.training.distributed.parallel import Strategy

T = TypeVar("T")


def _is_joint(world: World) -> TypeGuard[DistributedWorld]:
    return not isinstance(world, SingleProcess)


@contextmanager
def shared_store(store: CheckpointStore, world: World) -> Iterator[Store]:
    """Le dossier des points de reprise, tel que tous les processus l'écrivent ensemble."""
    if not _is_joint(world):
        yield store
        return
    from gpt_architecture.training.distributed.store import DistributedStore

    with DistributedStore(store, world) as shared:
        yield shared


def shared_checkpoint(
    checkpoint: Checkpoint | None, store: CheckpointStore, world: World
) -> Checkpoint | None:
    """Le point de reprise que le premier processus a choisi et vérifié, pour tous."""
    if not _is_joint(world):
        return checkpoint
    chosen = torch.tensor(-1 if checkpoint is None else checkpoint.step)
    step = int(world.broadcast(chosen))
    if world.is_main or step < 0:
        return checkpoint
    return read_checkpoint(store.root / f"step-{step:06d}", verify=False)


def sharing_of(strategy: Strategy, world: World) -> Sharing | None:
    """Comment le modèle se partage entre les processus ; None : il n'y en a qu'un."""
    if not _is_joint(world):
        return None
    from gpt_architecture.training.distributed.parallel import ModelSharing

    return ModelSharing(world=world, strategy=strategy)


def gathered(model: GPTModel, world: World) -> GPTModel:
    """Le modèle entier ; tous les processus l'appellent ensemble."""
    if not _is_joint(world):
        return model
    from gpt_architecture.training.distributed.parallel import whole_model

    return whole_model(model)


def check_share(sequences: int, world: World) -> None:
    """Vérifie que chaque processus aura sa part d'une étape.

    Raises:
        ConfigurationError: le lot effectif ne se partage pas également.
    """
    if sequences % world.size:
        raise ConfigurationError(
            f"{sequences} séquence(s) par étape pour {world.size} processus",
            expected=f"un lot effectif (`batch_size` × `accumulate`) multiple de {world.size}",
            remedy="changez l'un ou l'autre",
        )


def on_main(world: World, action: Callable[[], T]) -> T | None:
    """Fait agir le premier processus pendant que les autres l'attendent ; ils échouent avec lui.

    Returns:
        Ce que `action` rend, ou None dans les autres processus.
    """
    result: T | None = None
    failure: BaseException | None = None
    if world.is_main:
        try:
            result = action()
        except (Exception, KeyboardInterrupt) as error:
            failure = error
    if world.any(failure is not None):
        if failure is not None:
            raise failure
        raise SystemExit(1)
    return result
