"""Les points de reprise d'un entraînement : écrits sans risque, vérifiés, renouvelés.

À tout instant, quoi qu'il arrive au processus, un point de reprise complet reste lisible.
Un dossier n'apparaît sous son nom, `step-000040`, qu'une fois entier sur disque ; il ne le
perd que d'un renommage. Les suffixes disent l'état des autres : `.incomplete` (en cours
d'écriture), `.shards` (morceaux de plusieurs processus, à réunir), `.replaced` (complet, cède
son nom à une nouvelle écriture de la même étape), `.removed` (en cours de suppression).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.errors import CheckpointError, OutputError, reason
from gpt_architecture.formats.checkpoint import (
    BEST,
    CHECKPOINTS,
    MAX_NOTE,
    MAX_STEP,
    REPLACED,
    Checkpoint,
    CheckpointFolder,
    read_checkpoint,
    read_json,
    space_needed,
    write_checkpoint,
)
from gpt_architecture.storage import check_writable, sweep, sync, write_atomically

__all__ = ["CHECKPOINTS", "Checkpoint", "CheckpointStore", "read_checkpoint", "space_needed"]

SHARDS = ".shards"
"""Suffixe des morceaux qu'écrit `distributed_store`."""

_INCOMPLETE, _REMOVED = ".incomplete", ".removed"
_LOCK = ".verrou"
_HOLDER = ".verrou.json"

logger = logging.getLogger(__name__)


