"""Les modèles d'un dossier : ce qu'en disent leurs en-têtes, sans lire leurs poids.

Un dossier de Transformers, de PEFT ou un point de reprise est un modèle ; des autres, on descend
dans les sous-dossiers, en comptant. Aucun lien vers un dossier n'est suivi, aucun dossier caché
ouvert. Un fichier abîmé est dit, il n'arrête rien. Les points de reprise d'un entraînement se
rangent sous lui : une ligne pour tous (`grouped`).
"""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite, prod
from pathlib import Path
from typing import Any

from gpt_architecture.errors import CheckpointError, GPTArchitectureError, ModelFileError
from gpt_architecture.formats.adapter_file import ADAPTER_NAME
from gpt_architecture.formats.checkpoint import CHECKPOINTS, MANIFEST, CheckpointFolder
from gpt_architecture.formats.door import OpenedModel, Use
from gpt_architecture.formats.model_file import MODEL_NAME
from gpt_architecture.storage import exists, open_regular
from gpt_architecture.storage.chain import CERTIFICATE

MAX_DEPTH = 16
MAX_MODELS = 10_000
MAX_SEEN = 50_000
"""Fichiers et dossiers regardés, au plus."""

_SUFFIXES = (".pt", ".pth", ".safetensors", ".gguf", ".onnx")
_OF_TRAININGS = (MODEL_NAME, ADAPTER_NAME)  # ce qui en ouvre un, dans l'ordre de `locate`
_OF_FOLDERS = ("config.json", "adapter_config.json", MANIFEST)
_LEGACY = b"\x80"
_POINT = re.compile(r"step-\d+")


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """Un modèle trouvé, et ce que son en-tête en dit.

    Attributes:
        path: où il est.
        name: ce qu'on donne aux commandes pour le désigner.
        kind: son genre, pour un programme ; vide s'il n'est pas reconnu.
        form: de même, pour une personne.
        parameters: paramètres distincts ; pour des adaptateurs, les leurs ; None : inconnus.
        bytes: taille, en octets.
        modified: date de dernière écriture, en temps universel.
        loss: dernière perte mesurée, de validation s'il y en a une ; None : inconnue.
        loss_on: « validation » ou « entraînement ».
        base: modèle dont il est affiné : son nom s'il est connu, sinon le début de son empreinte.
        base_sha256: empreinte de ses poids de départ.
        certificate: vrai si un certificat d'entraînement est à côté.
        is_best: vrai d'un point de reprise que son entraînement dit le meilleur.
        checkpoints: points de reprise de son entraînement, autres que lui ; voir `grouped`.
        problem: ce qui empêche d'en dire plus ; None : rien.
    """

    path: Path
    name: str
    kind: str = ""
    form: str = ""
    parameters: int | None = None
    bytes: int = 0
    modified: datetime
    loss: float | None = None
    loss_on: str | None = None
    base: str | None = None
    base_sha256: str | None = None
    certificate: bool = False
    is_best: bool = False
    checkpoints: tuple[ListedModel, ...] = ()
    problem: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Ces faits, en types simples."""
        known = {**vars(self), "path": str(self.path)}
        known["modified"] = self.modified.isoformat(timespec="seconds")
        return known | {"checkpoints": [each.record for each in self.checkpoints]}


class Search:
    """Une recherche de modèles, bornée.

    Args:
        depth: niveaux de sous-dossiers où descendre ; 0 : aucun.
        limit: modèles à rendre, au plus ; un entraînement et ses points de reprise en font un.

    Attributes:
        is_partial: vrai si une borne l'a arrêtée avant la fin.
    """

    def __init__(self, *, depth: int, limit: int) -> None:
        self._depth, self._left, self._seen = depth, limit, 0
        self._trainings = set[Path]()  # ceux qui sont comptés
        self.is_partial = False

    def below(self, folder: Path | str, *, name: str | None = None) -> Iterator[ListedModel]:
        """Les modèles d'un dossier, ou celui qu'il est, dans l'ordre des noms ; ou un fichier.

        Args:
            folder: le dossier.
            name: le nom que porte le modèle qu'il est.

        Raises:
            ModelFileError: le dossier est absent, ou ne s'ouvre pas.
        """
        folder = Path(folder)
        if not exists(folder):
            raise ModelFileError.missing(
                folder, expected="un dossier de modèles", remedy="corrigez son chemin"
            )
        is_file = folder.is_file()
        for path in [folder] if is_file else self._candidates(folder, self._depth):
            training = training_of(path)
            if self._left == 0 and training not in self._trainings:
                self.is_partial = True
                return
            found = _described(path, name if name and path == folder else str(path))
            if found is None:
                continue
            self._left -= training not in self._trainings
            if training is not None or path.name in _OF_TRAININGS:
                self._trainings.add(training or path.parent)
            yield found

    def _candidates(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            names = sorted(each.name for each in folder.iterdir())
        except OSError as error:
            if depth < self._depth:  # un sous-dossier fermé n'arrête rien
                return
            raise ModelFileError.unreadable(
                folder, error, expected="un dossier de modèles", remedy="corrigez ses droits"
            ) from None
        self._seen += len(names)
        if self._seen > MAX_SEEN:
            self.is_partial = True
            return
        if _is_model_folder(names):
            yield folder
            return
        folders = list[Path]()
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            if _is(Path.is_dir, path):
                folders += [] if path.is_symlink() else [path]
            elif path.suffix.lower() in _SUFFIXES and _is(Path.is_file, path):
                yield path
        for path in folders:
            if depth == 0:
                self.is_partial = True
                return
            yield from self._candidates(path, depth - 1)


def with_known_bases(found: list[ListedModel]) -> list[ListedModel]:
    """Les mêmes, où un modèle de départ connu par son empreinte prend le nom qu'un autre en dit."""
    names = {each.base_sha256: each.base for each in found if each.base and each.base_sha256}
    return [
        replace(each, base=names.get(each.base_sha256) or f"sha256 {each.base_sha256[:12]}…")
        if each.base is None and each.base_sha256 is not None
        else each
        for each in found
    ]


