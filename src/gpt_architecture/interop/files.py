"""Lire les fichiers des autres sans rien exécuter, écrire un dossier entier ou pas du tout."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt_architecture.errors import ModelFileError, OutputError, reason

MAX_JSON = 64 << 20
"""Taille d'un fichier JSON, au plus : le `tokenizer.json` d'un grand vocabulaire en fait dix."""


def read_json(path: Path | str, limit: int = MAX_JSON) -> dict[str, Any]:
    """Lit un objet JSON d'au plus `limit` octets.

    Raises:
        ModelFileError: fichier absent, trop gros, ou d'un autre contenu.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        content = json.loads(data) if len(data) <= limit else None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} est illisible ({reason(error)})",
            expected="un fichier JSON",
            remedy="recopiez le dossier d'origine",
        ) from None
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path} n'est pas un objet JSON d'au plus {limit >> 20} Mio",
            expected="un objet JSON",
            remedy="recopiez le dossier d'origine",
        )
    return content


def read_torch(path: Path | str) -> Any:
    """Lit un fichier de PyTorch sans exécuter le pickle qu'il porte.

    Les tenseurs sont projetés en mémoire : leurs valeurs ne sont lues que si l'on s'en sert.

    Raises:
        ModelFileError: fichier illisible, ou qui contient autre chose que des poids.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # avant PyTorch 1.6, le fichier n'était pas une archive : il se lit sans projection
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelFileError(
            f"{path} contient autre chose que des poids (objet Python refusé)",
            expected="un fichier de poids",
            remedy="n'ouvrez pas ce fichier et demandez-en un sûr à sa source",
        ) from None
    except Exception as error:  # un fichier abîmé fait lever n'importe quoi à son lecteur
        raise ModelFileError(
            f"{path} est illisible : {reason(error)}",
            expected="un fichier de poids complet",
            remedy="recopiez-le depuis sa source",
        ) from None


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Un tenseur dont on n'a pas lu les valeurs.

    Attributes:
        name: son nom.
        shape: sa forme.
        dtype: son type, comme safetensors l'écrit (« F32 »).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


def safetensors_header(path: Path | str) -> tuple[dict[str, str], list[TensorInfo]]:
    """Les métadonnées et les tenseurs d'un fichier safetensors, sans leurs valeurs.

    Raises:
        ModelFileError: fichier absent ou abîmé.
    """
    try:
        with safe_open(path, framework="pt") as content:
            views = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            infos = [
                TensorInfo(name=name, shape=tuple(view.get_shape()), dtype=str(view.get_dtype()))
                for name, view in views.items()
            ]
            return dict(content.metadata() or {}), infos
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """Les tenseurs d'un fichier safetensors, projetés en mémoire.

    Raises:
        ModelFileError: fichier absent ou abîmé.
    """
    try:
        with safe_open(path, framework="pt") as content:
            return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path | str, error: BaseException) -> ModelFileError:
    return ModelFileError(
        f"{path} est illisible : {reason(error)}",
        expected="un fichier safetensors complet",
        remedy="recopiez-le depuis sa source",
    )


def named_tensors(path: Path | str, content: object) -> dict[str, Tensor]:
    """`content`, vérifié : des tenseurs par nom.

    Raises:
        ModelFileError: c'est autre chose.
    """
    if isinstance(content, Mapping) and content:
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
        if len(tensors) == len(content) and all(isinstance(name, str) for name in tensors):
            return tensors
    raise ModelFileError(
        f"{path} contient autre chose que des tenseurs nommés",
        expected="un dictionnaire de poids",
        remedy="donnez le fichier de poids d'un GPT-2",
    )


def write_directory(
    path: Path | str, fill: Callable[[Path], object], *, force: bool = False
) -> None:
    """Fait remplir un dossier provisoire voisin, le vide sur disque, puis le renomme en `path`.

    Args:
        path: dossier à écrire ; son parent est créé au besoin.
        fill: reçoit le dossier provisoire et y écrit.
        force: remplace le dossier `path` s'il existe, une fois le nouveau prêt.

    Raises:
        OutputError: `path` existe sans `force`, ou le système refuse ; rien n'a changé.
    """
    path = Path(path)
    check_free(path, force=force, directory=True)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        content = temporary / "contenu"
        content.mkdir()
        fill(content)
        mode = content.stat().st_mode & 0o666
        for file in content.iterdir():
            file.chmod(mode)  # safetensors écrit en 0600
            _sync(file)
        _sync(content)
        if path.exists():
            path.rename(temporary / "ancien")
        content.rename(path)
        _sync(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place ou donnez une autre destination",
        ) from error
    finally:
        if temporary is not None:
            old = temporary / "ancien"
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)


def check_free(path: Path | str, *, force: bool, directory: bool) -> None:
    """Refuse une destination déjà prise, sauf si l'on a demandé de la remplacer.

    Args:
        path: destination.
        force: accepte de la remplacer, si elle est du même genre que ce qu'on écrit.
        directory: on écrit un dossier ; sinon un fichier.

    Raises:
        OutputError: elle existe.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not force):
        raise OutputError(
            f"{path} existe déjà",
            expected="un nom libre",
            remedy="ajoutez `force` pour le remplacer, ou donnez une autre destination",
        )
    if not path.exists():
        return
    ours = path.is_dir() and (not any(path.iterdir()) or (path / "config.json").is_file())
    if path.is_dir() != directory or (directory and not ours):
        raise OutputError(  # force n'efface pas un dossier personnel
            f"{path} n'est pas un modèle exporté qu'on puisse remplacer",
            expected="un nom libre, ou le même genre de modèle",
            remedy="donnez une autre destination",
        )


def _sync(path: Path) -> None:
    """Vide un fichier ou un dossier sur disque (POSIX seul le permet pour un dossier)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
