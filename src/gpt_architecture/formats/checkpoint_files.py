"""Le contenu d'un point de reprise : un dossier de fichiers scellés par leurs empreintes.

`step-000040/` tient un fichier safetensors par groupe de tenseurs, `state.json`, et
`manifest.json` qui donne la taille et le sha256 de chacun, et le sien. safetensors ne vide
pas ses fichiers sur disque, ne voit pas un bit inversé et les crée en mode 0600 : ce module
s'en charge. Un fichier que le manifeste ne nomme pas n'est jamais ouvert.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from gpt_architecture.errors import CheckpointError, reason
from gpt_architecture.formats.tensor_files import safetensors_fault, save_safetensors
from gpt_architecture.storage import read_json_object, sync

FORMAT = "gpt-architecture/checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"

_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 1 << 20
_MAX_STATE = 64 << 20
_MAX_FILES = 1000
_INTACT = "un point de reprise complet et intact"
_OLDER = "reprenez-en un plus ancien ou recommencez l'entraînement"
_HEADER = 1 << 16  # marge par fichier : en-tête safetensors, manifeste, blocs du disque


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Un point de reprise lu ; ses tenseurs restent sur disque jusqu'à `tensors`.

    Attributes:
        path: son dossier.
        step: étape d'optimisation à laquelle il a été écrit.
        state: contenu de `state.json`.
        names: groupes de tenseurs, triés (« model » pour `model.safetensors`).
    """

    path: Path
    step: int
    state: Mapping[str, Any]
    names: tuple[str, ...]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Les tenseurs du groupe `name`, sur CPU, projetés en mémoire depuis le disque.

        Les modifier ne change pas le fichier.

        Raises:
            CheckpointError: groupe absent, ou fichier illisible.
        """
        if name not in self.names:
            raise CheckpointError(
                f"{self.path} n'a pas de tenseurs {name!r}",
                expected=", ".join(self.names) or "un point de reprise avec des tenseurs",
                remedy="donnez un point de reprise écrit par « gpt-architecture train »",
            )
        path = self.path / f"{name}{SUFFIX}"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            _refuse(path, f"est illisible ({safetensors_fault(error)})", cause=error)


def space_needed(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Place qu'occupera un point de reprise de ces tenseurs, en octets, un peu surestimée."""
    content = sum(
        t.numel() * t.element_size() for group in tensors.values() for t in group.values()
    )
    count = sum(len(group) for group in tensors.values())
    return content + 256 * count + _HEADER * (len(tensors) + 2)


