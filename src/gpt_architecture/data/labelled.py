"""Des exemples étiquetés en tokens : un texte par rangée, une cible à son dernier token.

Une rangée de `window` + 1 tokens est complétée à droite ; sa seule cible suit le dernier token du
texte, que l'attention causale juge sans voir le remplissage. C'est un numéro de classe, ou les bits
d'une valeur.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import HeadConfig, TrainingConfig
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.labelled import Example

LABELS = "labels"
"""Ce que les métadonnées d'un modèle gardent de ses exemples étiquetés."""

_VALUE_OFFSET = 1 << 31


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Ce que des exemples étiquetés font apprendre.

    Attributes:
        head: la tête : ses classes, ou l'unité de sa valeur.
        train: exemples d'entraînement.
        val: exemples de validation.
        label_field: colonne de l'étiquette.
        text_field: colonne du texte.
        file_sha256: empreinte du fichier d'entraînement.
        split: vrai si la validation est une part de ce fichier.
        balance: vrai si chaque classe pèse autant dans la perte.
    """

    head: HeadConfig
    train: Sequence[Example]
    val: Sequence[Example]
    label_field: str
    text_field: str
    file_sha256: str
    split: bool
    balance: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Exemples d'entraînement de chaque classe, dans l'ordre de la tête."""
        found = Counter(str(each.label) for each in self.train)
        return {label: found[label] for label in self.head.labels}

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Le poids de chaque classe, n / (L · effectif) ; None : le même pour toutes."""
        if not self.balance:
            return None
        counts = self.counts
        return tuple(len(self.train) / (len(counts) * each) for each in counts.values())


class LabelledTexts(TokenArray):
    """Des textes étiquetés, à la suite, une rangée de `window` + 1 tokens chacun.

    Args:
        rows: tokens de chaque texte, de 1 à `window`.
        targets: cible de chacun, ≥ 0.
        window: longueur des entrées (T).
        padding: identifiant de remplissage.

    Attributes:
        count: nombre de textes.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], targets: Sequence[int], window: int, padding: int
    ) -> None:
        ids = np.full((len(rows), window + 1), padding, dtype=np.int64)
        wanted = np.full((len(rows), window + 1), IGNORED, dtype=np.int64)
        for index, (row, target) in enumerate(zip(rows, targets, strict=True)):
            ids[index, : len(row)] = row
            wanted[index, len(row)] = target  # la cible du dernier token est à la place d'après
        self.count = len(rows)
        self._targets = wanted.reshape(-1)
        super().__init__(ids.reshape(-1))

    @cached_property
    def sha256(self) -> str:
        """Empreinte des tokens et des cibles."""
        whole = self.read(0, self.num_tokens).numpy().astype("<i8").tobytes()
        return hashlib.sha256(whole + self._targets.astype("<i8").tobytes()).hexdigest()

    def read_targets(self, start: int, length: int) -> Tensor:
        """Les cibles [start, start + length[ : (length,) int64, `IGNORED` hors des étiquettes."""
        return torch.from_numpy(self._targets[start : start + length].copy())

    def count_learned(self, starts: NDArray[np.int64], window: int) -> int:
        """Cibles que les fenêtres commençant en `starts` font apprendre."""
        rows = (self._targets[s + 1 : s + 1 + window] for s in starts.tolist())
        return sum(int((row != IGNORED).sum()) for row in rows)


def targets_of(examples: Sequence[Example], head: HeadConfig) -> list[int]:
    """La cible de chaque exemple : le rang de sa classe, ou les bits de sa valeur réduite."""
    if not head.is_regression:
        ranks = {label: rank for rank, label in enumerate(head.labels)}
        return [ranks[str(each.label)] for each in examples]
    values = [(float(each.label) - head.center) / head.scale for each in examples]
    return encode_values(values)


def encode_values(values: Sequence[float]) -> list[int]:
    """Des nombres en cibles entières ≥ 0 : les bits de leur fp32 (`core.heads.decode_values`)."""
    bits = np.asarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    return [int(each) for each in bits + _VALUE_OFFSET]


def labels_of(found: LabelledData | None, training: TrainingConfig) -> dict[str, Any]:
    """Ce qu'un modèle garde de ses exemples étiquetés ; rien, pour du texte.

    De quoi retrouver, dans le même fichier, ceux qu'il n'a pas appris.
    """
    if found is None:
        return {}
    split = {"ratio": training.train_ratio, "seed": training.seed} if found.split else None
    return {
        LABELS: {
            "label": found.label_field,
            "text": found.text_field,
            "sha256": found.file_sha256,
            "split": split,
            "balance": found.balance,
            "examples": len(found.train),
            "counts": found.counts,
        }
    }
