"""Dire ce qu'est un modèle sans lire ses poids : en-têtes, formes, provenance, empreintes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.door import Use, open_model
from gpt_architecture.formats.tensor_files import TensorInfo
from gpt_architecture.storage import open_regular

OnProgress = Callable[[int, int], None]
"""Reçoit les octets lus et leur total."""

_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Un fichier : son nom, sa taille en octets, son empreinte si elle a été calculée."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Ce qu'on sait d'un modèle sans avoir lu ses poids.

    Attributes:
        kind: son genre, pour un programme.
        name: de même, pour une personne.
        path: où il est.
        config: sa forme ; None si rien ne la dit.
        parameters: paramètres distincts, une tête de sortie liée comptée une fois.
        tensors: chaque tenseur écrit.
        tokenizer: nom, taille et empreinte du vocabulaire ; ou `problem`, ce qui manque.
        provenance: ce que l'entraînement ou l'export a noté.
        files: les fichiers lus.
        intact: vrai si les sommes de contrôle ont été relues ; None : on ne l'a pas demandé, ou
            il n'y en a pas.
    """

    kind: str
    name: str
    path: Path
    config: GPTConfig | None
    parameters: int
    tensors: tuple[TensorInfo, ...]
    tokenizer: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: tuple[FileInfo, ...]
    intact: bool | None = None


def inspect_model(
    path: Path | str,
    *,
    hashes: bool = True,
    check: bool = False,
    on_progress: OnProgress | None = None,
) -> Inspection:
    """Examine un modèle, d'ici ou d'ailleurs.

    Args:
        path: fichier ou dossier.
        hashes: calcule l'empreinte de chaque fichier.
        check: relit les sommes de contrôle que le modèle porte.
        on_progress: suit le calcul des empreintes, seul moment où les fichiers sont parcourus.

    Raises:
        ModelFileError: absent, inconnu, abîmé au point de ne pas dire ce qu'il est, ou, avec
            `check`, changé depuis son écriture.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError.missing(
            path, expected="un fichier ou un dossier de modèle", remedy="corrigez son chemin"
        )
    opened = open_model(path, use=Use.INSPECT)
    config, tensors = opened.config, opened.facts.tensors
    return Inspection(
        kind=opened.kind,
        name=opened.format.name,
        path=opened.path,
        config=config,
        parameters=sum(prod(info.shape) for info in tensors)
        if config is None
        else config.num_parameters(),
        tensors=tensors,
        tokenizer=opened.tokenizer,
        provenance=opened.metadata,
        files=tuple(_files(opened.path, hashes=hashes, on_progress=on_progress)),
        intact=opened.is_intact() if check else None,
    )


def _files(path: Path, *, hashes: bool, on_progress: OnProgress | None) -> Iterator[FileInfo]:
    """Les fichiers du modèle et leurs empreintes ; un lien vers un fichier est suivi."""
    paths = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    sizes = {file: file.stat().st_size for file in paths}
    total, done = sum(sizes.values()), 0
    for file, size in sizes.items():
        if not hashes:
            yield FileInfo(name=file.name, size=size, sha256=None)
            continue
        digest = hashlib.sha256()
        try:
            with open_regular(file) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done, total)
        except OSError as error:
            raise ModelFileError.unreadable(
                file, error, expected="un fichier de modèle", remedy="corrigez ses droits"
            ) from None
        yield FileInfo(name=file.name, size=size, sha256=digest.hexdigest())
