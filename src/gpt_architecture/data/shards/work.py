"""Une préparation en cours : `DIR.incomplete`, verrouillé, repris s'il le faut, puis `DIR`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gpt_architecture.data.shards.layout import (
    INDEX_NAME,
    MAX_JSON_BYTES,
    identity_of_index,
    read_index,
)
from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.errors import OutputError
from gpt_architecture.storage import NotAFileError, read_json, sweep, sync

STATE_NAME = "etat.json"
WORK_NAME = "hygiene.travail"
"""Sous-dossier des fichiers de travail de l'hygiène ; il n'est jamais dans le dossier final."""

LOCK_NAME = ".verrou"

_STATE_VERSION = 2
_OURS = re.compile(
    rf"(train|val)_\d{{6,}}\.bin|\.?({re.escape(INDEX_NAME)}|{re.escape(STATE_NAME)})(\.tmp)?"
    rf"|provenance(\.etat)?\.json|provenance_\d{{6,}}\.suf|{re.escape(LOCK_NAME)}"
)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Les réglages qui diffèrent : « seed 1 → 2, sources »."""
    parts = []
    for key in {**now, **before}:
        old, new = before.get(key), now.get(key)
        if old != new:
            simple = key not in ("sources", "tokenizer_sha256", "hygiene")
            parts.append(f"{key} {old} → {new}" if simple else key.split("_")[0])
    return ", ".join(parts)


def read_present(
    out: Path | str, identity: Mapping[str, Any], *, force: bool
) -> dict[str, Any] | None:
    """L'index de `out` s'il vient de la même préparation ; None s'il faut préparer.

    Args:
        out: le dossier demandé.
        identity: ce qui distingue la préparation demandée.
        force: un dossier déjà préparé sera remplacé.

    Raises:
        OutputError: d'autres réglages, d'autres sources, ou autre chose qu'une préparation :
            rien n'y sera effacé, même avec `force`.
        DataError: son index est illisible.
    """
    out = Path(out)
    if not out.exists():
        return None
    sweep(out)  # ce que la construction de l'index, tuée, y préparait
    if not out.is_dir():
        foreign: str | None = "n'est pas un dossier"
    elif any(out.iterdir()) and not (out / INDEX_NAME).exists():
        foreign = f"n'a pas de {INDEX_NAME}"
    else:
        name = _foreign(out)
        foreign = name and f"contient {name}"
    if foreign:
        raise OutputError(
            f"{out} existe et {foreign}",
            expected="un dossier absent, vide, ou déjà préparé",
            remedy="changez de dossier",
        )
    if force or not (out / INDEX_NAME).exists():
        return None
    present = read_index(out)
    changed = differences(identity_of_index(present), identity)
    if changed:
        raise OutputError(
            f"{out} est déjà préparé avec d'autres réglages ({changed})",
            expected="les mêmes réglages, ou un dossier libre",
            remedy="ajoutez `force` pour le remplacer, ou changez de dossier",
        )
    return present


