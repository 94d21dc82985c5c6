"""Les fichiers de tenseurs de PyTorch et de safetensors : lus sans rien exécuter ni croire.

Ce qu'un fichier annonce est comparé à ce qu'il contient avant que rien n'en soit alloué. Son
intégrité se vérifie : l'archive de `torch.save` porte le CRC32 de chaque enregistrement, que
PyTorch ne relit pas ; aux fichiers safetensors, qui n'en ont pas, les nôtres l'ajoutent parmi les
métadonnées (`sealed`).
"""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt_architecture.errors import ModelFileError, is_out_of_memory, reason
from gpt_architecture.storage import (
    archives,
    check_regular,
    open_regular,
    parse_json,
    system_error,
)
from gpt_architecture.storage.archives import CHECKED_BELOW

SEAL = "crc32"
"""Clé, parmi les métadonnées d'un fichier safetensors, des sommes de contrôle (JSON)."""

_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Ce que torch.compile, DataParallel, FSDP et le recalcul ajoutent au nom d'un poids."""

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_COMPLETE, _WHOLE = "un fichier de poids complet", "un fichier safetensors complet"
_UNMATCHED = "son en-tête et sa longueur ne s'accordent pas"
_THREADS = 2  # le calcul d'un CRC32 rend la main à l'autre
_SHARED = 2  # une tête de sortie liée peut être l'embedding vu autrement


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


