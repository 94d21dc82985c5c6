"""Trouver et lire un modèle, quelle que soit la façon de le nommer.

Un fichier, un point de reprise, le dossier d'un entraînement, un dossier de Transformers, un nom
du Hub, ou des adaptateurs dont le modèle de départ est connu : toute l'interface les accepte ici.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.adapter_file import (
    ADAPTER_NAME,
    AdapterFile,
    is_adapter,
    read_adapter,
)
from gpt_architecture.formats.checkpoint_files import MANIFEST
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.open import detect, read_source
from gpt_architecture.interop.hf import CONFIG
from gpt_architecture.interop.hub import download, hub_name
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore

_LOADABLE = ("model", "checkpoint", "hf", "nanogpt", "book", "quantized")

logger = logging.getLogger(__name__)

MODEL_NAME = "gpt-model.pt"
"""Le fichier qu'écrit un entraînement, dans son dossier."""


def locate(source: Path | str) -> Path:
    """Le fichier ou le dossier à lire pour ce nom.

    Args:
        source: chemin, ou `hub:DÉPÔT`, alors téléchargé. Du dossier d'un entraînement, c'est son
            modèle, à défaut ses adaptateurs, à défaut son dernier point de reprise intact.

    Raises:
        MissingDependencyError: huggingface_hub manque.
        ModelFileError: dépôt inconnu, ou réseau absent.
    """
    name = hub_name(str(source))
    if name is not None:
        logger.info("Téléchargement de %s depuis le Hub de Hugging Face…", name)
        return download(name)
    path = Path(source)
    if not path.is_dir() or (path / MANIFEST).exists() or (path / CONFIG).exists():
        return path
    for file in (path / MODEL_NAME, path / ADAPTER_NAME):
        if file.is_file():
            return file
    store = CheckpointStore(path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path)
    latest = store.latest()
    if latest is None:
        return path
    logger.info("%s : point de reprise de l'étape %d.", path, latest.step)
    return latest.path


def check_source(source: Path | str) -> Path:
    """Vérifie, sans lire de poids, que ce nom désigne un modèle ; rend son chemin.

    Raises:
        ModelFileError: absent, illisible, ou d'un genre qui ne se charge pas.
    """
    path = locate(source)
    if is_adapter(path):
        return path
    if not path.exists() or detect(path) not in _LOADABLE:
        read_source(path)  # dit pourquoi, ou lit des poids à côté de leur config.json
    return path


def short_name(source: Path | str, located: Path | str) -> str:
    """Le nom court d'un modèle : celui de son fichier, de son dossier, ou de son dépôt."""
    located = Path(located)
    name = hub_name(str(source))
    return located.stem if name is None else name.rpartition("/")[2]


def read_any(
    source: Path | str, *, tokenizer: Tokenizer | None = None, n_heads: int | None = None
) -> ModelFile:
    """Lit un modèle d'ici ou d'ailleurs ; des adaptateurs sont fondus dans leur modèle de départ.

    Args:
        source: voir `locate`.
        tokenizer: voir `formats.open.read_source`.
        n_heads: de même.

    Raises:
        ModelFileError: absent, illisible, dangereux, ou adaptateurs au modèle de départ inconnu.
        TokenizerError: vocabulaire inconnu.
    """
    path = locate(source)
    if is_adapter(path):
        return read_adapted(path)
    content = read_source(path, tokenizer=tokenizer, n_heads=n_heads)
    name = hub_name(str(source))
    if name is None:
        return content
    origin = {"source": f"https://huggingface.co/{name}", "name": name}
    return replace(content, metadata={**content.metadata, **origin})


def read_adapted(path: Path | str) -> ModelFile:
    """Le modèle de départ d'adaptateurs, retrouvé, où ils sont fondus.

    Rien n'est téléchargé : seul un modèle déjà sur le disque, et d'empreinte juste, convient.

    Raises:
        ModelFileError: fichier abîmé, ou modèle de départ introuvable.
    """
    path = Path(path)
    adapter = read_adapter(path)
    for candidate in dict.fromkeys(_bases(path, adapter)):
        try:
            content = adapter.merged(read_source(locate(candidate)))
        except ModelFileError:  # un autre modèle, ou rien de lisible
            continue
        logger.info("Adaptateurs fondus dans leur modèle de départ, %s.", candidate)
        return content
    where = "" if adapter.base_path is None else f", qui était {adapter.base_path}"
    raise ModelFileError(
        f"{path} ne contient que des adaptateurs, et leur modèle de départ est introuvable{where}",
        expected="le modèle dont l'affinage est parti",
        remedy="fondez-les d'abord en le nommant : gpt-architecture merge MODÈLE "
        f"{path} --out {MODEL_NAME}",
    )


def _bases(path: Path, adapter: AdapterFile) -> Iterator[Path]:
    """Où peut être le modèle de départ : à sa place d'alors, ou près des adaptateurs."""
    name = adapter.base_path
    if name is None or hub_name(name) is not None:
        return
    for folder in (path.parent, Path()):
        for candidate in (folder / name, folder / Path(name).name):
            if candidate.exists():
                yield candidate