def grouped(
    found: Sequence[ListedModel], *, alone: Collection[Path | str] = ()
) -> list[ListedModel]:
    """Les mêmes, où tout entraînement n'en est qu'un, ses points de reprise rangés sous lui.

    C'est son modèle, ou ses adaptateurs. D'un entraînement qui n'a encore que des points de
    reprise, c'est le meilleur s'il est désigné, sinon le dernier qui soit lisible.

    Args:
        found: les modèles.
        alone: points de reprise qui gardent leur place : ceux qu'on a demandés par leur nom.
    """
    asked = {Path(each) for each in alone}
    heads = {each.path: each for each in found if each.path.name in _OF_TRAININGS}
    points = defaultdict[Path, list[ListedModel]](list)
    for each in found:
        training = training_of(each.path)
        if training is not None and each.path not in asked:
            points[training].append(each)
    hidden = {each.path for own in points.values() for each in own}
    chosen = dict[Path, ListedModel]()
    for training, own in points.items():
        own.sort(key=lambda each: int(each.path.name.partition("-")[2]))
        known = (heads.get(training / name) for name in _OF_TRAININGS)
        ranked = sorted(own, key=lambda each: (each.problem is None, each.is_best))
        head = next((each for each in known if each is not None), ranked[-1])
        rest = tuple(each for each in own if each is not head)
        chosen[head.path] = replace(head, checkpoints=rest)
    return [
        chosen.get(each.path, each)
        for each in found
        if each.path not in hidden or each.path in chosen
    ]


def training_of(path: Path | str) -> Path | None:
    """Le dossier de l'entraînement dont c'est un point de reprise ; None : ce n'en est pas un."""
    path = Path(path)
    if not _POINT.fullmatch(path.name) or not _is(Path.is_file, path / MANIFEST):
        return None
    return path.parent.parent if path.parent.name == CHECKPOINTS else path.parent


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Vrai si ce chemin est de cette sorte ; derrière un dossier fermé, rien ne l'est."""
    try:
        return kind(path)
    except OSError:
        return False


