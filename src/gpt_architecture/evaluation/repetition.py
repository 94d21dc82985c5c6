"""Ce qui se répète : dans un texte, d'un texte à l'autre, d'un corpus à un texte.

Un texte est la suite de ses identifiants : les mesures ne dépendent d'aucun découpage en mots. La
recherche dans un corpus est exacte, sans empreinte ni approximation : un tableau de ses suffixes
(Manber et Myers, 1993), bâti par doublement, puis une recherche dichotomique menée pour toutes les
places à la fois. Le corpus est lu par blocs qui se recouvrent : la mémoire ne dépend pas de sa
longueur.

Formes : N tokens d'un bloc, M tokens de tous les textes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt_architecture.data.provenance.suffixes import Integers, suffix_order
from gpt_architecture.data.shards.reader import TokenSource

Tokens = Sequence[int]

REPEATED_LENGTH = 4
"""Longueur des suites dont le retour compte comme une répétition (Welleck et al., 2020)."""

BLEU_ORDER = 4
_SMOOTHING = 0.1

BLOCK_TOKENS = 1 << 21
"""Tokens du corpus indexés à la fois : une centaine de mégaoctets."""

_END = -1  # avant tout identifiant


def ngrams(tokens: Tokens, n: int) -> list[tuple[int, ...]]:
    """Tous les n-grammes, dans l'ordre du texte."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def distinct_n(tokens: Tokens, n: int) -> float:
    """Part de n-grammes différents (Li et al., 2016), dans ]0, 1] ; 1 s'il n'y en a aucun."""
    grams = ngrams(tokens, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Tokens) -> float:
    """Part de quadruplets déjà vus dans le texte (seq-rep-4, Welleck et al., 2020)."""
    return 1.0 - distinct_n(tokens, REPEATED_LENGTH)


def repeated_places(tokens: Tokens) -> frozenset[int]:
    """Places des tokens qui appartiennent à un quadruplet déjà vu."""
    seen = set[tuple[int, ...]]()
    places = set[int]()
    for start, gram in enumerate(ngrams(tokens, REPEATED_LENGTH)):
        if gram in seen:
            places.update(range(start, start + REPEATED_LENGTH))
        seen.add(gram)
    return frozenset(places)


def self_bleu(texts: Sequence[Tokens]) -> float | None:
    """BLEU-4 moyen de chaque texte contre tous les autres (Zhu et al., 2018), dans [0, 1].

    1 : ils sont tous le même ; près de 0 : ils ne partagent presque rien. Un ordre sans n-gramme
    commun compte 0,1 n-gramme (méthode 1 de Chen et Cherry, 2014), sans quoi deux textes courts
    ne se ressembleraient jamais ; un ordre plus long que le texte est ignoré. None : il faut au
    moins deux textes.
    """
    if len(texts) < 2:
        return None
    shared = [_shared_counts(texts, n) for n in range(1, BLEU_ORDER + 1)]  # par ordre, par texte
    total = 0.0
    for place, text in enumerate(texts):
        if not shared[0][place]:
            continue  # pas un mot en commun : 0
        orders = shared[: len(text)]
        logs = [
            math.log((common[place] or _SMOOTHING) / max(1, len(text) - n + 1))
            for n, common in enumerate(orders, start=1)
        ]
        others = (len(each) for number, each in enumerate(texts) if number != place)
        closest = min((abs(length - len(text)), length) for length in others)[1]
        total += math.exp(min(0.0, 1 - closest / len(text)) + sum(logs) / len(logs))
    return total / len(texts)


