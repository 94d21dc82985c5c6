"""Les points de reprise d'un dossier, relus : lesquels sont là, et le dernier qui soit intact."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from gpt_architecture.errors import CheckpointError
from gpt_architecture.formats.checkpoint_files import Checkpoint, read_checkpoint, read_json

CHECKPOINTS = "checkpoints"
"""Nom, sous le dossier de sortie d'un entraînement, de celui qui les tient."""

BEST = "best.json"
REPLACED = ".replaced"
"""Suffixe d'un point de reprise complet qui cède son nom à une nouvelle écriture de son étape."""
MAX_STEP = 10**15 - 1
MAX_NOTE = 4096
"""Octets, au plus, d'un fichier JSON qui accompagne les points de reprise."""

_STEP = re.compile(r"step-(\d{6,15})(\.incomplete|\.shards|\.replaced|\.removed)?")

logger = logging.getLogger(__name__)


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
        for step in reversed(self.steps()):
            checkpoint = self._read(step)
            if checkpoint is not None:
                return checkpoint
        return None

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
        step = read_json(path, MAX_NOTE).get("step")
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
