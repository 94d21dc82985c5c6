"""Un modèle a-t-il changé depuis son écriture ? Ses sommes de contrôle le disent, s'il en a."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gpt_architecture.errors import CheckpointError, ModelFileError
from gpt_architecture.formats.checkpoint_files import read_checkpoint
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.formats.open import Kind
from gpt_architecture.formats.tensor_files import (
    altered,
    check_seal,
    damaged_records,
    read_safetensors,
)
from gpt_architecture.interop.hf import CONFIG, weight_files
from gpt_architecture.storage import open_regular


def check_integrity(kind: Kind, path: Path | str) -> bool | None:
    """Vrai si rien n'a changé depuis l'écriture ; None si rien ne permet de le savoir.

    Raises:
        ModelFileError: quelque chose a changé.
    """
    path = Path(path)
    if kind == "model":
        read_model(path, verify=True)
        return True
    if kind == "checkpoint":
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            raise ModelFileError(
                error.found, expected=error.expected, remedy=error.remedy
            ) from None
        return True
    if kind in ("gguf", "onnx"):
        return None
    beside = kind == "safetensors" and (path.parent / CONFIG).exists()
    folder = path.parent if beside else path
    files = weight_files(folder) if beside or kind == "hf" else [path]
    found = [_is_intact(file) for file in files]  # tous sont relus
    return all(found) or None


def _is_intact(path: Path) -> bool:
    """Vrai si le fichier a des sommes de contrôle et n'a pas changé depuis son écriture.

    Raises:
        ModelFileError: il a changé.
    """
    with open_regular(path) as file:
        archive = zipfile.is_zipfile(file)
    if not archive:
        is_legacy = path.suffix != ".safetensors"  # avant PyTorch 1.6
        return not is_legacy and check_seal(path, *read_safetensors(path, verify=False))
    damaged = damaged_records(path)
    if damaged:
        raise altered(path, f"l'enregistrement {damaged[0]}")
    return True