def _shared_counts(texts: Sequence[Tokens], n: int) -> list[int]:
    """Pour chaque texte, ses n-grammes présents ailleurs, comptés comme BLEU les plafonne.

    Le plafond d'un n-gramme est le plus grand nombre de fois qu'un seul des autres textes le
    contient : le plus grand de tous, ou le second pour le texte qui détient le plus grand.
    """
    counts = [Counter(ngrams(text, n)) for text in texts]
    best, second = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for each in counts:
        for gram, count in each.items():
            if count > best[gram]:
                best[gram], second[gram] = count, best[gram]
            elif count > second[gram]:
                second[gram] = count
    return [
        sum(
            min(count, second[gram] if count == best[gram] else best[gram])
            for gram, count in each.items()
        )
        for each in counts
    ]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Ce qu'un texte partage avec un corpus, place par place.

    Attributes:
        lengths: longueur de la plus longue suite du corpus qui commence à chaque place du texte,
            sans en dépasser la fin ; 0 : ce token n'est nulle part dans le corpus.
        places: où elle commence dans le corpus ; −1 : nulle part.
    """

    lengths: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Longueur de la plus longue suite commune, en tokens."""
        return max(self.lengths, default=0)

    def count(self, n: int) -> tuple[int, int]:
        """(n-grammes présents dans le corpus, n-grammes du texte)."""
        return sum(length >= n for length in self.lengths), max(0, len(self.lengths) - n + 1)

    def passages(self, shortest: int) -> list[tuple[int, int, int]]:
        """Suites communes d'au moins `shortest` tokens, aucune contenue dans une autre.

        Returns:
            (début, fin exclue, début dans le corpus), dans l'ordre du texte.
        """
        found, reached = list[tuple[int, int, int]](), 0
        for start, (length, place) in enumerate(zip(self.lengths, self.places, strict=True)):
            if length >= max(1, shortest) and start + length > reached:
                found.append((start, start + length, place))
            reached = max(reached, start + length)
        return found


def overlaps(
    corpus: TokenSource,
    texts: Sequence[Tokens],
    *,
    block_tokens: int = BLOCK_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Overlap]:
    """Cherche chaque suite de chaque texte dans le corpus.

    Args:
        corpus: tokens où chercher.
        texts: identifiants de chaque texte.
        block_tokens: tokens indexés à la fois ; sans effet sur le résultat.
        on_progress: appelé avec (tokens du corpus lus, en tout).
    """
    query = np.concatenate([np.asarray(text, dtype=np.int64) for text in [*texts, []]])  # (M,)
    rooms = [np.arange(len(text), 0, -1) for text in texts]
    room = np.concatenate([*rooms, np.empty(0, dtype=np.int64)])  # tokens jusqu'à la fin du texte
    depth = max((len(text) for text in texts), default=0)
    lengths, places = np.zeros_like(query), np.full_like(query, -1)
    total, step = corpus.num_tokens, max(1, block_tokens)
    for start in range(0, total, step) if depth else ():
        # Le recouvrement : une suite à cheval sur deux blocs est entière dans le premier.
        block = corpus.read(start, min(step + depth - 1, total - start)).numpy()
        here, where = _longest(block, query, room, depth)
        better = here > lengths
        lengths[better], places[better] = here[better], start + where[better]
        if on_progress is not None:
            on_progress(min(start + step, total), total)
    ends = np.cumsum([len(text) for text in texts])
    return [
        Overlap(lengths=tuple(each.tolist()), places=tuple(where.tolist()))
        for each, where in zip(
            np.split(lengths, ends)[: len(texts)], np.split(places, ends), strict=False
        )
    ]


def _longest(
    block: Integers, query: Integers, room: Integers, depth: int
) -> tuple[Integers, Integers]:
    """Longueur et place, dans le bloc, de la plus longue suite commune à chaque place (M,).

    Les suffixes qui commencent par ce qui est déjà reconnu forment un intervalle du tableau ;
    chaque token de plus le resserre, jusqu'à ce qu'il soit vide.
    """
    order = suffix_order(block, depth)
    padded = np.append(block, _END)
    low, high = np.zeros_like(query), np.full_like(query, len(block))
    lengths = np.zeros_like(query)
    active = np.flatnonzero(room > 0)
    for offset in range(depth):
        if not active.size:
            break
        wanted = query[active + offset]
        first = _bound(padded, order, low[active], high[active], offset, wanted)
        last = _bound(padded, order, first, high[active], offset, wanted + 1)
        found = last > first
        active = active[found]
        low[active], high[active] = first[found], last[found]
        lengths[active] += 1
        active = active[room[active] > offset + 1]
    return lengths, np.where(lengths > 0, order[np.minimum(low, len(order) - 1)], -1)


def _bound(
    padded: Integers, order: Integers, low: Integers, high: Integers, offset: int, wanted: Integers
) -> Integers:
    """Premier rang de [low, high[ dont le token, à `offset` du début, vaut au moins `wanted`."""
    low, high = low.copy(), high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        # Un intervalle vide peut finir au-delà du tableau : sa lecture est sans effet.
        suffix = order[np.minimum(middle, len(order) - 1)]
        before = padded[np.minimum(suffix + offset, len(padded) - 1)] < wanted
        is_open = low < high
        low = np.where(is_open & before, middle + 1, low)
        high = np.where(is_open & ~before, middle, high)
    return low
