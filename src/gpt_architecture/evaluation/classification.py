"""Ce que vaut un modèle qui classe ou note des textes : exactitude, F1, confusion, écarts.

Formes : N textes, L classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gpt_architecture.evaluation.likelihood import (
    Interval,
    bootstrap_interval,
    resampled_interval,
    wilson_interval,
)
from gpt_architecture.evaluation.reliability import Calibration, calibration_of
from gpt_architecture.french import percent, significant

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Une classe.

    Attributes:
        label: son nom.
        support: exemples qui en sont.
        precision: part juste de ce qui lui est attribué ; 0 si rien ne l'est.
        recall: part de ses exemples qui lui est attribuée ; 0 s'il n'y en a pas.
        f1: leur moyenne harmonique.
    """

    label: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """Un classement, sur tous les exemples.

    Attributes:
        labels: noms des classes (L).
        truth: rang de la vraie classe de chaque exemple, (N,) int64.
        probabilities: (N, L), chaque ligne de somme 1.
    """

    labels: tuple[str, ...]
    truth: Ints
    probabilities: Floats

    @cached_property
    def chosen(self) -> Ints:
        """Rang de la classe la plus probable de chaque exemple, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        """Part des exemples bien classés."""
        return float((self.chosen == self.truth).mean())

    @property
    def accuracy_interval(self) -> Interval:
        """Son intervalle de confiance à 95 % (Wilson)."""
        return wilson_interval(int((self.chosen == self.truth).sum()), len(self.truth))

    @property
    def majority(self) -> float:
        """L'exactitude de qui répondrait toujours la classe la plus fréquente."""
        return float(np.bincount(self.truth).max() / len(self.truth))

    @cached_property
    def confusion(self) -> Ints:
        """(L, L) : exemples de la classe de la ligne, attribués à celle de la colonne."""
        size = len(self.labels)
        counts = np.bincount(self.truth * size + self.chosen, minlength=size * size)
        return np.asarray(counts.reshape(size, size), dtype=np.int64)

    @property
    def classes(self) -> list[ClassScore]:
        """Chaque classe."""
        precision, recall, f1 = _per_class(self.truth, self.chosen, len(self.labels))
        support = self.confusion.sum(axis=1)
        return [
            ClassScore(
                label=label,
                support=int(support[rank]),
                precision=float(precision[rank]),
                recall=float(recall[rank]),
                f1=float(f1[rank]),
            )
            for rank, label in enumerate(self.labels)
        ]

    @property
    def macro_f1(self) -> float:
        """Moyenne des F1 des classes qui paraissent, vraies ou attribuées."""
        return self._macro_f1(slice(None))

    @property
    def macro_f1_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %, par tirage avec remise des exemples de chaque classe.

        Chaque vraie classe garde son effectif et toutes comptent dans chaque tirage : sans l'une
        d'elles, ce serait la moyenne d'autres classes. None : un exemple seul de sa classe, ou des
        tirages tous égaux (un sans-faute), ne disent rien de l'incertitude.
        """
        return resampled_interval(len(self.truth), self._macro_f1, strata=self.truth)

    def _macro_f1(self, drawn: Ints | slice) -> float:
        """Celle d'un tirage ; les classes sont toujours celles de tous les exemples."""
        found = _per_class(self.truth[drawn], self.chosen[drawn], len(self.labels))
        return float(found[2][self._seen].mean())

    @cached_property
    def _seen(self) -> Ints:
        return np.union1d(self.truth, self.chosen)

    @property
    def calibration(self) -> Calibration:
        """Confiance et exactitude ; `error` est l'ECE."""
        confidence = torch.from_numpy(self.probabilities.max(axis=1))
        own = self.probabilities[np.arange(len(self.truth)), self.truth]
        nll = float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).sum())
        return calibration_of(confidence, torch.from_numpy(self.chosen == self.truth), nll)


