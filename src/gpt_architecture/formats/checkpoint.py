"""Les points de reprise : des dossiers scellés par leurs empreintes, et le dernier qui soit intact.

`step-000040/` tient un fichier safetensors par groupe de tenseurs, `state.json`, et
`manifest.json` qui donne la taille et le sha256 de chacun, et le sien. safetensors ne vide
pas ses fichiers sur disque, ne voit pas un bit inversé et les crée en mode 0600 : ce module
s'en charge. Un fichier que le manifeste ne nomme pas n'est jamais ouvert.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
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

CHECKPOINTS = "checkpoints"
"""Nom, sous le dossier de sortie d'un entraînement, de celui qui les tient."""

BEST = "best.json"
REPLACED = ".replaced"
"""Suffixe d'un point de reprise complet qui cède son nom à une nouvelle écriture de son étape."""
MAX_STEP = 10**15 - 1
MAX_NOTE = 4096
"""Octets, au plus, d'un fichier JSON qui accompagne les points de reprise."""

_STEP = re.compile(r"step-(\d{6,15})(\.incomplete|\.shards|\.replaced|\.removed)?")
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 1 << 20
_MAX_STATE = 64 << 20
_MAX_FILES = 1000
_INTACT = "un point de reprise complet et intact"
_OLDER = "reprenez-en un plus ancien ou recommencez l'entraînement"

logger = logging.getLogger(__name__)


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
        if (size := _size_of(path / name)) != entry["size"]:
            _refuse(path / name, f"fait {size} octets au lieu de {entry['size']}")
    if verify:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(lambda item: _verify(path / item[0], item[1]["sha256"]), files.items()))
    return Checkpoint(
        path=path,
        step=manifest["step"],
        state=read_checkpoint_json(path / STATE, _MAX_STATE),
        names=tuple(sorted(name.removesuffix(SUFFIX) for name in files if name != STATE)),
    )


def read_checkpoint_json(path: Path | str, limit: int) -> dict[str, Any]:
    """Lit un objet JSON d'au plus `limit` octets, aux nombres finis.

    Raises:
        CheckpointError: fichier absent, trop gros, ou d'un autre contenu.
    """
    path = Path(path)
    _size_of(path)
    return read_json_object(
        path, limit, error=CheckpointError, expected=_INTACT, remedy=_OLDER, finite=True
    )


class CheckpointFolder:
    """Les points de reprise d'un dossier ; lire se passe de verrou.

    Args:
        root: dossier des `step-*`.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def steps(self) -> list[int]:
        """Étapes enregistrées, en ordre croissant, sans vérifier leur contenu."""
        return sorted({step for step, suffix, _ in self.entries() if suffix in (None, REPLACED)})

    def latest(self) -> Checkpoint | None:
        """Le plus récent point de reprise intact ; les abîmés sont dits et passés."""
        found = (self._read(step) for step in reversed(self.steps()))
        return next((checkpoint for checkpoint in found if checkpoint is not None), None)

    def best(self) -> Checkpoint | None:
        """Le point de reprise désigné comme le meilleur, s'il est intact."""
        try:
            step = self.best_step()
        except CheckpointError as error:
            logger.warning("meilleur point de reprise inconnu : %s", error.found)
            return None
        return None if step is None else self._read(step)

    def best_step(self) -> int | None:
        """L'étape désignée comme la meilleure.

        Raises:
            CheckpointError: ce qui la désigne est abîmé.
        """
        path = self.root / BEST
        if not os.path.lexists(path):
            return None
        step = read_checkpoint_json(path, MAX_NOTE).get("step")
        if type(step) is not int or not 0 <= step <= MAX_STEP:
            raise CheckpointError(
                f"{path} ne désigne pas une étape",
                expected='un objet comme {"step": 40}',
                remedy="supprimez ce fichier ; la prochaine évaluation le récrira",
            )
        return step

    def path_of(self, step: int, suffix: str = "") -> Path:
        """Le dossier d'une étape."""
        return self.root / f"step-{step:06d}{suffix}"

    def entries(self) -> list[tuple[int, str | None, Path]]:
        """Étape, suffixe et chemin de ce qui porte un nom de point de reprise."""
        if not self.root.is_dir():
            return []
        matches = [(_STEP.fullmatch(path.name), path) for path in self.root.iterdir()]
        found = [(int(match[1]), match[2], path) for match, path in matches if match]
        return [item for item in found if item[2] == self.path_of(item[0], item[1] or "")]

    def _read(self, step: int) -> Checkpoint | None:
        """Le point de reprise de cette étape, ou None et un avertissement."""
        path = self.path_of(step)
        if not os.path.lexists(path):  # une interruption, le temps d'un remplacement
            path = self.path_of(step, REPLACED)
        try:
            if path.is_symlink():
                raise CheckpointError(
                    f"{path} est un lien",
                    expected="un dossier de point de reprise",
                    remedy="déplacez-y le dossier lui-même",
                )
            checkpoint = read_checkpoint(path)
            if checkpoint.step != step:
                raise CheckpointError(
                    f"{path} contient l'étape {checkpoint.step}",
                    expected=f"l'étape {step}",
                    remedy="rendez son nom au dossier",
                )
        except CheckpointError as error:
            logger.warning("point de reprise écarté : %s", error.found)
            return None
        return checkpoint


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
    raise CheckpointError(f"{path} {found}", expected=_INTACT, remedy=_OLDER) from cause


def _size_of(path: Path) -> int:
    """La taille d'un fichier ordinaire ; un lien sortirait du dossier, un tube bloquerait."""
    try:
        status = path.lstat()
    except OSError as error:
        _refuse(path, f"est illisible ({reason(error)})", cause=error)
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "n'est pas un fichier ordinaire")
    return status.st_size


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
    manifest = read_checkpoint_json(path, _MAX_MANIFEST)
    if manifest.get("format") != FORMAT:
        _refuse(path, "n'est pas le manifeste d'un point de reprise de ce projet")
    if type(manifest.get("version")) is not int or manifest["version"] != VERSION:
        expected = f"un point de reprise {FORMAT} en version {VERSION}"
        raise CheckpointError.other_version(path, manifest.get("version"), expected=expected)
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