class CheckpointStore(CheckpointFolder):
    """Les points de reprise d'un dossier.

    Ce qui écrit prend le verrou le temps de l'appel, s'il n'est pas déjà tenu par `lock` ;
    ce qui lit s'en passe.

    Args:
        root: dossier des `step-*` (par usage, `OUTPUT_DIR / CHECKPOINTS`), créé au besoin.
        keep_last: nombre des derniers points de reprise gardés, outre le meilleur.

    Raises:
        ConfigurationError: `keep_last` n'est pas un entier ≥ 1.
    """

    def __init__(self, root: Path | str, *, keep_last: int = 2) -> None:
        check_int("keep_last", keep_last, minimum=1)
        super().__init__(root)
        self.keep_last = keep_last
        self._lock = FileLock(self.root / _LOCK, thread_local=False)

    def lock(self) -> AbstractContextManager[None]:
        """Réserve le dossier à ce processus ; refuse aussitôt s'il est pris.

        Raises:
            CheckpointError: un autre entraînement le tient ; son processus est nommé.
            OutputError: le dossier ne peut pas être créé ou écrit.
        """
        return self._locked()

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> Path:
        """Écrit le point de reprise de l'étape `step`, puis retire les plus anciens.

        Args:
            step: étape d'optimisation ; un point de reprise de la même étape est remplacé.
            tensors: groupes de tenseurs nommés, un fichier par groupe.
            state: types simples, clés textuelles, nombres finis.

        Returns:
            Le dossier écrit.

        Raises:
            CheckpointError: un autre entraînement tient le dossier.
            OutputError: le disque refuse ; les points de reprise précédents sont intacts.
            TypeError: `state` n'est pas fait de types simples.
            ValueError: nom de groupe imprévu, nombre non fini, tenseurs qui se recouvrent.
        """
        check_int("step", step, minimum=0, maximum=MAX_STEP)
        path = self.path_of(step)
        incomplete = self.path_of(step, _INCOMPLETE)
        with self._locked():
            try:
                _remove(incomplete)
                write_checkpoint(incomplete, step, tensors, state)
                self._publish(step)
            except OSError as error:
                raise OutputError.refused(
                    f"le point de reprise {path}",
                    error,
                    remedy="libérez de la place ; les points de reprise précédents sont intacts",
                ) from error
            finally:
                shutil.rmtree(incomplete, ignore_errors=True)
            self._retain(step)
        return path

    def mark_best(self, step: int) -> None:
        """Désigne le meilleur point de reprise, que le renouvellement ne retire jamais.

        Raises:
            CheckpointError: cette étape n'a pas de point de reprise.
            OutputError: le disque refuse ; le meilleur précédent le reste.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"{self.root} n'a pas de point de reprise de l'étape {step}",
                expected="une étape enregistrée",
                remedy="enregistrez l'étape avant de la désigner",
            )
        text = json.dumps({"step": step})
        with self._locked():
            write_atomically(
                self.root / BEST, lambda temporary: temporary.write_text(text, encoding="utf-8")
            )

    def flush(self) -> None:
        """N'attend rien : `save` a tout écrit."""

    def sweep(self) -> list[Path]:
        """Achève ce qu'une interruption a laissé en plan ; rend les chemins retirés.

        Raises:
            CheckpointError: un autre entraînement tient le dossier.
            OutputError: le disque refuse.
        """
        if not self.root.is_dir():
            return []
        with self._locked():
            try:
                removed, leftovers = sweep(self.root), list[Path]()
                for step, suffix, path in self.entries():
                    if suffix == REPLACED and not self.path_of(step).exists():
                        path.rename(self.path_of(step))  # l'ancien reprend son nom : il est complet
                    elif suffix is not None:
                        leftovers.append(path)
                for path in leftovers:
                    _remove(path)
                sync(self.root)
            except OSError as error:
                raise _refused(self.root, error) from error
        return removed + leftovers

    def remove_if_empty(self) -> None:
        """Retire le dossier, dont le verrou est tenu, s'il n'y a rien d'autre."""
        with suppress(OSError):
            if {path.name for path in self.root.iterdir()} <= {_LOCK, _HOLDER}:
                shutil.rmtree(self.root)

    def check_space(self, needed: int) -> None:
        """Vérifie, avant d'entraîner, que le dossier accepte l'écriture et qu'il a la place.

        Args:
            needed: octets qui seront écrits.

        Raises:
            OutputError: dossier refusé, en lecture seule, ou place insuffisante.
        """
        check_writable(self.root)
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise OutputError(
                f"il reste {free >> 20} Mio dans {self.root.resolve()}",
                expected=f"{-(-needed >> 20)} Mio pour les points de reprise",
                remedy="libérez de la place, gardez-en moins ou changez de dossier",
            )

    def _publish(self, step: int) -> None:
        """Donne son nom au point de reprise écrit, dont l'éventuel prédécesseur s'efface."""
        path, replaced = self.path_of(step), self.path_of(step, REPLACED)
        if os.path.lexists(path):
            _remove(replaced)
            path.rename(replaced)
        self.path_of(step, _INCOMPLETE).rename(path)
        sync(self.root)

    def _retain(self, saved: int) -> None:
        """Retire ce qui n'est ni récent, ni le meilleur, ni `saved` ; un refus n'est que dit."""
        try:
            steps = self.steps()
            kept = {saved, self.best_step(), *steps[-self.keep_last :]}
            for step in steps:
                if self.path_of(step).exists():
                    self._discard(step, REPLACED)
                if step not in kept:
                    self._discard(step)
        except (OSError, CheckpointError) as error:
            found = error.found if isinstance(error, CheckpointError) else reason(error)
            logger.warning("anciens points de reprise gardés dans %s : %s", self.root, found)

    def _discard(self, step: int, suffix: str = "") -> None:
        """Supprime un dossier, qui perd d'abord son nom : il n'est jamais à demi valable."""
        path, removed = self.path_of(step, suffix), self.path_of(step, _REMOVED)
        if os.path.lexists(path):
            _remove(removed)
            path.rename(removed)
            sync(self.root)
            _remove(removed)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        holder = self.root / _HOLDER
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                f"{self.root} est déjà utilisé par {_describe(holder)}",
                expected="un seul entraînement par dossier",
                remedy="attendez sa fin, arrêtez-le ou changez `output_dir`",
            ) from None
        except OSError as error:
            raise _refused(self.root, error) from error
        outermost = self._lock.lock_counter == 1
        try:
            if outermost:
                record = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
                with suppress(OSError):  # disque plein : `sweep` doit pouvoir le libérer
                    holder.write_text(record, encoding="utf-8")
            yield
        finally:
            if outermost:
                with suppress(OSError):
                    holder.unlink(missing_ok=True)
            self._lock.release()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _refused(root: Path, error: OSError) -> OutputError:
    return OutputError.refused(f"dans {root}", error)


def _describe(holder: Path) -> str:
    """Qui tient le verrou ; sa fiche peut manquer, le temps d'être écrite."""
    try:
        content = read_json(holder, MAX_NOTE)
    except CheckpointError:
        return "un autre processus"
    return f"le processus {content.get('pid')!r} de {content.get('host')!r}"
