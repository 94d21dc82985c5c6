"""Mesures de textes générés : variété, répétition, ressemblance entre eux.

Un texte est la suite de ses identifiants : les mesures ne dépendent d'aucun découpage en mots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[int]

REPEATED_LENGTH = 4
"""Longueur des suites dont le retour compte comme une répétition (Welleck et al., 2020)."""

BLEU_ORDER = 4
_SMOOTHING = 0.1


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
