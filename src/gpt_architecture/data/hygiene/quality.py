"""La qualité d'un document : ce qui distingue un texte suivi d'une liste ou d'un écho."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import (
    BULLET,
    ELLIPSIS,
    ENDING,
    LETTER,
    SYMBOL,
    Batch,
    Hashes,
    hash_text,
)
from gpt_architecture.data.hygiene.config import FUNCTION_WORDS, QualityRules
from gpt_architecture.data.texts.documents import Rejected
from gpt_architecture.french import short

QUALITY = "qualité"
_PLACEHOLDER = "lorem ipsum"
_OWNER_BITS = np.uint64(22)  # un document a au moins deux caractères, son séparateur compris

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Ce que les règles regardent, par document : (D,) chacun ; les parts vont de 0 à 1.

    Attributes:
        words: mots.
        word_length: longueur moyenne d'un mot, en caractères.
        symbols: symboles (« # », accolades, points de suspension) par mot.
        letters: part des mots qui ont une lettre.
        function_words: mots-outils différents, dans la langue qui en a le plus.
        bullets: part des lignes qui commencent par une puce.
        ellipses: part des lignes qui finissent par des points de suspension.
        punctuated: part des lignes qui finissent par une ponctuation.
        repeated_lines: part des lignes déjà vues dans le document.
        top_bigram: part des mots que couvre la paire la plus fréquente, si elle revient.
        top_trigram: la même chose pour trois mots.
        top_fourgram: la même chose pour quatre mots.
        repeated_fivegrams: part des suites de cinq mots déjà vues dans le document.
        repeated_tengrams: la même chose pour dix mots.
        placeholder: 1 pour un faux texte de maquette.
    """

    words: Counts
    word_length: Shares
    symbols: Shares
    letters: Shares
    function_words: Counts
    bullets: Shares
    ellipses: Shares
    punctuated: Shares
    repeated_lines: Shares
    top_bigram: Shares
    top_trigram: Shares
    top_fourgram: Shares
    repeated_fivegrams: Shares
    repeated_tengrams: Shares
    placeholder: Counts


class _WordSet:
    """Les mots-outils d'une langue, cherchés par les bits de tête de leur empreinte."""

    def __init__(self, words: str) -> None:
        self.hashes = np.array([hash_text(word) for word in words.split()], np.uint64)
        self._ranks = np.zeros(1 << 16, np.int16)
        self._shift = np.uint64(
            next(
                shift
                for shift in range(49)
                if len({int(h) >> shift & 0xFFFF for h in self.hashes}) == self.hashes.size
            )
        )
        self._ranks[self._slots(self.hashes)] = np.arange(self.hashes.size)

    def _slots(self, hashes: Hashes) -> NDArray[np.uint16]:
        return (hashes >> self._shift).astype(np.uint16)

    def ranks(self, hashes: Hashes) -> NDArray[np.int16]:
        """Rang de chaque mot dans la liste, depuis 1 ; 0 : il n'y est pas."""
        candidates = self._ranks[self._slots(hashes)]
        return np.where(self.hashes[candidates] == hashes, candidates + np.int16(1), np.int16(0))


@cache
def _word_set(language: str) -> _WordSet:
    return _WordSet(FUNCTION_WORDS[language])


@dataclass(frozen=True)
class FunctionWords:
    """Les mots-outils d'un lot, par langue de `FUNCTION_WORDS`.

    Attributes:
        shares: (langues, D) part des mots de chaque document qui en sont.
        distinct: (D,) combien de différents, dans la langue qui en a le plus.
    """

    shares: Shares
    distinct: Counts

    @classmethod
    def of(cls, batch: Batch) -> FunctionWords:
        """Les compte."""
        shares, most = [], np.zeros(batch.size, np.int64)
        for language in FUNCTION_WORDS:
            known = _word_set(language)
            ranks = known.ranks(batch.words)
            here = np.flatnonzero(ranks)
            seen = np.zeros((batch.size, known.hashes.size + 1), np.bool_)
            seen[batch.word_owners[here], ranks[here]] = True
            most = np.maximum(most, seen.sum(axis=1))
            shares.append(batch.word_sums(ranks > 0) / np.maximum(batch.word_counts, 1))
        return cls(np.stack(shares), most)


