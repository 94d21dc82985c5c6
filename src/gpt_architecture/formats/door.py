"""La porte : un nom entre, un modèle reconnu en sort, dont rien n'est lu deux fois.

Un fichier, un point de reprise, le dossier d'un entraînement, ou ce que d'autres paquets ont
inscrit (`register`) : leurs formats, leurs adresses comme `hub:gpt2`. Un modèle est reconnu à son
contenu, quel que soit son nom.
"""

from __future__ import annotations

import logging
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ModelFileError, TokenizerError
from gpt_architecture.formats.adapter_file import ADAPTER_NAME, AdapterFile, not_adapters
from gpt_architecture.formats.checkpoint import CHECKPOINTS, CheckpointFolder
from gpt_architecture.formats.model_file import MODEL_NAME, ModelFile, missing_model
from gpt_architecture.formats.tensor_files import (
    SafetensorsFile,
    TensorInfo,
    is_intact,
    read_torch,
)
from gpt_architecture.storage import exists, is_folder, open_regular

_TORCH_MAGICS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
_SAFETENSORS_HEADER = 100 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Ce qu'un modèle dit de lui sans que ses poids ne soient lus.

    Attributes:
        config: sa forme ; None si rien ne la dit.
        tensors: chaque tenseur écrit.
        tokenizer: construit le vocabulaire, ou rend ce qu'on en sait ; None : rien n'en est dit.
        provenance: ce que l'entraînement ou l'export a noté.
    """

    config: GPTConfig | None = None
    tensors: tuple[TensorInfo, ...] = ()
    tokenizer: Callable[[], Tokenizer | Mapping[str, Any]] | None = None
    provenance: Mapping[str, Any]


class Use(IntEnum):
    """Ce qu'on sait faire d'un genre de modèle ; chaque degré comprend ceux d'avant."""

    INSPECT = 0
    """En dire la forme et la provenance."""
    LOAD = 1
    """En construire un modèle."""
    IMPORT = 2
    """En lire les poids, en fp32."""


class ModelFormat(ABC):
    """Un genre de modèle : comment il se reconnaît, se décrit et se lit.

    Attributes:
        kind: son nom, pour un programme.
        name: son nom, pour une personne.
        use: ce qu'on sait en faire.
        has_header: vrai si ce qu'il dit de lui se lit sans lire ses poids.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    use: ClassVar[Use] = Use.INSPECT
    has_header: ClassVar[bool] = True

    @abstractmethod
    def recognises(self, model: OpenedModel) -> bool:
        """Vrai si c'est un modèle de ce genre.

        Raises:
            ModelFileError: fichier illisible.
        """

    @abstractmethod
    def facts(self, model: OpenedModel) -> Facts:
        """Ce que le modèle dit de lui, poids non lus.

        Raises:
            ModelFileError: abîmé au point de ne pas le dire.
            MissingDependencyError: une bibliothèque manque pour le lire.
        """

    def holds_adapters(self, model: OpenedModel) -> bool:
        """Vrai si ce ne sont que des adaptateurs, qu'un modèle de départ attend."""
        return False

    def read_adapters(self, model: OpenedModel) -> AdapterFile:
        """Les adaptateurs que ce modèle tient ; voir `own_formats.read_adapters`."""
        raise not_adapters(model.path, f"{self.name}, et non des adaptateurs")

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Le modèle entier ; voir `OpenedModel.read`."""
        raise ModelFileError(
            f"{model.path} : {self.name}, dont les poids ne s'importent pas",
            expected=_names(Use.IMPORT),
            remedy="donnez le modèle dont ce fichier a été tiré",
        )

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Vrai si rien n'a changé depuis l'écriture ; None si rien ne permet de le savoir.

        Raises:
            ModelFileError: quelque chose a changé.
        """
        return is_intact(model.path) or None


@dataclass(frozen=True, kw_only=True)
class RemoteSource:
    """Une adresse qui n'est pas un chemin.

    Attributes:
        prefix: ce qui l'en distingue, comme `hub:`.
        fetch: nom → chemin, une fois là.
        origin: nom → ce que les métadonnées du modèle en disent.
    """

    prefix: str
    fetch: Callable[[str], Path]
    origin: Callable[[str], Mapping[str, Any]]


Designated = Callable[[Path], Path | None]
"""Dossier → le fichier de modèle qu'il désigne sans en être un ; None : il n'en désigne pas."""
_FORMATS: dict[str, ModelFormat] = {}
_REMOTES: dict[str, RemoteSource] = {}
_FOLDERS: list[Designated] = []