def tensor_infos(state: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    """Les tenseurs d'un `state_dict`, sans leurs valeurs."""
    return tuple(
        TensorInfo(name=name, shape=tuple(tensor.shape), dtype=_DTYPES.get(kind, kind.upper()))
        for name, tensor in state.items()
        for kind in [str(tensor.dtype).removeprefix("torch.")]
    )


def read_torch(path: Path | str) -> Any:
    """Lit un fichier de PyTorch sans exécuter le pickle qu'il porte.

    Les tenseurs sont projetés en mémoire : leurs valeurs ne sont lues que si l'on s'en sert.

    Raises:
        ModelFileError: fichier illisible, ou qui contient autre chose que des poids.
    """
    path = Path(path)
    with refusals(path, "son contenu est incomplet ou abîmé", _COMPLETE):
        check_regular(path)
        is_archive = zipfile.is_zipfile(path)  # non : il date d'avant PyTorch 1.6
        if is_archive:
            _check_archive(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        except pickle.UnpicklingError as error:
            raise ModelFileError(
                f"{path} contient autre chose que des poids (objet Python refusé)",
                expected="un fichier de poids",
                remedy="n'ouvrez pas ce fichier et demandez-en un sûr à sa source",
            ) from error


@contextmanager
def refusals(path: Path | str, why: str, expected: str) -> Iterator[None]:
    """Un fichier abîmé fait lever n'importe quoi à son lecteur : une phrase le dit.

    Args:
        path: le fichier.
        why: ce qu'on lui reproche, si ce n'est le système qui le refuse.
        expected: ce qu'on attendait.

    Raises:
        ModelFileError: la lecture a échoué ; le manque de mémoire, lui, est rendu tel quel.
    """
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        fault = error if isinstance(error, OSError) else why
        raise ModelFileError.unreadable(path, fault, expected=expected) from error


def named_tensors(path: Path | str, content: object) -> dict[str, Tensor]:
    """`content`, lu dans `path` et vérifié : des tenseurs par nom, dont il a toutes les valeurs.

    Ce qu'ajoutent les enveloppes d'un modèle est ôté des noms (`bare_name`).

    Un pickle sait annoncer des formes immenses pour quelques octets : en répétant une ligne par
    un pas nul, en taillant mille tenseurs dans un seul, ou sans aucune valeur.

    Raises:
        ModelFileError: c'est autre chose, ou un poids y est deux fois.
    """
    path = Path(path)
    if not isinstance(content, Mapping) or not content:
        _refuse_content(path, "contient autre chose que des tenseurs nommés")
    sizes: dict[object, int] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            _refuse_content(path, "contient autre chose que des tenseurs nommés")
        plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)
        if not plain or tensor.device.type != "cpu":
            _refuse_content(path, f": {name[:80]} n'est pas un tenseur ordinaire")
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        sizes[storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()] = size
        if size > storage.nbytes():
            _refuse_content(
                path, f": {name[:80]} annonce {size} octets, le fichier en a {storage.nbytes()}"
            )
    if sum(sizes.values()) > _SHARED * path.stat().st_size:
        _refuse_content(path, f"annonce {sum(sizes.values())} octets de poids, bien plus qu'il n'a")
    return _unwrapped(path, content)


def bare_name(name: str) -> str:
    """Le nom d'un poids, sans ce qu'ajoutent les enveloppes d'un modèle (`_orig_mod.`…)."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def damaged_records(path: Path | str) -> list[str]:
    """Voir `storage.archives.damaged_records`.

    Raises:
        ModelFileError: fichier illisible.
    """
    path = Path(path)
    with refusals(path, "archive abîmée", _COMPLETE):
        return archives.damaged_records(path)


class SafetensorsFile:
    """Un fichier safetensors ouvert : son en-tête est lu une fois, ses tenseurs quand on les veut.

    Attributes:
        path: le fichier.
        metadata: ses métadonnées.
        infos: ses tenseurs, sans leurs valeurs.

    Raises:
        ModelFileError: fichier absent ou abîmé.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with refusals(self.path, _UNMATCHED, _WHOLE):
            check_regular(self.path)
            content: Any = safe_open(self.path, framework="pt")
            self._content = content
            self.metadata: dict[str, str] = dict(content.metadata() or {})
            views = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            self.infos = tuple(
                TensorInfo(name=name, shape=tuple(view.get_shape()), dtype=str(view.get_dtype()))
                for name, view in views.items()
            )

    def tensors(self, *, verify: bool | None = None) -> dict[str, Tensor]:
        """Les tenseurs, projetés en mémoire.

        Args:
            verify: relit les sommes de contrôle, s'il en a ; None : s'il fait moins de
                `CHECKED_BELOW`.

        Raises:
            ModelFileError: fichier abîmé.
        """
        tensors = self._values()
        if verify or (verify is None and is_cheap_to_check(self.path)):
            self._check_seal(tensors)
        return _unwrapped(self.path, tensors)

    def is_sealed(self) -> bool:
        """Vrai s'il a des sommes de contrôle, relues et justes.

        Raises:
            ModelFileError: il a changé depuis son écriture.
        """
        return self._check_seal(self._values())

    def _values(self) -> dict[str, Tensor]:
        with refusals(self.path, _UNMATCHED, _WHOLE):
            return {info.name: self._content.get_tensor(info.name) for info in self.infos}

    def _check_seal(self, tensors: Mapping[str, Tensor]) -> bool:
        """Compare le fichier à ses sommes de contrôle ; vrai s'il en a."""
        if SEAL not in self.metadata:
            return False
        try:
            kept = parse_json(self.metadata[SEAL])
        except ValueError:
            kept = None
        rest = {key: value for key, value in self.metadata.items() if key != SEAL}
        found = _checksums(rest, tensors)
        if not isinstance(kept, dict) or kept.keys() != found.keys() or kept[""] != found[""]:
            raise altered(self.path, "sa description")
        for name, checksum in found.items():
            if kept[name] != checksum:
                raise altered(self.path, f"le tenseur {name}")
        return True


def save_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Écrit un fichier safetensors ; `write_atomically` ou `write_directory` lui donnent sa place.

    Args:
        path: le fichier.
        tensors: sur processeur et contigus.
        metadata: scellées avec les tenseurs (`SEAL`) ; None : le fichier n'en a pas.

    Raises:
        OSError: le disque refuse.
        RuntimeError: des tenseurs se recouvrent en mémoire.
    """
    texts = None if metadata is None else sealed(metadata, tensors)
    try:
        save_file(dict(tensors), path, metadata=texts)
    except SafetensorError as error:
        raise system_error(error, path) from error


def is_cheap_to_check(path: Path | str) -> bool:
    """Vrai si le fichier se relit en moins de temps qu'il n'en faut pour s'en servir."""
    return Path(path).stat().st_size < CHECKED_BELOW


def sealed(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Les métadonnées d'un fichier safetensors, et les sommes de contrôle de tout ce qu'il dit."""
    return {**metadata, SEAL: json.dumps(_checksums(metadata, tensors))}


def is_intact(path: Path | str) -> bool:
    """Vrai si le fichier a des sommes de contrôle et n'a pas changé depuis son écriture.

    Raises:
        ModelFileError: il a changé.
    """
    path = Path(path)
    with open_regular(path) as file:
        archive = zipfile.is_zipfile(file)
    if not archive:
        is_legacy = path.suffix != ".safetensors"  # avant PyTorch 1.6
        return not is_legacy and SafetensorsFile(path).is_sealed()
    damaged = damaged_records(path)
    if damaged:
        raise altered(path, f"l'enregistrement {damaged[0]}")
    return True


def altered(path: Path | str, what: str) -> ModelFileError:
    """L'erreur d'un fichier dont `what` a changé depuis son écriture."""
    return ModelFileError(
        f"{path} est abîmé : {what} a changé depuis son écriture",
        expected="le fichier tel qu'il a été écrit, au bit près",
        remedy="recopiez-le depuis sa source",
    )


def _checksums(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC32 de chaque tenseur, par nom, et de tout le reste, sous le nom vide."""
    shapes = [[name, str(t.dtype), list(t.shape)] for name, t in sorted(tensors.items())]
    rest = json.dumps([sorted(metadata.items()), shapes]).encode()
    with ThreadPoolExecutor(_THREADS) as pool:
        checksums = pool.map(_checksum, tensors.values())
        return {"": zlib.crc32(rest), **dict(zip(tensors, checksums, strict=True))}


def _checksum(tensor: Tensor) -> int:
    flat = tensor.detach().to("cpu").contiguous().view(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0


def safetensors_fault(error: Exception) -> str:
    """Ce que safetensors ou le système reproche à un fichier."""
    return _UNMATCHED if isinstance(error, SafetensorError) else reason(error)


def _check_archive(path: Path) -> None:
    """Refuse une archive comprimée : quelques octets y valent des Gio, et PyTorch n'en écrit pas.

    Raises:
        ValueError: elle l'est.
    """
    with zipfile.ZipFile(path) as archive:
        if any(info.file_size > info.compress_size for info in archive.infolist()):
            raise ValueError("archive comprimée")


def _unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = {bare_name(name): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise ModelFileError(
            f"{path} tient deux fois le même poids, avec et sans enveloppe",
            expected="chaque poids une fois",
            remedy="enregistrez le modèle sans enveloppe, ou avec une seule",
        )
    return bare


def _refuse_content(path: Path, found: str) -> NoReturn:
    raise ModelFileError(
        f"{path} {found}",
        expected="un dictionnaire de poids",
        remedy="donnez le fichier de poids d'un GPT-2",
    )