def features_of(batch: Batch, function_words: FunctionWords) -> Features:
    """Les mesures de chaque document d'un lot.

    Args:
        batch: le lot.
        function_words: `FunctionWords.of(batch)`.
    """
    lines, kinds, codes = batch.lines, batch.kinds, batch.codes
    words = np.maximum(batch.word_counts, 1)
    filled = lines.lengths > 0
    rows = np.maximum(lines.sums(filled), 1)
    letters = np.zeros(codes.size + 1, np.int64)
    np.cumsum(kinds & LETTER != 0, out=letters[1:])
    lettered = letters[batch.word_ends] > letters[batch.word_starts]
    dots = codes == ord(".")
    dotted = np.zeros(codes.size, np.bool_)
    dotted[2:] = dots[2:] & dots[1:-1] & dots[:-2]
    dotted[3:] &= ~dots[:-3]  # « .... » n'en fait qu'un
    tops = [_repetition(batch, size) for size in (2, 3, 4)]
    top = [
        np.where(most > 1, np.minimum(1.0, size * most / words), 0.0)
        for size, (_, _, most) in zip((2, 3, 4), tops, strict=True)
    ]
    echoes = [_repetition(batch, size) for size in (5, 10)]
    repeated = [1 - distinct / np.maximum(total, 1) for total, distinct, _ in echoes]
    _, different = _distinct(lines.hashes[filled], lines.owners[filled], batch.size)
    return Features(
        words=batch.word_counts,
        word_length=batch.word_sums(batch.word_ends - batch.word_starts) / words,
        symbols=batch.character_sums((kinds & SYMBOL != 0) | dotted) / words,
        letters=batch.word_sums(lettered) / words,
        function_words=function_words.distinct,
        bullets=lines.sums(lines.starting(BULLET) | lines.starting_with("- ")) / rows,
        ellipses=lines.sums(lines.ending(ELLIPSIS) | lines.ending_with("...")) / rows,
        punctuated=lines.sums(lines.ending(ENDING)) / rows,
        repeated_lines=(lines.sums(filled) - different) / rows,
        top_bigram=top[0],
        top_trigram=top[1],
        top_fourgram=top[2],
        repeated_fivegrams=np.where(echoes[0][0] > 0, repeated[0], 0.0),
        repeated_tengrams=np.where(echoes[1][0] > 0, repeated[1], 0.0),
        placeholder=batch.holding(_PLACEHOLDER).astype(np.int64),
    )


def _repetition(batch: Batch, size: int) -> tuple[Counts, Counts, Counts]:
    """(D,) Suites de `size` mots, suites différentes, occurrences de la plus fréquente."""
    hashes, places = batch.ngrams(size)
    total = np.maximum(batch.word_counts - size + 1, 0)
    most, distinct = _distinct(hashes, batch.word_owners[places], batch.size)
    return total, distinct, most


def _distinct(hashes: Hashes, owners: Counts, documents: int) -> tuple[Counts, Counts]:
    """(D,) Occurrences de la valeur la plus fréquente d'un document, et valeurs différentes.

    Un seul tri pour tout le lot : le rang du document fait les bits de tête.
    """
    keys = (owners.astype(np.uint64) << (np.uint64(64) - _OWNER_BITS)) | (hashes >> _OWNER_BITS)
    keys.sort()
    new = np.ones(keys.size, np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    firsts = np.flatnonzero(new)
    holders = (keys[firsts] >> (np.uint64(64) - _OWNER_BITS)).astype(np.int64)
    distinct = np.bincount(holders, minlength=documents)
    most = np.zeros(documents, np.int64)
    present = np.flatnonzero(distinct)
    if present.size:
        heads = np.concatenate([[0], np.cumsum(distinct[present])[:-1]])
        most[present] = np.maximum.reduceat(np.diff(np.append(firsts, keys.size)), heads)
    return most, distinct


def check_quality(found: Features, rules: QualityRules) -> list[Rejected | None]:
    """Pour chaque document, la première règle enfreinte et la valeur trouvée ; None : aucune."""
    verdicts: list[Rejected | None] = [None] * found.words.size
    broken = [
        ("trop court", found.words < rules.min_words, "words"),
        (
            "longueur des mots",
            (found.word_length < rules.min_word_length)
            | (found.word_length > rules.max_word_length),
            "word_length",
        ),
        ("sans mots-outils", found.function_words < rules.function_words, "function_words"),
        ("faux texte", found.placeholder > 0, "placeholder"),
        ("mots sans lettre", found.letters < rules.letters, "letters"),
        ("lignes sans ponctuation", found.punctuated < rules.punctuated, "punctuated"),
        *(
            (label, getattr(found, name) > getattr(rules, name), name)
            for name, label in _AT_MOST.items()
        ),
    ]
    for label, refused, name in reversed(broken):  # la première règle a le dernier mot
        for document in np.flatnonzero(refused).tolist():
            value = getattr(found, name)[document].item()
            verdicts[document] = Rejected(f"{QUALITY} : {label}", f"{name} {short(value)}")
    return verdicts


_AT_MOST = {
    "symbols": "symboles",
    "bullets": "puces",
    "ellipses": "points de suspension",
    "repeated_lines": "lignes répétées",
    "top_bigram": "deux mots qui reviennent",
    "top_trigram": "trois mots qui reviennent",
    "top_fourgram": "quatre mots qui reviennent",
    "repeated_fivegrams": "suites de cinq mots répétées",
    "repeated_tengrams": "suites de dix mots répétées",
}
