"""Où en est un entraînement, et ses points de reprise : écrits sans risque, renouvelés.

À tout instant, quoi qu'il arrive au processus, un point de reprise complet reste lisible.
Un dossier n'apparaît sous son nom, `step-000040`, qu'une fois entier sur disque ; il ne le
perd que d'un renommage. Les suffixes disent l'état des autres : `.incomplete` (en cours
d'écriture), `.shards` (morceaux de plusieurs processus, à réunir), `.replaced` (complet, cède
son nom à une nouvelle écriture de la même étape), `.removed` (en cours de suppression).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gpt_architecture.config import check_int
from gpt_architecture.errors import CheckpointError, OutputError, TrainingError, reason
from gpt_architecture.formats.adapter_file import ADAPTER_GROUP
from gpt_architecture.formats.checkpoint import (
    BEST,
    CHECKPOINTS,
    MAX_NOTE,
    MAX_STEP,
    REPLACED,
    Checkpoint,
    CheckpointFolder,
    read_checkpoint,
    read_checkpoint_json,
    write_checkpoint,
)
from gpt_architecture.storage import sweep, sync, write_atomically
from gpt_architecture.training.optim import load_optimizer_, optimizer_tensors
from gpt_architecture.training.spread import Spread

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "CheckpointStore",
    "TrainingState",
    "capture",
    "read_checkpoint",
    "restore_",
]

SHARDS = ".shards"
"""Suffixe des morceaux qu'écrit `distributed.store`."""

_INCOMPLETE, _REMOVED = ".incomplete", ".removed"
_LOCK = ".verrou"
_HOLDER = ".verrou.json"
_LOSSES = ("train_losses", "val_losses")

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainingState:
    """Où en est l'entraînement, en types simples.

    Attributes:
        step: étapes faites, sautées comprises : la position dans les données.
        tokens: tokens lus.
        sequences: séquences lues.
        skipped: étapes sautées ou incomplètes, perte ou gradient non finis.
        bad_in_a_row: celles-là, de suite.
        seconds: durée cumulée, reprises comprises.
        eval_steps: étape (depuis 0) de chaque évaluation.
        train_losses: perte d'entraînement à chaque évaluation (nats par token).
        val_losses: perte de validation à chaque évaluation.
        tokens_seen: tokens lus à chaque évaluation.
        best_loss: plus basse perte de validation ; None : aucune encore.
        best_step: étape (depuis 0) de cette perte.
        sampled: dernière étape suivie d'un exemple ; −1 : aucune.
        overfit_said: le surapprentissage a été annoncé.
    """

    step: int = 0
    tokens: int = 0
    sequences: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    seconds: float = 0.0
    eval_steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    tokens_seen: list[int] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = -1
    sampled: int = -1
    overfit_said: bool = False

    @property
    def evaluations_without_progress(self) -> int:
        """Évaluations faites depuis la meilleure."""
        return sum(step > self.best_step for step in self.eval_steps)

    def to_dict(self) -> dict[str, Any]:
        """Pour state.json, qui n'a ni NaN ni infini : une perte non finie y est un texte."""
        values = asdict(self)
        for name in _LOSSES:
            values[name] = [x if math.isfinite(x) else str(x) for x in values[name]]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingState:
        """Relit `to_dict`.

        Raises:
            TrainingError: des champs manquent ou sont inconnus.
        """
        expected = {f.name for f in fields(cls)}
        if set(values) != expected:
            odd = ", ".join(sorted(expected ^ set(values)))
            raise TrainingError(
                f"point de reprise d'une autre version (champs : {odd})",
                expected="un point de reprise de cette version",
                remedy="reprenez avec la version qui l'a écrit, ou recommencez avec `force`",
            )
        return cls(**{**values, **{name: [float(x) for x in values[name]] for name in _LOSSES}})


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Les tenseurs à enregistrer, sans copie : poids qui apprennent, optimiseur, générateurs.

    Un poids partagé n'y est qu'une fois, sous son premier nom. Les poids gelés n'y sont pas : ils
    restent ceux du modèle de départ.
    """
    device = next(model.parameters()).device
    rng = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(device)
    group, parameters = _learned(model)
    tensors = {group: {name: p.detach() for name, p in parameters.items()}, "rng": rng}
    moments = optimizer_tensors(optimizer, model)
    if moments:
        tensors["optimizer"] = moments
    return tensors


@torch.no_grad()
def restore_(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Rend à `model`, à `optimizer` et aux générateurs l'état de `capture`.

    Raises:
        TrainingError: les noms ou les formes ne sont pas ceux du modèle.
    """
    group, parameters = _learned(model)
    stored = tensors.get(group, {})
    same_shapes = parameters.keys() == stored.keys() and all(
        parameters[name].shape == tensor.shape for name, tensor in stored.items()
    )
    if not same_shapes:
        raise TrainingError(
            "les poids du point de reprise ne sont pas ceux de ce modèle",
            expected="la forme enregistrée",
            remedy="reprenez sans changer la forme du modèle",
        )
    for name, tensor in stored.items():
        parameters[name].copy_(tensor)
    load_optimizer_(optimizer, model, tensors.get("optimizer", {}))
    torch.set_rng_state(tensors["rng"]["cpu"])
    if "cuda" in tensors["rng"] and torch.cuda.is_available():
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng"]["cuda"], device)