class WorkFolder:
    """`DIR.incomplete`, verrouillé tant que le bloc `with` dure.

    Attributes:
        path: le dossier de travail.
        identity: ce qui distingue cette préparation.
        state: ce que le dernier point sûr a enregistré, ou None.
        resumed: une préparation interrompue est continuée.

    Raises:
        OutputError: une autre préparation y écrit, ou y a laissé un travail d'autres réglages.
    """

    def __init__(self, out: Path | str, identity: Mapping[str, Any], *, force: bool) -> None:
        out = Path(out)
        self.path = out.with_name(f"{out.name}.incomplete")
        self.identity = dict(identity)
        self.state: dict[str, Any] | None = None
        self.resumed = False
        self._out = out
        self._force = force
        self._lock = FileLock(self.path / LOCK_NAME, timeout=0)

    def __enter__(self) -> WorkFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise OutputError(
                f"une autre préparation écrit dans {self.path}",
                expected="une seule à la fois",
                remedy="attendez sa fin ou changez de dossier",
            ) from None
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        # Une erreur avant d'avoir rien écrit ne laisse pas de dossier vide
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {LOCK_NAME}:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.release()

    def finished_index(self) -> dict[str, Any] | None:
        """L'index, si la préparation était finie et qu'il ne restait qu'à renommer."""
        return read_index(self.path) if (self.path / INDEX_NAME).exists() else None

    def restart(self) -> None:
        """Vide le dossier, et n'y laisse que son identité : ce travail ne reprend pas en route."""
        _clear(self.path)
        self.save_state({})

    def save_state(self, progress: Mapping[str, Any]) -> None:
        """Enregistre un point sûr ; ce qu'il décrit est déjà sur disque."""
        state = {"version": _STATE_VERSION, "identity": self.identity, **progress}
        write_json(self.path / STATE_NAME, state, indent=1)

    def publish(self, index: dict[str, Any]) -> None:
        """Écrit l'index, puis fait du dossier de travail le dossier final."""
        write_json(self.path / INDEX_NAME, index, indent=1)
        (self.path / STATE_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.path / WORK_NAME, ignore_errors=True)
        if self._out.is_dir():
            if self._force:
                _clear(self._out)
            self._out.rmdir()  # refuse s'il contient quoi que ce soit
        self.path.rename(self._out)
        (self._out / LOCK_NAME).unlink(missing_ok=True)
        sync(self._out)
        sync(self._out.parent)

    def _recover(self) -> None:
        """Trouve de quoi reprendre ; sinon vide le dossier de travail."""
        sweep(self.path)
        foreign = _foreign(self.path, but=WORK_NAME)
        if foreign:
            raise OutputError(
                f"{self.path} contient {foreign}",
                expected="un dossier de travail de « gpt-architecture prepare »",
                remedy="déplacez ce fichier ou changez de dossier",
            )
        before = self._previous_identity()
        changed = "" if before is None else differences(before, self.identity)
        if before is None or (changed and self._force):
            self.state = None
            _clear(self.path)
            if (self.path / WORK_NAME).exists():
                shutil.rmtree(self.path / WORK_NAME)
        elif changed:
            raise OutputError(
                f"{self.path} contient une préparation interrompue, d'autres réglages ({changed})",
                expected="les mêmes réglages pour la reprendre",
                remedy="ajoutez `force` pour recommencer, ou changez de dossier",
            )
        else:
            self.resumed = True

    def _previous_identity(self) -> dict[str, Any] | None:
        if (self.path / INDEX_NAME).exists():
            return identity_of_index(read_index(self.path))
        try:
            self.state = _read_state(self.path)
        except OutputError:
            if not self._force:
                raise
        return None if self.state is None else dict(self.state["identity"])


def remove_idle(folder: Path | str) -> bool:
    """Efface un dossier de travail ; faux : une préparation y écrit, il reste."""
    folder = Path(folder)
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return False
    return True


def saved_identity(folder: Path | str) -> dict[str, Any] | None:
    """L'identité de la préparation interrompue d'un dossier de travail ; None : il n'y en a pas.

    Raises:
        OutputError: son état est illisible.
    """
    state = _read_state(Path(folder))
    return None if state is None else dict(state["identity"])


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        state = read_json(folder / STATE_NAME, MAX_JSON_BYTES)
        if state["version"] == _STATE_VERSION:
            dict(state["identity"])
            return dict(state)
    except FileNotFoundError:
        return None
    except (NotAFileError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"{folder / STATE_NAME} est illisible",
        expected="l'état d'une préparation interrompue",
        remedy="ajoutez `force` pour recommencer",
    )


def _foreign(folder: Path, but: str = "") -> str | None:
    """Le nom d'un élément qui ne vient pas d'une préparation ; `but` en vient aussi."""
    names = sorted(path.name for path in folder.iterdir() if path.name != but)
    return next((name for name in names if not _OURS.fullmatch(name)), None)


def _clear(folder: Path) -> None:
    """Efface les fichiers d'une préparation, l'index d'abord : le reste n'est plus lisible."""
    names = [INDEX_NAME, *(path.name for path in folder.iterdir())]
    for name in names:
        if _OURS.fullmatch(name) and name != LOCK_NAME:
            (folder / name).unlink(missing_ok=True)