def write_checkpoint(
    folder: Path | str,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    """Écrit un point de reprise dans `folder`, qui ne doit pas exister, et le vide sur disque.

    Les tenseurs contigus sur CPU sont écrits sans copie ; ceux d'un autre périphérique
    passent en mémoire un fichier à la fois.

    Args:
        folder: dossier à créer.
        step: étape d'optimisation.
        tensors: groupes de tenseurs nommés ; un tenseur donné sous deux noms est écrit deux
            fois.
        state: types simples, clés textuelles, nombres finis.

    Raises:
        OSError: le disque refuse.
        TypeError: `state` n'est pas fait de types simples.
        ValueError: nom de groupe imprévu, nombre non fini, tenseurs qui se recouvrent.
    """
    folder = Path(folder)
    for name in tensors:
        if not _GROUP.fullmatch(name):
            raise ValueError(f"nom de groupe de tenseurs imprévu : {name!r}")
    text = json.dumps(dict(state), allow_nan=False, ensure_ascii=False, indent=1).encode()
    if len(text) > _MAX_STATE:
        raise ValueError(f"{STATE} ferait {len(text)} octets, au plus {_MAX_STATE}")
    folder.mkdir(parents=True)
    state_path = folder / STATE
    state_path.write_bytes(text)
    mode = stat.S_IMODE(state_path.stat().st_mode)  # celui que l'umask donne ici
    with ThreadPoolExecutor(max_workers=1) as pool:  # scelle un fichier pendant qu'on écrit l'autre
        seals = {STATE: pool.submit(_seal, state_path)}
        for name, group in tensors.items():
            path = folder / f"{name}{SUFFIX}"
            _save_group(group, path)
            path.chmod(mode)
            seals[path.name] = pool.submit(_seal, path)
        files = {name: seal.result() for name, seal in seals.items()}
    body = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
    manifest = json.dumps({**body, "sha256": _digest(body)}, indent=1)
    (folder / MANIFEST).write_bytes(manifest.encode())
    sync(folder / MANIFEST)
    sync(folder)


def read_checkpoint(path: Path | str, *, verify: bool = True) -> Checkpoint:
    """Lit un point de reprise ; rien de ce qu'il contient n'est exécuté.

    Args:
        path: son dossier.
        verify: relit chaque fichier et compare son empreinte ; sinon seules les tailles et
            le manifeste sont contrôlés.

    Raises:
        CheckpointError: dossier absent, incomplet, abîmé ou d'un autre format.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"point de reprise introuvable : {path}",
            expected="un dossier écrit par « gpt-architecture train »",
            remedy="donnez un autre dossier ou recommencez l'entraînement",
        )
    manifest = _read_manifest(path / MANIFEST)
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name, entry in files.items():
        _check_size(path / name, entry["size"])
    if verify:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(lambda item: _verify(path / item[0], item[1]["sha256"]), files.items()))
    return Checkpoint(
        path=path,
        step=manifest["step"],
        state=read_json(path / STATE, _MAX_STATE),
        names=tuple(sorted(name.removesuffix(SUFFIX) for name in files if name != STATE)),
    )


def read_json(path: Path | str, limit: int) -> dict[str, Any]:
    """Lit un objet JSON d'au plus `limit` octets, aux nombres finis.

    Raises:
        CheckpointError: fichier absent, trop gros, ou d'un autre contenu.
    """
    path = Path(path)
    _check_size(path, at_most=limit)
    return read_json_object(
        path, limit, error=CheckpointError, expected=_INTACT, remedy=_OLDER, finite=True
    )


def _save_group(group: Mapping[str, Tensor], path: Path) -> None:
    """Écrit un fichier de tenseurs, dont aucun ne se partage la mémoire d'un autre."""
    distinct: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in group.items():
        cpu = tensor.detach().to("cpu").contiguous()
        distinct[name] = cpu.clone() if cpu.data_ptr() in seen else cpu
        seen.add(cpu.data_ptr())
    try:
        save_safetensors(path, distinct)
    except RuntimeError as error:
        raise ValueError(f"{path.name} : des tenseurs se recouvrent en mémoire") from error


def _seal(path: Path) -> dict[str, Any]:
    """Vide un fichier sur disque ; rend sa taille et son empreinte."""
    sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256_of(path)}


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    """Empreinte d'un manifeste, prise sans elle-même."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _refuse(path: Path, found: str, *, cause: BaseException | None = None) -> NoReturn:
    raise CheckpointError(
        f"{path} {found}",
        expected=_INTACT,
        remedy=_OLDER,
    ) from cause


def _check_size(path: Path, size: int | None = None, *, at_most: int | None = None) -> None:
    """Refuse ce qui n'est pas un fichier ordinaire : un lien sort du dossier, un tube bloque."""
    try:
        status = path.lstat()
    except OSError as error:
        _refuse(path, f"est illisible ({reason(error)})", cause=error)
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "n'est pas un fichier ordinaire")
    if size is not None and status.st_size != size:
        _refuse(path, f"fait {status.st_size} octets au lieu de {size}")
    if at_most is not None and status.st_size > at_most:
        _refuse(path, f"fait {status.st_size} octets, plus que les {at_most} permis")


def _verify(path: Path, sha256: str) -> None:
    try:
        if _sha256_of(path) != sha256:
            _refuse(path, "est abîmé (son empreinte sha256 n'est pas celle du manifeste)")
        if path.suffix == SUFFIX:
            with safe_open(path, framework="pt") as content:  # l'en-tête seulement
                content.keys()
    except (OSError, SafetensorError) as error:
        _refuse(path, f"est illisible ({safetensors_fault(error)})", cause=error)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path, _MAX_MANIFEST)
    if manifest.get("format") != FORMAT:
        _refuse(path, "n'est pas le manifeste d'un point de reprise de ce projet")
    if type(manifest.get("version")) is not int or manifest["version"] != VERSION:
        raise CheckpointError.other_version(
            path,
            manifest.get("version"),
            expected=f"un point de reprise {FORMAT} en version {VERSION}",
        )
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    if manifest.get("sha256") != _digest(body):
        _refuse(path, "est abîmé (il ne correspond pas à sa propre empreinte)")
    if not _is_count(manifest.get("step")) or not _are_files(manifest.get("files")):
        _refuse(path, "nomme une étape ou des fichiers imprévus")
    return manifest


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_files(files: object) -> bool:
    """Vrai si chaque nom reste dans le dossier et porte une taille et une empreinte."""
    return (
        isinstance(files, dict)
        and STATE in files
        and len(files) <= _MAX_FILES
        and all(
            (name == STATE or (name.endswith(SUFFIX) and _GROUP.fullmatch(name[: -len(SUFFIX)])))
            and isinstance(entry, dict)
            and set(entry) == {"size", "sha256"}
            and _is_count(entry["size"])
            and isinstance(entry["sha256"], str)
            and _SHA256.fullmatch(entry["sha256"])
            for name, entry in files.items()
        )
    )
