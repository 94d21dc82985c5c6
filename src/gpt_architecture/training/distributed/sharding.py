"""L'état réparti sur disque, par `torch.distributed.checkpoint` (DCP), en safetensors.

Chaque rang écrit ses morceaux dans un fichier à lui, avec leur place dans le tenseur entier ; ils
sont ensuite réunis, et se relisent avec n'importe quel nombre de rangs. Le format natif de DCP
range son index dans un pickle : celui de Hugging Face, employé ici, n'en a pas, et rien n'est
exécuté à la lecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

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