def _learned(model: nn.Module) -> tuple[str, dict[str, nn.Parameter]]:
    """Le nom du groupe des poids qui apprennent, et ces poids : tous, ou des adaptateurs."""
    named = dict(model.named_parameters())
    learned = {name: p for name, p in named.items() if p.requires_grad}
    return ("model" if len(learned) == len(named) else ADAPTER_GROUP), learned


class CheckpointStore(CheckpointFolder):
    """Les points de reprise d'un dossier.

    Ce qui écrit prend le verrou le temps de l'appel, s'il n'est pas déjà tenu par `lock` ;
    ce qui lit s'en passe.

    Args:
        root: dossier des `step-*` (par usage, `OUTPUT_DIR / CHECKPOINTS`), créé au besoin.
        keep_last: nombre des derniers points de reprise gardés, outre le meilleur.

    Attributes:
        spread: lesquels garder, au lieu des derniers ; None : les derniers.

    Raises:
        ConfigurationError: `keep_last` n'est pas un entier ≥ 1.
    """

    def __init__(self, root: Path | str, *, keep_last: int = 2) -> None:
        check_int("keep_last", keep_last, minimum=1)
        super().__init__(root)
        self.keep_last = keep_last
        self.spread: Spread | None = None
        self._lock = FileLock(self.root / _LOCK, thread_local=False)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Réserve le dossier à ce processus ; refuse aussitôt s'il est pris.

        Raises:
            CheckpointError: un autre entraînement le tient ; son processus est nommé.
            OutputError: le dossier ne peut pas être créé ou écrit.
        """
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
        with self.lock():
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
        with self.lock():
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
        with self.lock():
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

    def erase(self, step: int) -> None:
        """Supprime un point de reprise, s'il est là ; le verrou est tenu."""
        self._discard(step)

    def remove_if_empty(self) -> None:
        """Retire le dossier, dont le verrou est tenu, s'il n'y a rien d'autre."""
        with suppress(OSError):
            if {path.name for path in self.root.iterdir()} <= {_LOCK, _HOLDER}:
                shutil.rmtree(self.root)

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
            lasting = steps[-self.keep_last :] if self.spread is None else self.spread.keep(steps)
            kept = {saved, self.best_step(), *lasting}
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
        content = read_checkpoint_json(holder, MAX_NOTE)
    except CheckpointError:
        return "un autre processus"
    return f"le processus {content.get('pid')!r} de {content.get('host')!r}"
