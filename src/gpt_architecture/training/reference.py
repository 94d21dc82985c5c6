"""Les log-probabilités de la référence d'un DPO : une passe avant la première étape, puis relues.

La référence est le modèle de départ. Avant la première étape, le modèle qui apprend est encore
elle : c'est lui qui les calcule, du même calcul, et deux modèles ne sont jamais en mémoire
ensemble. Elles sont gardées sur disque avec les empreintes du modèle et des paires : une reprise,
ou un autre entraînement dans ce dossier, les relit.

Formes : P paires, n tokens des réponses de toutes les paires.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.data.preferences import PairTokens
from gpt_architecture.data.sampler import IGNORED, make_batch
from gpt_architecture.errors import GPTArchitectureError, OutputError
from gpt_architecture.formats.tensor_files import SafetensorsFile, save_safetensors
from gpt_architecture.french import counted
from gpt_architecture.storage import write_atomically
from gpt_architecture.training.distributed.world import World, on_main
from gpt_architecture.training.objectives import Scorer, log_probs_of

REFERENCE = "reference.safetensors"
"""Nom de leur fichier, dans le dossier de l'entraînement."""

_FORMAT = "gpt-architecture reference"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceScores:
    """Les log p de la référence, pour un jeu de paires.

    Attributes:
        log_probs: (n,) fp32, un token de réponse après l'autre, paire après paire.
        source: les paires.
    """

    log_probs: Tensor
    source: PairTokens

    def of(self, numbers: NDArray[np.int64]) -> Tensor:
        """Ceux des réponses de ces paires, dans cet ordre : (m,) fp32."""
        ends = np.cumsum(self.source.answers.sum(axis=1))
        starts = ends - self.source.answers.sum(axis=1)
        return torch.cat([self.log_probs[starts[n] : ends[n]] for n in numbers.tolist()])


def read_or_measure(
    sources: Mapping[str, PairTokens],
    score: Scorer,
    *,
    window: int,
    batch_size: int,
    identity: Mapping[str, str],
    path: Path | str | None,
    world: World,
) -> dict[str, ReferenceScores]:
    """Les log p de la référence : relues si elles sont là, sinon calculées et gardées.

    Tous les processus l'appellent ensemble ; ils se partagent la passe.

    Args:
        sources: les paires, par nom de jeu.
        score: les logits du modèle de départ.
        window: longueur d'une rangée.
        batch_size: paires par lot.
        identity: ce dont elles dépendent : empreintes et calcul.
        path: leur fichier ; None : elles ne sont pas gardées.
        world: les processus.
    """
    path = None if path is None else Path(path)
    expected = {"format": _FORMAT, "version": "1", "window": str(window), **identity}
    found = None if path is None else _read(path, expected, sources)
    if world.any(found is None):
        total = sum(source.count for source in sources.values())
        logger.info("Log-probabilités de référence : %s…", counted(total, "paire"))
        found = {
            name: _measured(source, score, window=window, batch_size=batch_size, world=world)
            for name, source in sources.items()
        }
        if path is not None:
            tensors, kept = found, path
            on_main(world, lambda: _keep(kept, tensors, expected))
    return {name: ReferenceScores(found[name], source) for name, source in sources.items()}  # type: ignore[index]


def blank(source: PairTokens) -> ReferenceScores:
    """Une référence nulle, de la même taille : pour mesurer une durée."""
    return ReferenceScores(torch.zeros(int(source.answers.sum())), source)


@torch.no_grad()
def _measured(
    source: PairTokens, score: Scorer, *, window: int, batch_size: int, world: World
) -> Tensor:
    """log p de chaque token des réponses, (n,) ; chaque processus lit un lot à chaque tour."""
    counts = source.answers.sum(axis=1)
    ends = np.cumsum(counts)
    found = torch.zeros(int(ends[-1]))
    starts = np.arange(source.count, dtype=np.int64) * 2 * (window + 1)
    firsts = range(0, source.count, batch_size)
    for turn in range(0, len(firsts), world.size):
        mine = turn + world.rank
        first = firsts[min(mine, len(firsts) - 1)]
        inputs, targets = make_batch(source, starts[first : first + batch_size], window)
        wanted = targets.flatten()
        places = (wanted != IGNORED).nonzero().squeeze(1)
        log_probs = log_probs_of(score(inputs, places), wanted[places]).cpu()
        if mine < len(firsts):
            begin = int(ends[first] - counts[first])
            found[begin : begin + len(log_probs)] = log_probs
    return world.sum(found)  # chacun n'a rempli que ses places


def _keep(path: Path, found: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    try:
        write_atomically(path, lambda new: save_safetensors(new, found, header))
    except OutputError as error:  # la reprise les calculera de nouveau
        logger.warning("log-probabilités de référence non gardées : %s", error)


def _read(
    path: Path, expected: Mapping[str, str], sources: Mapping[str, PairTokens]
) -> dict[str, Tensor] | None:
    """Les log p gardées ; None si elles manquent, ou sont d'autres paires ou d'un autre modèle."""
    if not path.is_file():
        return None
    try:
        file = SafetensorsFile(path)
        if any(file.metadata.get(name) != value for name, value in expected.items()):
            return None
        tensors = file.tensors(verify=True)
    except GPTArchitectureError as error:
        logger.warning("log-probabilités de référence à refaire : %s", error)
        return None
    sizes = {name: int(source.answers.sum()) for name, source in sources.items()}
    same = {name: tensor.numel() for name, tensor in tensors.items()} == sizes
    return {name: tensor.clone() for name, tensor in tensors.items()} if same else None