def _date(when: float) -> datetime:
    """Une date de fichier ; celle qu'aucun calendrier n'a est ramenée à 1970."""
    try:
        return datetime.fromtimestamp(when, UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(0, UTC)


def _is_model_folder(names: list[str]) -> bool:
    """Vrai pour un dossier qui est un modèle : une description, et des poids."""
    weights = any(
        each.endswith((".safetensors", ".safetensors.index.json")) or each.startswith("pytorch_mod")
        for each in names
    )
    return weights and any(each in names for each in _OF_FOLDERS)


def _described(path: Path, name: str) -> ListedModel | None:
    """Un modèle ; None : un fichier d'un autre usage."""
    try:
        files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
        sizes = [(each.stat().st_size, each.stat().st_mtime) for each in files]
    except OSError:
        return None  # parti entre-temps
    found = ListedModel(
        path=path,
        name=name,
        bytes=sum(size for size, _ in sizes),
        modified=_date(max((when for _, when in sizes), default=0)),
        certificate=any(_is(Path.is_file, each / CERTIFICATE) for each in _trainings(path)),
        is_best=_is_best(path),
    )
    try:
        return _told(found)
    except GPTArchitectureError as error:
        said = error.found.removeprefix(f"{path} ").removeprefix(": ")
        return replace(found, problem=said)


def _told(found: ListedModel) -> ListedModel:
    """Ce que l'en-tête en dit.

    Raises:
        GPTArchitectureError: il n'est pas lisible, ou demande une bibliothèque absente.
    """
    path = found.path
    weights = path.glob("pytorch_model*.bin") if path.is_dir() else (path,)
    if any(map(_is_legacy, weights)):
        return replace(
            found, problem="d'avant PyTorch 1.6 : le décrire demanderait de le lire en entier"
        )
    opened = OpenedModel(path, use=Use.INSPECT)
    found = replace(found, kind=opened.kind, form=opened.format.name)
    if not opened.format.has_header:
        return found
    try:
        facts = opened.facts
    except GPTArchitectureError as error:
        return replace(found, problem=error.found.removeprefix(f"{path} ").removeprefix(": "))
    loss, loss_on = _loss(facts.provenance)
    start = facts.provenance.get("start")
    sha256 = facts.provenance.get("base_sha256") or (
        start.get("sha256") if isinstance(start, Mapping) else None
    )
    base = facts.provenance.get("base") or _merged(facts.provenance.get("merged"))
    head = None if facts.config is None else facts.config.head
    return replace(
        found,
        form=found.form if head is None else f"{found.form}, rend {head.said}",
        parameters=sum(prod(info.shape) for info in facts.tensors)
        if facts.config is None
        else facts.config.num_parameters(),
        loss=loss,
        loss_on=loss_on,
        base=_resolved(path.parent, base) if isinstance(base, str) else None,
        base_sha256=sha256 if isinstance(sha256, str) else None,
    )


def _merged(found: object) -> str | None:
    """Les affinages fondus dans un modèle : « lora + autre »."""
    listed = found if isinstance(found, list) else []
    return (
        " + ".join(
            str(each["name"]) for each in listed if isinstance(each, Mapping) and "name" in each
        )
        or None
    )


def _resolved(folder: Path, base: str) -> str:
    """Le chemin d'un modèle de départ, s'il est là ; sinon le nom qui en était donné."""
    candidate = folder / base
    return str(candidate.resolve()) if exists(candidate) else base


def _loss(provenance: Mapping[str, Any]) -> tuple[float | None, str | None]:
    for key, name in (("val_losses", "validation"), ("train_losses", "entraînement")):
        values = provenance.get(key)
        last = values[-1] if isinstance(values, (list, tuple)) and values else None
        if isinstance(last, float) and isfinite(last):
            return last, name
    return None, None


def _is_best(path: Path) -> bool:
    """Vrai d'un point de reprise que son entraînement désigne."""
    if training_of(path) is None:
        return False
    try:
        step = CheckpointFolder(path.parent).best_step()
    except CheckpointError:
        return False
    return step is not None and CheckpointFolder(path.parent).path_of(step).name == path.name


def _trainings(path: Path) -> tuple[Path, ...]:
    """Où serait le certificat d'un modèle : dans son dossier, ou celui de l'entraînement."""
    if not path.is_dir():
        return (path.parent,)
    return (path, training_of(path) or path)


def _is_legacy(path: Path) -> bool:
    """Vrai pour un pickle nu, qui se lirait en entier ; un safetensors ne commence pas ainsi."""
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError:
        return False
    return head[:1] == _LEGACY and head[8:] != b"{" and not zipfile.is_zipfile(path)
