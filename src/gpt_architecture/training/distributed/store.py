"""Les points de reprise d'un entraînement à plusieurs : un seul dossier, le même qu'à un seul.

Avec des poids répétés (DDP), le rang 0 écrit. Avec des poids répartis (FSDP), chaque rang écrit
ses morceaux en arrière-plan, que le rang 0 réunit puis publie : l'entraînement n'attend que le
temps d'une copie en mémoire.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from gpt_architecture.errors import GPTArchitectureError, OutputError, reason
from gpt_architecture.training.checkpoint import SHARDS, CheckpointStore
from gpt_architecture.training.distributed.group import DistributedWorld

_POLL_S = 1.0
_GRACE_S = 120.0  # après une erreur ; le lanceur, lui, tue au bout de 300 s

logger = logging.getLogger(__name__)


class DistributedStore:
    """Un `CheckpointStore` que tous les rangs appellent ensemble ; satisfait `callbacks.Store`.

    Une écriture refusée l'est pour tous : aucun rang n'attend celui qui a échoué. Au sortir du
    contexte, la dernière écriture est achevée.

    Args:
        store: le dossier, sur un disque que tous les rangs voient.
        world: le groupe.
    """

    def __init__(self, store: CheckpointStore, world: DistributedWorld) -> None:
        self._store = store
        self._world = world
        self._group = dist.new_group(backend="gloo", timeout=world.timeout)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="points de reprise")
        self._pending: Future[Any] | None = None
        if world.is_main:  # ce qu'un arrêt brutal a laissé
            for leftover in store.root.glob(f"step-*{SHARDS}"):
                shutil.rmtree(leftover, ignore_errors=True)
        world.barrier()

    def __enter__(self) -> DistributedStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
        elif isinstance(value, Exception):  # une interruption, elle, n'attend pas
            self._finish_alone()
        self._writer.shutdown(wait=False, cancel_futures=True)

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> Path:
        """Écrit le point de reprise de l'étape `step` ; réparti, il n'est publié qu'à `flush`.

        L'écriture précédente est d'abord achevée ; son échec est dit, et n'empêche pas celle-ci.

        Raises:
            OutputError: le disque refuse, à ce rang ou à un autre.
        """
        try:
            self.flush()
        except GPTArchitectureError as error:
            logger.warning("le point de reprise précédent n'a pas été écrit : %s", error)
        path = self._store.path_of(step)
        if not any(isinstance(t, DTensor) for group in tensors.values() for t in group.values()):
            self._on_main(lambda: self._store.save(step, tensors, state))
            return path
        sharded, whole = split_groups(tensors)
        folder = self._store.path_of(step, SHARDS)
        self._on_main(lambda: _make_empty(folder))
        pending = save_shards(sharded, folder, process_group=self._group)
        if self._world.is_main:
            pending = self._writer.submit(self._publish, pending, step, folder, whole, dict(state))
        self._pending = pending
        return path

    def mark_best(self, step: int) -> None:
        """Désigne le meilleur point de reprise, une fois publié."""
        self.flush()
        self._on_main(lambda: self._store.mark_best(step))

    def flush(self) -> None:
        """Attend que la dernière écriture soit achevée et publiée.

        Raises:
            OutputError: elle a échoué, à ce rang ou à un autre.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        while not wait([pending], timeout=_POLL_S).done:
            self._world.beat()  # l'arrière-plan a ses propres délais
        self._share(pending.exception())

    def _finish_alone(self) -> None:
        """Laisse l'écriture en cours s'achever, sans échange : les autres rangs ont pu partir."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        deadline = time.monotonic() + _GRACE_S
        while not wait([pending], timeout=_POLL_S).done and time.monotonic() < deadline:
            self._world.beat()
        if not pending.done() or pending.exception() is not None:
            logger.warning("le dernier point de reprise n'a pas été écrit")

    def _publish(
        self,
        pending: Future[Any],
        step: int,
        folder: Path,
        whole: dict[str, dict[str, Tensor]],
        state: Mapping[str, Any],
    ) -> None:
        try:
            pending.result()
            groups = whole_tensors(folder)
            for name, content in whole.items():
                groups.setdefault(name, {}).update(content)
            self._store.save(step, groups, state)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _on_main(self, action: Callable[[], object]) -> None:
        """Fait agir le rang 0 ; son échec est celui de tous."""
        error: BaseException | None = None
        if self._world.is_main:
            try:
                action()
            except (GPTArchitectureError, OSError) as failure:
                error = failure
        self._share(error)

    def _share(self, error: BaseException | None) -> None:
        if not self._world.any(error is not None):
            return
        if isinstance(error, GPTArchitectureError):
            raise error
        if error is not None and not isinstance(error, (OSError, CheckpointException)):
            raise error
        cause = "un autre processus n'a pas pu écrire"
        if error is not None:  # DCP enferme la pile de chaque rang dans le texte de son erreur
            cause = reason(error) if isinstance(error, OSError) else str(error).split("\n")[-2]
        raise OutputError(
            f"point de reprise non écrit dans {self._store.root} : {cause}",
            expected="un dossier partagé par tous les processus, et assez de place",
            remedy="libérez de la place ; les points de reprise précédents sont intacts",
        ) from error


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


_BETWEEN = ":"  # groupe:nom ; aucun nom de paramètre n'en contient

Groups = Mapping[str, Mapping[str, Tensor]]
"""Nom d'un groupe (« model », « optimizer ») → ses tenseurs nommés."""