def register(*entries: ModelFormat | RemoteSource | Designated) -> None:
    """Inscrit des formats, essayés dans cet ordre après les précédents, et d'autres sources."""
    for entry in entries:
        if isinstance(entry, RemoteSource):
            _REMOTES[entry.prefix] = entry
        elif isinstance(entry, ModelFormat):
            _FORMATS[entry.kind] = entry
        else:
            _FOLDERS.append(entry)


class OpenedModel:
    """Un modèle, dont le fichier n'est lu qu'au besoin, et qu'une fois ; ses poids, que par `read`.

    Args:
        path: où il est.
        origin: ce que les métadonnées disent d'où il vient.
        use: ce qu'on veut en faire : le refus d'un fichier inconnu ne propose rien d'autre.

    Attributes:
        path: où il est.
        is_directory: vrai si c'est un dossier.
        format: son genre.

    Raises:
        ModelFileError: illisible, ou d'aucun genre inscrit.
    """

    def __init__(
        self, path: Path | str, origin: Mapping[str, Any] | None = None, use: Use = Use.LOAD
    ) -> None:
        self.path = Path(path)
        self.is_directory = self.path.is_dir()
        self._origin = origin or {}
        found = next((each for each in _FORMATS.values() if each.recognises(self)), None)
        if found is None:
            raise ModelFileError(
                f"{self.path} n'est pas un modèle connu",
                expected=_names(use),
                remedy="donnez le fichier ou le dossier d'un modèle",
            )
        self.format: ModelFormat = found

    @property
    def kind(self) -> str:
        """Le nom de son genre, pour un programme."""
        return self.format.kind

    @cached_property
    def facts(self) -> Facts:
        """Ce qu'il dit de lui ; voir `ModelFormat.facts`."""
        return self.format.facts(self)

    @property
    def config(self) -> GPTConfig | None:
        """Sa forme ; None si rien ne la dit."""
        return self.facts.config

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Sa provenance, en types simples."""
        return {**self.facts.provenance, **self._origin}

    @property
    def tokenizer(self) -> dict[str, Any]:
        """Nom, taille et empreinte de son vocabulaire ; ou `problem`, ce qui manque."""
        build = self.facts.tokenizer
        if build is None:
            return {"problem": "le fichier n'en dit rien"}
        try:
            found = build()
        except (TokenizerError, ModelFileError) as error:
            return {"problem": error.found}
        if isinstance(found, Mapping):
            return dict(found)
        return {
            "name": found.name,
            "vocab_size": found.vocab_size,
            "sha256": tokenizer_sha256(found.to_dict()),
        }

    @property
    def holds_adapters(self) -> bool:
        """Vrai si ce ne sont que des adaptateurs."""
        return self.format.holds_adapters(self)

    def is_intact(self) -> bool | None:
        """Voir `ModelFormat.is_intact`."""
        return self.format.is_intact(self)

    def read(self, *, tokenizer: Tokenizer | None = None, n_heads: int | None = None) -> ModelFile:
        """Le modèle entier ; des adaptateurs sont fondus dans leur modèle de départ.

        Args:
            tokenizer: vocabulaire des poids qui n'en portent pas ; il remplace celui d'un dossier.
            n_heads: nombre de têtes d'un fichier du livre, que rien ne dit.

        Raises:
            ModelFileError: illisible, abîmé, d'un genre qui ne s'importe pas, ou adaptateurs au
                modèle de départ introuvable.
            TokenizerError: vocabulaire inconnu.
        """
        content = self.format.read(self, tokenizer=tokenizer, n_heads=n_heads)
        if not self._origin:
            return content
        return replace(content, metadata={**content.metadata, **self._origin})

    @cached_property
    def head(self) -> bytes:
        """Les premiers octets du fichier ; rien d'un dossier.

        Raises:
            ModelFileError: fichier illisible.
        """
        if self.is_directory:
            return b""
        try:
            with open_regular(self.path) as file:
                return file.read(16)
        except OSError as error:
            remedy = "corrigez son chemin ou ses droits"
            raise ModelFileError.unreadable(
                self.path, error, expected="un fichier de modèle", remedy=remedy
            ) from None

    @cached_property
    def torch(self) -> Any:
        """Ce que tient un fichier de `torch.save` ; None si ce n'en est pas un.

        Raises:
            ModelFileError: fichier abîmé, ou qui contient autre chose que des poids.
        """
        return read_torch(self.path) if self._is_torch() else None

    @cached_property
    def safetensors(self) -> SafetensorsFile | None:
        """Le fichier safetensors, ouvert ; None si ce n'en est pas un.

        Raises:
            ModelFileError: fichier abîmé.
        """
        return SafetensorsFile(self.path) if self._is_safetensors() else None

    def _is_safetensors(self) -> bool:
        announced = int.from_bytes(self.head[:8], "little")
        return self.head[8:9] == b"{" and announced <= _SAFETENSORS_HEADER

    def _is_torch(self) -> bool:
        head = self.head  # un en-tête de 640 octets s'annonce comme commence un pickle
        return not self._is_safetensors() and (
            head.startswith(_TORCH_MAGICS) or (head[:2] == b"PK" and zipfile.is_zipfile(self.path))
        )


def open_model(source: Path | str, *, use: Use = Use.LOAD) -> OpenedModel:
    """Trouve un modèle et le reconnaît à son contenu.

    Args:
        source: voir `locate`.
        use: voir `OpenedModel`.

    Raises:
        MissingDependencyError: ce qui va le chercher manque.
        ModelFileError: absent, illisible, dangereux ou d'un genre inconnu.
    """
    path, (remote, name) = locate(source), _remote(source)
    if not exists(path):
        raise missing_model(path)
    return OpenedModel(path, None if remote is None else remote.origin(name), use)


def read_any(
    source: Path | str, *, tokenizer: Tokenizer | None = None, n_heads: int | None = None
) -> ModelFile:
    """Trouve, reconnaît et lit un modèle ; voir `open_model` et `OpenedModel.read`."""
    return open_model(source, use=Use.IMPORT).read(tokenizer=tokenizer, n_heads=n_heads)


def locate(source: Path | str) -> Path:
    """Le fichier ou le dossier à lire pour ce nom.

    Args:
        source: chemin, ou adresse inscrite (`hub:DÉPÔT`), alors téléchargée. D'un entraînement,
            c'est son modèle, à défaut ses adaptateurs, à défaut son dernier point de reprise
            intact ; d'un autre dossier, le fichier qu'il désigne.

    Raises:
        MissingDependencyError: ce qui va le chercher manque.
        ModelFileError: adresse inconnue, réseau absent, ou dossier qui ne désigne rien de lisible.
    """
    remote, name = _remote(source)
    if remote is not None:
        return remote.fetch(name)
    path = Path(source)
    if not is_folder(path) or _is_model(path):
        return path
    for file in (path / MODEL_NAME, path / ADAPTER_NAME):
        if file.is_file():
            return file
    checkpoints = path / CHECKPOINTS
    latest = CheckpointFolder(checkpoints if checkpoints.is_dir() else path).latest()
    if latest is None:
        found = (designated(path) for designated in _FOLDERS)
        return next((each for each in found if each is not None), path)
    logger.info("%s : point de reprise de l'étape %d.", path, latest.step)
    return latest.path


def check_source(source: Path | str) -> Path:
    """Vérifie, sans lire de poids, que ce nom désigne un modèle ; rend son chemin.

    Raises:
        ModelFileError: absent, illisible, ou d'un genre qui ne se charge pas.
    """
    opened = open_model(source)
    if not (opened.format.use >= Use.LOAD or opened.holds_adapters):
        opened.read()  # dit pourquoi, ou lit des poids à côté de leur config.json
    return opened.path


def short_name(source: Path | str, located: Path | str) -> str:
    """Le nom court d'un modèle : celui de son fichier, de son dossier, ou de son dépôt."""
    remote, name = _remote(source)
    return Path(located).stem if remote is None else name.rpartition("/")[2]


def is_remote(source: Path | str) -> bool:
    """Vrai si ce nom emploie une adresse inscrite."""
    return _remote(source)[0] is not None


def _remote(source: Path | str) -> tuple[RemoteSource | None, str]:
    """L'adresse inscrite que ce nom emploie, et ce qu'il y nomme."""
    text = str(source)
    remote = next((each for each in _REMOTES.values() if text.startswith(each.prefix)), None)
    return remote, text if remote is None else text.removeprefix(remote.prefix)


def _is_model(path: Path) -> bool:
    try:
        OpenedModel(path)
    except ModelFileError:
        return False
    return True


def _names(use: Use) -> str:
    """Les genres dont on sait faire cela."""
    *others, last = (each.name for each in _FORMATS.values() if each.use >= use)
    return f"{', '.join(others)} ou {last}" if others else last
