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
from gpt_architecture.french import decimal, short

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
    """Les mots-outils de toutes les langues, cherchés par quelques bits de leur empreinte.

    Attributes:
        size: nombre de mots.
        languages: (langues, size) vrai pour les mots de chacune.
    """

    def __init__(self) -> None:
        lists = [words.split() for words in FUNCTION_WORDS.values()]
        every = sorted({word for words in lists for word in words})
        self.size = len(every)
        self.languages = np.array([[word in words for word in every] for words in lists])
        self._hashes = np.array([hash_text(word) for word in every], np.uint64)
        self._shift = np.uint64(
            next(
                shift
                for shift in range(49)
                if len({int(h) >> shift & 0xFFFF for h in self._hashes}) == self.size
            )
        )
        self._ranks = np.zeros(1 << 16, np.uint8)
        self._ranks[self._slots(self._hashes)] = np.arange(self.size)

    def _slots(self, hashes: Hashes) -> NDArray[np.uint16]:
        return (hashes >> self._shift).astype(np.uint16)

    def find(self, hashes: Hashes) -> tuple[Counts, NDArray[np.uint8]]:
        """Les places des mots-outils, croissantes, et le rang de chacun."""
        ranks = self._ranks[self._slots(hashes)]
        places = np.flatnonzero(self._hashes[ranks] == hashes)
        return places, ranks[places]


_word_set = cache(_WordSet)


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
        known = _word_set()
        places, ranks = known.find(batch.words)
        cells = batch.word_owners[places] * known.size + ranks
        counts = np.bincount(cells, minlength=batch.size * known.size)
        counts = counts.reshape(batch.size, known.size)
        members = known.languages.T.astype(np.int64)
        shares = (counts @ members).T / np.maximum(batch.word_counts, 1)
        return cls(shares, ((counts > 0) @ members).max(axis=1))


def features_of(batch: Batch, function_words: FunctionWords) -> Features:
    """Les mesures de chaque document d'un lot.

    Args:
        batch: le lot.
        function_words: `FunctionWords.of(batch)`.
    """
    lines, kinds = batch.lines, batch.kinds
    words = np.maximum(batch.word_counts, 1)
    filled = lines.lengths > 0
    rows = np.maximum(lines.sums(filled), 1)
    symbols = batch.counts_at(np.flatnonzero(kinds & SYMBOL != 0)) + batch.counts_at(_dotted(batch))
    tops = [_repetition(batch, size) for size in (2, 3, 4)]
    top = [
        np.where(most > 1, np.minimum(1.0, size * most / words), 0.0)
        for size, (_, _, most) in zip((2, 3, 4), tops, strict=True)
    ]
    echoes = [_repetition(batch, size) for size in (5, 10)]
    repeated = [1 - distinct / np.maximum(total, 1) for total, distinct, _ in echoes]
    _, different = _distinct(lines.hashes[filled], lines.sums(filled))
    return Features(
        words=batch.word_counts,
        word_length=batch.word_sums(batch.word_ends - batch.word_starts) / words,
        symbols=symbols / words,
        letters=batch.word_sums(_lettered(batch)) / words,
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


def _dotted(batch: Batch) -> Counts:
    """La place de chaque « ... » ; « .... » n'en fait qu'un."""
    dots = np.flatnonzero(batch.codes == ord("."))
    firsts = dots[np.diff(dots, prepend=-2) > 1]
    lasts = dots[np.diff(dots, append=batch.codes.size + 1) > 1]
    return lasts[lasts - firsts >= 2]


def _lettered(batch: Batch) -> NDArray[np.bool_]:
    """(W,) Vrai d'un mot qui a une lettre."""
    found: NDArray[np.bool_] = batch.kinds[batch.word_starts] & LETTER != 0
    others = np.flatnonzero(~found)  # « 42 », « _a » : peu de mots
    if others.size:
        lengths = batch.word_ends[others] - batch.word_starts[others]
        firsts = np.cumsum(lengths) - lengths
        offsets = np.repeat(batch.word_starts[others] - firsts, lengths)
        letters = batch.kinds[offsets + np.arange(offsets.size)] & LETTER
        found[others] = np.bitwise_or.reduceat(letters, firsts) != 0
    return found


def _repetition(batch: Batch, size: int) -> tuple[Counts, Counts, Counts]:
    """(D,) Suites de `size` mots, suites différentes, occurrences de la plus fréquente."""
    total = np.maximum(batch.word_counts - size + 1, 0)
    most, distinct = _distinct(np.delete(batch.runs(size), batch.crossing(size)), total)
    return total, distinct, most


def _distinct(values: Hashes, counts: Counts) -> tuple[Counts, Counts]:
    """(D,) Occurrences de la valeur la plus fréquente d'un document, et valeurs différentes.

    Un seul tri pour tout le lot : le rang du document fait les bits de tête.

    Args:
        values: celles de tous les documents, à la suite.
        counts: (D,) combien chacun en a.
    """
    owners = np.arange(counts.size, dtype=np.uint64) << (np.uint64(64) - _OWNER_BITS)
    keys = values >> _OWNER_BITS
    keys |= np.repeat(owners, counts)
    keys.sort()
    new = np.ones(keys.size, np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    firsts = np.flatnonzero(new)
    heads = np.searchsorted(firsts, np.cumsum(counts) - counts)  # rang du premier de chacun
    distinct = np.diff(heads, append=firsts.size)
    most = np.zeros(counts.size, np.int64)
    present = np.flatnonzero(counts)
    if present.size:
        most[present] = np.maximum.reduceat(np.diff(firsts, append=keys.size), heads[present])
    return most, distinct


def check_quality(found: Features, rules: QualityRules) -> list[Rejected | None]:
    """Pour chaque document, la première règle enfreinte, la valeur et sa borne ; None : aucune."""
    verdicts: list[Rejected | None] = [None] * found.words.size
    broken = [
        ("trop court", found.words < rules.min_words, "words", _at_least(rules.min_words)),
        (
            "longueur des mots",
            (found.word_length < rules.min_word_length)
            | (found.word_length > rules.max_word_length),
            "word_length",
            f"de {short(rules.min_word_length)} à {short(rules.max_word_length)}",
        ),
        (
            "sans mots-outils",
            found.function_words < rules.function_words,
            "function_words",
            _at_least(rules.function_words),
        ),
        ("faux texte", found.placeholder > 0, "placeholder", "aucun"),
        ("mots sans lettre", found.letters < rules.letters, "letters", _at_least(rules.letters)),
        (
            "lignes sans ponctuation",
            found.punctuated < rules.punctuated,
            "punctuated",
            _at_least(rules.punctuated),
        ),
        *(
            (label, getattr(found, name) > bound, name, f"au plus {short(bound)}")
            for name, label in _AT_MOST.items()
            for bound in (getattr(rules, name),)
        ),
    ]
    for label, refused, name, wanted in reversed(broken):  # la première règle a le dernier mot
        for document in np.flatnonzero(refused).tolist():
            value = getattr(found, name)[document].item()
            said = short(value)
            if wanted.endswith(f" {said}"):  # la valeur, arrondie, serait la borne
                said = decimal(value, 6)
            verdicts[document] = Rejected(f"{QUALITY} : {label}", f"{said} ; attendu : {wanted}")
    return verdicts


def _at_least(bound: float) -> str:
    return f"au moins {short(bound)}"


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