def split_groups(groups: Groups) -> tuple[Groups, dict[str, dict[str, Tensor]]]:
    """Sépare les tenseurs répartis (`DTensor`) des autres, entiers sur chaque rang et copiés.

    En réunissant les morceaux, PyTorch 2.13 perd les scalaires et refuse les entiers : rien de
    ce qui est entier n'a donc à passer par là.
    """
    sharded: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, dict[str, Tensor]] = {}
    for group, content in groups.items():
        for name, tensor in content.items():
            if isinstance(tensor, DTensor):
                sharded.setdefault(group, {})[name] = tensor
            else:
                whole.setdefault(group, {})[name] = tensor.detach().clone()
    return sharded, whole


def save_shards(
    groups: Groups,
    folder: Path | str,
    *,
    process_group: dist.ProcessGroup | None = None,
) -> Future[Any]:
    """Écrit les morceaux de chaque rang en arrière-plan, puis les réunit dans `folder`.

    Les tenseurs sont copiés avant de rendre la main : l'entraînement peut continuer. Tous les
    rangs appellent ensemble ; `folder` est sur un disque qu'ils partagent.

    Args:
        groups: des tenseurs répartis (voir `split_groups`).
        folder: dossier absent ou vide.
        process_group: groupe gloo réservé à cet usage : les échanges de l'arrière-plan ne
            doivent pas se mêler à ceux de l'entraînement.

    Returns:
        Ce dont `result()` attend la fin, sur ce rang, et lève l'erreur s'il y en a une.
    """
    tensors = {
        f"{group}{_BETWEEN}{name}": tensor
        for group, content in groups.items()
        for name, tensor in content.items()
    }
    numbers = {group: number for number, group in enumerate(groups, start=1)}
    writer = HuggingFaceStorageWriter(
        str(folder),
        fqn_to_index_mapping={name: numbers[name.split(_BETWEEN)[0]] for name in tensors},
        save_distributed=True,
        enable_consolidation=True,
    )
    pending = async_save(tensors, storage_writer=writer, process_group=process_group)
    return pending if isinstance(pending, Future) else pending.upload_completion


def whole_tensors(folder: Path | str) -> dict[str, dict[str, Tensor]]:
    """Les tenseurs entiers que `save_shards` a réunis, par groupe ; projetés depuis le disque."""
    folder = Path(folder)
    groups: dict[str, dict[str, Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as content:
            for key in content.keys():  # noqa: SIM118 — safe_open n'est pas un dictionnaire
                group, _, name = key.partition(_BETWEEN)
                groups.setdefault(group, {})[name] = content.get_tensor(key)
    return groups
