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
from torch import Tensor

from gpt_architecture.errors import ModelFileError, reason
from gpt_architecture.storage import check_regular, parse_json

SEAL = "crc32"
"""Clé, parmi les métadonnées d'un fichier safetensors, des sommes de contrôle (JSON)."""

CHECKED_BELOW = 1 << 30
"""Octets jusqu'auxquels un modèle est vérifié à chaque chargement : quelques dixièmes de seconde
par Gio. Au-delà, il l'est quand on le demande."""

_WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Ce que torch.compile, DataParallel, FSDP et le recalcul ajoutent au nom d'un poids."""

_CHUNK = 1 << 22
_THREADS = 2  # le calcul d'un CRC32 rend la main à l'autre
_SHARED = 2  # une tête liée peut être l'embedding vu autrement


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


def read_torch(path: Path | str) -> Any:
    """Lit un fichier de PyTorch sans exécuter le pickle qu'il porte.

    Les tenseurs sont projetés en mémoire : leurs valeurs ne sont lues que si l'on s'en sert.

    Raises:
        ModelFileError: fichier illisible, ou qui contient autre chose que des poids.
    """
    path = Path(path)
    try:
        check_regular(path)
        if zipfile.is_zipfile(path):
            _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # avant PyTorch 1.6, le fichier n'était pas une archive : il se lit sans projection
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path} contient autre chose que des poids (objet Python refusé)",
            expected="un fichier de poids",
            remedy="n'ouvrez pas ce fichier et demandez-en un sûr à sa source",
        ) from error
    except OSError as error:
        _damaged(path, reason(error), error)
    except Exception as error:  # un fichier abîmé fait lever n'importe quoi à son lecteur
        _damaged(path, "son contenu est incomplet ou abîmé", error)


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
    """Les enregistrements d'un fichier de `torch.save` qui ont changé depuis son écriture.

    Returns:
        Leurs noms, sans le dossier commun : « data/7 », « data.pkl » ; rien pour un fichier sans
        sommes de contrôle, d'avant PyTorch 1.6 ou écrit sans elles (aucune n'est alors juste).

    Raises:
        ModelFileError: fichier illisible.
    """
    path = Path(path)
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(_THREADS) as pool:
            names = archive.namelist()
            sound = list(pool.map(lambda name: _is_sound(archive, name), names))
    except (OSError, zipfile.BadZipFile) as error:
        _damaged(path, reason(error) if isinstance(error, OSError) else "archive abîmée", error)
    altered_names = [name for name, kept in zip(names, sound, strict=True) if not kept]
    return [name.partition("/")[2] for name in altered_names] if any(sound) else []


def safetensors_header(path: Path | str) -> tuple[dict[str, str], list[TensorInfo]]:
    """Les métadonnées et les tenseurs d'un fichier safetensors, sans leurs valeurs.

    Raises:
        ModelFileError: fichier absent ou abîmé.
    """
    path = Path(path)
    with _opened(path) as content:
        views = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
        infos = [
            TensorInfo(name=name, shape=tuple(view.get_shape()), dtype=str(view.get_dtype()))
            for name, view in views.items()
        ]
        return dict(content.metadata() or {}), infos


def read_safetensors(
    path: Path | str, *, verify: bool | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Les métadonnées et les tenseurs d'un fichier safetensors, projetés en mémoire.

    Args:
        path: le fichier.
        verify: relit les sommes de contrôle, s'il en a ; None : s'il fait moins de
            `CHECKED_BELOW`.

    Raises:
        ModelFileError: fichier absent ou abîmé.
    """
    path = Path(path)
    with _opened(path) as content:
        metadata = dict(content.metadata() or {})
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if verify or (verify is None and is_cheap_to_check(path)):
        check_seal(path, metadata, tensors)
    return metadata, _unwrapped(path, tensors)


def is_cheap_to_check(path: Path | str) -> bool:
    """Vrai si le fichier se relit en moins de temps qu'il n'en faut pour s'en servir."""
    path = Path(path)
    return path.stat().st_size < CHECKED_BELOW


def sealed(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Les métadonnées d'un fichier safetensors, et les sommes de contrôle de tout ce qu'il dit."""
    return {**metadata, SEAL: json.dumps(_checksums(metadata, tensors))}


def check_seal(
    path: Path | str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> bool:
    """Compare un fichier safetensors à ses sommes de contrôle.

    Returns:
        Vrai s'il en a.

    Raises:
        ModelFileError: il a changé depuis son écriture.
    """
    path = Path(path)
    if SEAL not in metadata:
        return False
    try:
        kept = parse_json(metadata[SEAL])
    except ValueError:
        kept = None
    rest = {key: value for key, value in metadata.items() if key != SEAL}
    found = _checksums(rest, tensors)
    if not isinstance(kept, dict) or kept.keys() != found.keys() or kept[""] != found[""]:
        raise altered(path, "sa description")
    for name, checksum in found.items():
        if kept[name] != checksum:
            raise altered(path, f"le tenseur {name}")
    return True


def altered(path: Path | str, what: str) -> ModelFileError:
    """L'erreur d'un fichier dont `what` a changé depuis son écriture."""
    path = Path(path)
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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Un fichier safetensors ouvert ; ses refus sont dits en français."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as content:
            yield content
    except OSError as error:
        _damaged(path, reason(error), error, "un fichier safetensors complet")
    except SafetensorError as error:
        said = "son en-tête et sa longueur ne s'accordent pas"
        _damaged(path, said, error, "un fichier safetensors complet")


def _check_archive(path: Path) -> None:
    """Refuse une archive comprimée : quelques octets y valent des Gio, et PyTorch n'en écrit pas.

    Raises:
        ValueError: elle l'est.
    """
    with zipfile.ZipFile(path) as archive:
        if any(info.file_size > info.compress_size for info in archive.infolist()):
            raise ValueError("archive comprimée")


def _is_sound(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as record:
            while record.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error):
        return False
    return True


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


def _damaged(
    path: Path, found: str, cause: Exception, expected: str = "un fichier de poids complet"
) -> NoReturn:
    raise ModelFileError(
        f"{path} est illisible : {found}",
        expected=expected,
        remedy="recopiez-le depuis sa source",
    ) from cause
