"""Les n-grammes de Kneser–Ney interpolés : ce que prédisent les seuls comptes d'un texte.

Sources : Kneser et Ney (1995) ; Chen et Goodman (1998), pour la forme interpolée ; Ney, Essen et
Kneser (1994), pour la remise n₁ / (n₁ + 2·n₂).

Formes : B fenêtres, T tokens, N tokens du texte, G k-grammes différents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import check_int

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Les comptes d'un ordre, et ce qu'ils font d'un contexte.

    Attributes:
        of_gram: compte de chaque k-gramme, (G,).
        total: somme des comptes de chaque contexte.
        distinct: tokens différents comptés après chaque contexte.
        discount: ce qui est retiré à chaque compte, et rendu à l'ordre inférieur.
    """

    of_gram: NDArray[np.int32]
    total: NDArray[np.int32]
    distinct: NDArray[np.int32]
    discount: float


@dataclass(frozen=True, kw_only=True)
class _Order:
    """Les k-grammes d'un texte.

    Attributes:
        keys: k-grammes croissants, (G,) : numéro du contexte × V + dernier token.
        raw: leurs occurrences.
        continued: leurs continuations : combien de tokens différents les précèdent ; None au plus
            grand ordre.
    """

    keys: Ints
    raw: _Counts
    continued: _Counts | None


class KneserNey:
    """Les n-grammes d'un texte, de l'unigramme à `order`, comptés une fois.

    À l'ordre n, p(w | h) = max(c(hw) − D, 0) / c(h) + D·d(h) / c(h) · p(w | h′), où c compte les
    occurrences à l'ordre n et les continuations plus bas, d(h) les tokens différents après h, et
    h′ est h sans son premier token ; l'unigramme s'interpole avec l'uniforme 1 / V.

    Args:
        segments: les morceaux du texte, chacun (N,) ; aucun n-gramme n'enjambe deux d'entre eux.
        vocab_size: tokens du vocabulaire (V).
        order: plus grand ordre.
        learned: pour chaque morceau, les tokens comptés, (N,) ; les autres ne servent que de
            contexte ; None : tous.
    """

    def __init__(
        self,
        segments: Sequence[Ints],
        vocab_size: int,
        *,
        order: int,
        learned: Sequence[Bools] | None = None,
    ) -> None:
        check_int("order", order, minimum=1)
        self.order, self.vocab_size = order, vocab_size
        tokens = np.concatenate(segments).astype(np.int64)
        counted = np.ones(tokens.size, bool) if learned is None else np.concatenate(learned)
        depth = np.concatenate([np.arange(each.size) for each in segments])
        self._orders: list[_Order] = []
        found = list[tuple[Ints, Ints, NDArray[np.int32]]]()  # clés, contextes, occurrences
        suffixes = list[Ints]()  # pour chaque k-gramme, le numéro de celui sans son premier token
        grams = np.zeros(tokens.size, np.int64)  # numéro du (k − 1)-gramme qui finit là
        for k in range(1, order + 1):
            ends = np.flatnonzero(depth >= k - 1)
            contexts = grams[ends - 1] if k > 1 else np.zeros(ends.size, np.int64)
            keys, first, numbers = np.unique(
                contexts * vocab_size + tokens[ends], return_index=True, return_inverse=True
            )
            occurrences = np.bincount(numbers, weights=counted[ends], minlength=keys.size)
            found.append((keys, keys // vocab_size, occurrences.astype(np.int32)))
            suffixes.append(grams[ends[first]])
            grams[ends] = numbers
        for k, (keys, contexts, raw) in enumerate(found, 1):
            size = found[k - 2][0].size if k > 1 else 1
            continued = None
            if k < order:
                seen = suffixes[k][found[k][2] > 0]
                preceding = np.bincount(seen, minlength=keys.size).astype(np.int32)
                continued = _counts(preceding, contexts, size)
            self._orders.append(
                _Order(keys=keys, raw=_counts(raw, contexts, size), continued=continued)
            )

    def losses(self, rows: Ints, *, order: int | None = None) -> Floats:
        """−ln p de chaque token d'une fenêtre, hors le premier, sachant ceux qui le précèdent.

        Un token dont la fenêtre ne montre pas tout le contexte est prédit de ce qu'elle montre.

        Args:
            rows: fenêtres et leur cible, (B, T + 1).
            order: ordre du modèle ; None : le plus grand.

        Returns:
            En nats, (B, T).
        """
        order = self.order if order is None else order
        check_int("order", order, minimum=1, maximum=self.order)
        targets = rows[:, 1:]
        chance = np.full(targets.shape, 1 / self.vocab_size)
        grams = np.zeros(rows.shape, np.int64)  # (k − 1)-gramme qui finit là ; −1 : inédit
        for k in range(1, order + 1):
            level = self._orders[k - 1]
            contexts = np.full(rows.shape, -1 if k > 1 else 0, np.int64)
            contexts[:, 1:] = grams[:, :-1] if k > 1 else 0
            numbers = _number_of(contexts, rows, level.keys, self.vocab_size)
            counts = level.raw if k == order or level.continued is None else level.continued
            chance = _interpolated(chance, counts, contexts[:, 1:], numbers[:, 1:])
            grams = numbers
        losses: Floats = -np.log(chance)
        return losses


def _counts(of_gram: NDArray[np.int32], contexts: Ints, size: int) -> _Counts:
    ones, twos = int(np.sum(of_gram == 1)), int(np.sum(of_gram == 2))
    total = np.bincount(contexts, weights=of_gram, minlength=size)
    return _Counts(
        of_gram=of_gram,
        total=total.astype(np.int32),
        distinct=np.bincount(contexts[of_gram > 0], minlength=size).astype(np.int32),
        discount=ones / (ones + 2 * twos) if ones and twos else 0.5,
    )


def _number_of(contexts: Ints, tokens: Ints, keys: Ints, vocab_size: int) -> Ints:
    """Le numéro de chaque k-gramme, ou −1 s'il est inédit."""
    wanted = contexts * vocab_size + tokens
    places = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where((contexts >= 0) & (keys[places] == wanted), places, -1)


def _interpolated(lower: Floats, counts: _Counts, contexts: Ints, numbers: Ints) -> Floats:
    """p(w | h) à un ordre, depuis celle de l'ordre inférieur ; la même si h est inédit."""
    total = np.where(contexts >= 0, counts.total[contexts], 0)
    known = total > 0
    divisor = np.where(known, total, 1)
    own = np.where(numbers >= 0, counts.of_gram[numbers], 0)
    kept = np.maximum(own - counts.discount, 0.0) / divisor
    left = counts.discount * counts.distinct[contexts] / divisor
    return np.where(known, kept + left * lower, lower)
