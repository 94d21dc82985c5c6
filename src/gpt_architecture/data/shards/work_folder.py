"""Les dossiers d'une préparation : le travail dans `DIR.incomplete`, le résultat dans `DIR`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from gpt_architecture.data.shards.layout import INDEX_NAME, read_index
from gpt_architecture.errors import OutputError
from gpt_architecture.storage import NotAFileError, read_json, sweep, sync, write_atomically

STATE_NAME = "etat.json"
STATE_VERSION = 2
_MAX_STATE = 256 << 20
_LOCK_NAME = ".verrou"
_OURS = re.compile(
    rf"(train|val)_\d{{6,}}\.bin|\.?({re.escape(INDEX_NAME)}|{re.escape(STATE_NAME)})(\.tmp)?"
    rf"|{re.escape(_LOCK_NAME)}"
)


def identity_of(index: Mapping[str, Any]) -> dict[str, Any]:
    """Ce qui distingue la préparation qui a écrit cet index."""
    return {
        **index.get("settings", {}),
        "tokenizer_sha256": index.get("tokenizer_sha256"),
        "sources": index.get("sources"),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Les réglages qui diffèrent : « seed 1 → 2, sources »."""
    parts = []
    for key, value in now.items():
        if before.get(key) != value:
            simple = key not in ("sources", "tokenizer_sha256")
            parts.append(f"{key} {before.get(key)} → {value}" if simple else key.split("_")[0])
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
    changed = differences(identity_of(present), identity)
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
        self._lock = FileLock(self.path / _LOCK_NAME, timeout=0)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Une erreur avant d'avoir rien écrit ne laisse pas de dossier vide
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {_LOCK_NAME}:
            (self.path / _LOCK_NAME).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.release()

    def finished_index(self) -> dict[str, Any] | None:
        """L'index, si la préparation était finie et qu'il ne restait qu'à renommer."""
        path = self.path / INDEX_NAME
        return read_index(self.path) if path.exists() else None

    def save_state(self, progress: Mapping[str, Any]) -> None:
        """Enregistre un point sûr ; ce qu'il décrit est déjà sur disque."""
        _write_json(
            self.path / STATE_NAME,
            {"version": STATE_VERSION, "identity": self.identity, **progress},
        )

    def publish(self, index: Mapping[str, Any]) -> None:
        """Écrit l'index, puis fait du dossier de travail le dossier final."""
        _write_json(self.path / INDEX_NAME, index)
        (self.path / STATE_NAME).unlink(missing_ok=True)
        if self._out.is_dir():
            if self._force:
                _clear(self._out)
            self._out.rmdir()  # refuse s'il contient quoi que ce soit
        self.path.rename(self._out)
        (self._out / _LOCK_NAME).unlink(missing_ok=True)
        sync(self._out)
        sync(self._out.parent)

    def _recover(self) -> None:
        """Trouve de quoi reprendre ; sinon vide le dossier de travail."""
        sweep(self.path)
        foreign = _foreign(self.path)
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
            return identity_of(read_index(self.path))
        try:
            state = read_json(self.path / STATE_NAME, _MAX_STATE)
            if state["version"] == STATE_VERSION:
                self.state = state
                return dict(state["identity"])
        except FileNotFoundError:
            return None
        except (NotAFileError, ValueError, KeyError, TypeError):
            if self._force:
                return None
        raise OutputError(
            f"{self.path / STATE_NAME} est illisible",
            expected="l'état d'une préparation interrompue",
            remedy="ajoutez `force` pour recommencer",
        )


def _foreign(folder: Path) -> str | None:
    """Le nom d'un élément qui ne vient pas d'une préparation."""
    names = sorted(path.name for path in folder.iterdir())
    return next((name for name in names if not _OURS.fullmatch(name)), None)


def _clear(folder: Path) -> None:
    """Efface les fichiers d'une préparation, l'index d'abord : le reste n'est plus lisible."""
    names = [INDEX_NAME, *(path.name for path in folder.iterdir())]
    for name in names:
        if _OURS.fullmatch(name) and name != _LOCK_NAME:
            (folder / name).unlink(missing_ok=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
