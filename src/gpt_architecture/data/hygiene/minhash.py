"""Les quasi-doublons : une signature MinHash par document, des bandes pour trouver les candidats.

La signature de `rensa` estime la similarité de Jaccard de deux ensembles de suites de mots à deux
centièmes près. Deux documents dont une bande coïncide sont comparés par elle ; à moins de quatre
écarts types du seuil, par leurs textes, exactement.

Formes : D documents, P permutations, B bandes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import Batch, Hashes
from gpt_architecture.errors import MissingDependencyError

PERMUTATIONS = 256
ROWS = 8
BANDS = PERMUTATIONS // ROWS
SHINGLE = 5
"""Mots d'une suite ; un document plus court n'en a qu'une, tous ses mots."""
_SEED = 0
_MAX_COMPARED = 64  # documents gardés d'une même bande auxquels un autre est comparé, au plus
_DOUBT = 0.08  # quatre écarts types de l'estimation
_MAX_JUDGED = 8  # documents auxquels un autre est comparé ainsi, les plus ressemblants, au plus
_REMEMBERED = 32  # textes dont les suites de mots restent en mémoire
_CHANCE = 1 / 256  # la signature gardée n'a que huit bits : elle coïncide aussi par hasard

Signatures = NDArray[np.uint8]


def signatures_of(batch: Batch) -> tuple[Signatures, Hashes]:
    """Les signatures d'un lot, et l'empreinte de leurs bandes.

    Returns:
        (D, P) huit bits de chaque valeur de la signature ; (B, D) empreintes.

    Raises:
        MissingDependencyError: rensa n'est pas installé.
    """
    try:
        from rensa import RMinHash  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError(
            "rensa", purpose="trouver les quasi-doublons", extra="hygiene"
        ) from None
    hashes, bounds = shingles_of(batch)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, bounds.astype(np.uint64), PERMUTATIONS, _SEED
    )
    total = batch.size * PERMUTATIONS
    values = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, total)
    values = values.reshape(batch.size, PERMUTATIONS)
    bands = np.zeros((BANDS, batch.size), np.uint64)
    for row in range(ROWS):
        bands = bands * np.uint64(0x9E3779B97F4A7C15) + values[:, row::ROWS].T
    return values.astype(np.uint8), bands ^ (bands >> np.uint64(32))


def shingles_of(batch: Batch) -> tuple[Hashes, NDArray[np.int64]]:
    """Les suites de `SHINGLE` mots de chaque document, et leurs bornes (D + 1,)."""
    hashes, places = batch.ngrams(SHINGLE)
    counts = np.maximum(batch.word_counts - SHINGLE + 1, 0)
    short = np.flatnonzero(counts == 0)
    if short.size:
        alone = batch.document_hashes[short]
        hashes = np.insert(hashes, np.searchsorted(batch.word_owners[places], short), alone)
        counts[short] = 1
    return hashes, np.concatenate([[0], np.cumsum(counts)])


def similarity(first: Signatures, second: Signatures) -> NDArray[np.float64]:
    """Similarité de Jaccard estimée de signatures ; les formes se diffusent, P en dernier."""
    same: NDArray[np.float64] = (first == second).mean(axis=-1)
    return (same - _CHANCE) / (1 - _CHANCE)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Similarité de Jaccard de deux ensembles d'empreintes, chacun sans répétition."""
    common = np.intersect1d(first, second, assume_unique=True).size
    return float(common / (first.size + second.size - common))


def near_duplicates(
    candidates: NDArray[np.bool_],
    band_of: Callable[[int], Hashes],
    signatures_at: Callable[[NDArray[np.int64]], Signatures],
    text_of: Callable[[int], str],
    threshold: float,
) -> dict[int, int]:
    """Les documents à écarter, chacun avec le document gardé auquel il ressemble.

    Ils sont vus dans l'ordre : le premier d'un groupe est gardé, et un document n'est comparé qu'à
    ceux qui le sont. Le résultat ne dépend donc que de la suite des documents.

    Args:
        candidates: (D,) vrai pour ceux qu'il faut regarder.
        band_of: rend les empreintes d'une bande, (D,).
        signatures_at: rend les signatures de documents, rangs croissants.
        text_of: rend le texte d'un document.
        threshold: similarité à partir de laquelle l'un des deux est écarté.
    """
    rows = [_shared(band_of(band), candidates) for band in range(BANDS)]
    concerned = np.unique(np.concatenate([members for members, _ in rows]))
    if not concerned.size:
        return {}
    signatures = signatures_at(concerned)
    groups: list[list[int]] = [[] for _ in range(concerned.size)]
    total = 0
    for members, labels in rows:
        for place, label in zip(
            np.searchsorted(concerned, members).tolist(), (labels + total).tolist(), strict=True
        ):
            groups[place].append(label)
        total += int(labels.max(initial=-1)) + 1

    @lru_cache(_REMEMBERED)
    def shingles(document: int) -> Hashes:
        return np.unique(shingles_of(Batch([text_of(document)]))[0])

    def alike(document: int, other: int, estimate: float) -> bool:
        if abs(estimate - threshold) < _DOUBT:
            estimate = jaccard(shingles(document), shingles(other))
        return estimate >= threshold

    kept: defaultdict[int, list[int]] = defaultdict(list)
    removed: dict[int, int] = {}
    for place, own in enumerate(groups):
        others = sorted({each for group in own for each in kept[group]})
        if others:
            document = int(concerned[place])
            found = similarity(signatures[others], signatures[place])
            best = np.argsort(-found, kind="stable")[:_MAX_JUDGED].tolist()
            ranked = ((int(concerned[others[each]]), float(found[each])) for each in best)
            twin = next((other for other, value in ranked if alike(document, other, value)), None)
            if twin is not None:
                removed[document] = twin
                continue
        for group in own:
            if len(kept[group]) < _MAX_COMPARED:
                kept[group].append(place)
    return removed


def _shared(
    hashes: Hashes, candidates: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Les documents candidats qui partagent une empreinte, et le numéro de leur groupe."""
    places = np.flatnonzero(candidates)
    values = hashes[places]
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    member = np.zeros(values.size, np.bool_)
    member[1:] |= same
    member[:-1] |= same
    new = np.ones(values.size, np.bool_)
    new[1:] = ~same
    labels = np.cumsum(new & member) - 1
    return places[order[member]], labels[member]
