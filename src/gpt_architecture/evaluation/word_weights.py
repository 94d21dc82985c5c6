"""La référence d'un classement : des mots pesés (TF-IDF), puis une régression.

Mêmes calculs que `TfidfVectorizer`, puis
`LogisticRegression` ou `Ridge`, de scikit-learn, à leurs valeurs par défaut : c'est l'oracle des
tests.

Formes : N textes, W mots connus, L classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_WORD = re.compile(r"\b\w\w+\b")
_MAX_STEPS = 2000
_TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True)
class WordWeights:
    """Un vocabulaire de mots, leur rareté, et une régression sur eux.

    Attributes:
        places: rang de chaque mot connu.
        idf: rareté de chacun, ln((1 + N) / (1 + textes qui l'ont)) + 1 (W,).
        weights: (W, L) ; une colonne pour deux classes, ou pour une valeur.
        bias: (L,).
        classes: nombre de classes ; 0 : une valeur.
    """

    places: dict[str, int]
    idf: Tensor
    weights: Tensor
    bias: Tensor
    classes: int

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, classes), chaque ligne de somme 1."""
        scores = self._scores(texts)
        if self.classes == 2:  # une seule colonne, comme scikit-learn
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
        found: NDArray[np.float64] = scores.softmax(dim=1).numpy()
        return found

    def values(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N,)."""
        found: NDArray[np.float64] = self._scores(texts)[:, 0].numpy()
        return found

    def _scores(self, texts: Sequence[str]) -> Tensor:
        matrix = _weighed(texts, self.places, self.idf)
        scores: Tensor = torch.sparse.mm(matrix, self.weights)
        return scores + self.bias


def learn_classes(
    texts: Sequence[str], ranks: Sequence[int], *, classes: int, balance: bool = False
) -> WordWeights:
    """La régression logistique de ces textes, de pénalité ½·‖w‖² (C = 1).

    Args:
        texts: les textes d'entraînement.
        ranks: la classe de chacun, de 0 à `classes` - 1.
        classes: nombre de classes, au moins deux.
        balance: vrai : chaque classe pèse autant.
    """
    wanted = torch.tensor(ranks)
    each = torch.ones(len(texts), dtype=torch.float64)
    if balance:
        counts = torch.bincount(wanted, minlength=classes)
        present = int((counts > 0).sum())
        each = (len(texts) / (present * counts.clamp(min=1).double()))[wanted]

    def loss(scores: Tensor) -> Tensor:
        if classes == 2:
            flat, right = scores[:, 0], wanted.double()
            losses = F.binary_cross_entropy_with_logits(flat, right, reduction="none")
        else:
            losses = F.cross_entropy(scores, wanted, reduction="none")
        return (each * losses).sum()

    return _learn(texts, loss, columns=1 if classes == 2 else classes, classes=classes)


def learn_values(texts: Sequence[str], values: Sequence[float]) -> WordWeights:
    """La régression de crête de ces textes, de pénalité ‖w‖² (alpha = 1)."""
    wanted = torch.tensor(values, dtype=torch.float64)
    start = float(wanted.mean())

    def loss(scores: Tensor) -> Tensor:
        return (scores[:, 0] - wanted).square().sum() / 2  # la pénalité est ½·‖w‖² aussi

    return _learn(texts, loss, columns=1, classes=0, bias=start)


def _learn(
    texts: Sequence[str],
    loss: Callable[[Tensor], Tensor],
    *,
    columns: int,
    classes: int,
    bias: float = 0.0,
) -> WordWeights:
    """Minimise `loss` + ½·‖w‖² par L-BFGS, depuis zéro, en fp64 : rien n'est tiré au hasard."""
    counts = [Counter(_words(text)) for text in texts]
    names = sorted(set().union(*counts))
    places = {name: place for place, name in enumerate(names)}
    seen = torch.tensor(_document_counts(counts, places), dtype=torch.float64)
    idf = ((1 + len(texts)) / (1 + seen)).log() + 1
    matrix = _weighed(texts, places, idf)
    weights = torch.zeros(len(names), columns, dtype=torch.float64, requires_grad=True)
    offset = torch.full((columns,), bias, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, offset],
        max_iter=_MAX_STEPS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def measure() -> Tensor:
        optimizer.zero_grad()
        total = loss(torch.sparse.mm(matrix, weights) + offset)
        total = total + weights.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(measure)  # type: ignore[no-untyped-call]
    return WordWeights(
        places=places,
        idf=idf,
        weights=weights.detach(),
        bias=offset.detach(),
        classes=classes,
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _document_counts(counts: Sequence[Counter[str]], places: dict[str, int]) -> list[float]:
    found = [0.0] * len(places)
    for each in counts:
        for name in each:
            found[places[name]] += 1
    return found


def _weighed(texts: Sequence[str], places: dict[str, int], idf: Tensor) -> Tensor:
    """(N, W) creuse : occurrences · rareté, chaque ligne de norme 1 ; les mots inconnus ôtés."""
    rows, columns, values = list[int](), list[int](), list[float]()
    for row, text in enumerate(texts):
        for name, count in Counter(_words(text)).items():
            if (place := places.get(name)) is not None:
                rows.append(row)
                columns.append(place)
                values.append(count)
    at = torch.tensor([rows, columns], dtype=torch.int64)
    found = torch.tensor(values, dtype=torch.float64) * idf[at[1]]
    norms = torch.zeros(len(texts), dtype=torch.float64).index_add_(0, at[0], found.square())
    found = found / norms.sqrt().clamp(min=1e-300)[at[0]]
    return torch.sparse_coo_tensor(
        at, found, (len(texts), len(places)), check_invariants=False
    ).coalesce()