@dataclass(frozen=True, kw_only=True)
class ValueResult:
    """Des valeurs prédites, sur tous les exemples.

    Attributes:
        truth: les vraies, (N,).
        found: les prédites, (N,).
    """

    truth: Floats
    found: Floats

    @property
    def mae(self) -> float:
        """Écart absolu moyen."""
        return float(np.abs(self.found - self.truth).mean())

    @property
    def mae_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        return bootstrap_interval(np.abs(self.found - self.truth).tolist(), [1.0] * len(self.truth))

    @property
    def rmse(self) -> float:
        """Racine de l'écart quadratique moyen."""
        return math.sqrt(float(((self.found - self.truth) ** 2).mean()))

    @property
    def rmse_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        squares = ((self.found - self.truth) ** 2).tolist()
        found = bootstrap_interval(squares, [1.0] * len(squares))
        return found and (math.sqrt(found[0]), math.sqrt(found[1]))

    @property
    def r2(self) -> float:
        """Part de la variance expliquée ; NaN si toutes les vraies valeurs sont égales."""
        return _r2(self.truth, self.found)

    @property
    def r2_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        return resampled_interval(
            len(self.truth), lambda drawn: _r2(self.truth[drawn], self.found[drawn])
        )

    @property
    def spearman(self) -> float:
        """Corrélation des rangs ; NaN si l'une des deux suites est constante."""
        return _spearman(self.truth, self.found)

    @property
    def spearman_interval(self) -> Interval | None:
        """Son intervalle de confiance à 95 %."""
        return resampled_interval(
            len(self.truth), lambda drawn: _spearman(self.truth[drawn], self.found[drawn])
        )


@dataclass(frozen=True, kw_only=True)
class LabelMeasures:
    """Un modèle mesuré sur des exemples étiquetés, et une référence à côté.

    Attributes:
        name: le fichier des exemples.
        result: ce que vaut le modèle.
        reference: ce que vaut la référence (voir `word_weights`) ; None : rien d'où l'apprendre.
        learned: exemples qu'elle a appris.
        held_out: vrai si du fichier, qui est celui de l'entraînement, seule la validation est
            mesurée.
        truncated: textes dont seul le début est lu.
    """

    name: str
    result: ClassResult | ValueResult
    reference: ClassResult | ValueResult | None = None
    learned: int = 0
    held_out: bool = False
    truncated: int = 0

    @property
    def said(self) -> str:
        """L'essentiel : « exactitude 93,1 % », ou « écart absolu moyen 0,42 »."""
        if isinstance(self.result, ClassResult):
            return f"exactitude {percent(self.result.accuracy)}"
        return f"écart absolu moyen {significant(self.result.mae)}"

    @property
    def calibration(self) -> Calibration | None:
        """Confiance et exactitude du modèle ; None pour des valeurs."""
        return self.result.calibration if isinstance(self.result, ClassResult) else None

    @property
    def gain(self) -> tuple[float, Interval | None] | None:
        """Ce que le modèle gagne sur la référence, et son intervalle à 95 %, exemple par exemple.

        En exactitude pour des classes, en écart absolu moyen pour des valeurs : positif, le modèle
        l'emporte. None : pas de référence.
        """
        own, other = self.result, self.reference
        if isinstance(own, ClassResult) and isinstance(other, ClassResult):
            right = (each.chosen == each.truth for each in (own, other))
            gains = np.subtract(*(each.astype(np.float64) for each in right))
        elif isinstance(own, ValueResult) and isinstance(other, ValueResult):
            gains = np.abs(other.found - other.truth) - np.abs(own.found - own.truth)
        else:
            return None
        return float(gains.mean()), bootstrap_interval(gains.tolist(), [1.0] * len(gains))


def _per_class(truth: Ints, chosen: Ints, size: int) -> tuple[Floats, Floats, Floats]:
    """Précision, rappel et F1 de chaque classe, (L,) ; 0 là où ils n'ont pas de sens.

    Sans la matrice de confusion, que mille tirages de mille classes rendraient interminable.
    """
    right = np.bincount(truth[truth == chosen], minlength=size).astype(np.float64)
    given, own = (np.bincount(each, minlength=size) for each in (chosen, truth))
    precision, recall = right / np.maximum(given, 1), right / np.maximum(own, 1)
    return precision, recall, 2 * right / np.maximum(given + own, 1)


def _r2(truth: Floats, found: Floats) -> float:
    spread = float(((truth - truth.mean()) ** 2).sum())
    return math.nan if not spread else 1 - float(((truth - found) ** 2).sum()) / spread


def _spearman(truth: Floats, found: Floats) -> float:
    first, second = (_ranks(each) - (len(each) + 1) / 2 for each in (truth, found))
    spread = math.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return math.nan if not spread else float((first * second).sum()) / spread


def _ranks(values: Floats) -> Floats:
    """Le rang de chaque valeur, depuis 1 ; des valeurs égales ont leur rang moyen."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places], dtype=np.float64)
