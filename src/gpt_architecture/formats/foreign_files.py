"""Lire le JSON des autres dans des bornes, écrire un dossier entier ou pas du tout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gpt_architecture import storage
from gpt_architecture.errors import ModelFileError, OutputError, reason
from gpt_architecture.storage import sweep, write_directory_atomically

MAX_JSON = 64 << 20
"""Taille d'un fichier JSON, au plus : le `tokenizer.json` d'un grand vocabulaire en fait dix."""


def read_json(path: Path | str, limit: int = MAX_JSON) -> dict[str, Any]:
    """Lit un objet JSON d'au plus `limit` octets.

    Raises:
        ModelFileError: fichier absent, trop gros, ou d'un autre contenu.
    """
    path = Path(path)
    try:
        content = storage.read_json(path, limit)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} est illisible ({reason(error)})",
            expected="un fichier JSON",
            remedy="recopiez le dossier d'origine",
        ) from None
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path} n'est pas un objet JSON",
            expected="un objet JSON",
            remedy="recopiez le dossier d'origine",
        )
    return content


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
    sweep(path.parent)  # rend d'abord son nom à ce qu'un processus tué remplaçait
    check_free(path, force=force, directory=True)
    try:
        write_directory_atomically(path, fill)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place ou donnez une autre destination",
        ) from error


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
    if path.is_symlink():
        raise OutputError(
            f"{path} est un lien",
            expected="un nom libre",
            remedy="donnez une autre destination",
        )
    if path.exists() and not force:
        raise OutputError(
            f"{path} existe déjà",
            expected="un nom libre",
            remedy="ajoutez `force` pour le remplacer, ou donnez une autre destination",
        )
    if not path.exists():
        return
    known = ("config.json", "adapter_config.json")
    ours = path.is_dir() and (
        not any(path.iterdir()) or any((path / name).is_file() for name in known)
    )
    if path.is_dir() != directory or (directory and not ours):
        raise OutputError(  # force n'efface pas un dossier personnel
            f"{path} n'est pas un modèle exporté qu'on puisse remplacer",
            expected="un nom libre, ou le même genre de modèle",
            remedy="donnez une autre destination",
        )
