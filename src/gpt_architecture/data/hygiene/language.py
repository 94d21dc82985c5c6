"""La langue d'un document, sans réseau.

Les mots-outils suffisent à reconnaître le français et l'anglais de la plupart des documents ; les
autres sont confiés à py3langid (97 langues), qui lit quelques centaines de caractères.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import Batch
from gpt_architecture.data.hygiene.config import FUNCTION_WORDS
from gpt_architecture.data.hygiene.quality import FunctionWords
from gpt_architecture.errors import MissingDependencyError

LANGUAGE = "langue"
UNKNOWN = "?"
_CERTAIN_SHARE = 0.15
_OTHERS_SHARE = 0.05
_CERTAIN_WORDS = 30
_SAMPLE = 500  # caractères
_LETTERS = 10


def languages_of(texts: Sequence[str], batch: Batch, function_words: FunctionWords) -> list[str]:
    """Le code ISO 639-1 de la langue de chaque document ; `UNKNOWN` pour moins de dix lettres.

    Args:
        texts: les documents.
        batch: `Batch(texts)`.
        function_words: `FunctionWords.of(batch)`.

    Raises:
        MissingDependencyError: py3langid n'est pas installé.
    """
    names = list(FUNCTION_WORDS)
    identify = _identifier()
    certain = _certain(function_words.shares, batch.word_counts)
    return [
        names[known] if known >= 0 else identify(text)
        for known, text in zip(certain.tolist(), texts, strict=True)
    ]


def _certain(shares: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(D,) Rang de la langue que ses mots-outils disent assez ; −1 : ils ne suffisent pas."""
    best = shares.argmax(axis=0)
    top = shares.max(axis=0)
    others = shares.sum(axis=0) - top
    sure = (top >= _CERTAIN_SHARE) & (others <= _OTHERS_SHARE) & (counts >= _CERTAIN_WORDS)
    return np.where(sure, best, -1)


@cache
def _identifier() -> Callable[[str], str]:
    try:
        from py3langid.langid import (  # noqa: PLC0415 — facultatif
            MODEL_FILE,
            LanguageIdentifier,
        )
    except ImportError:
        raise MissingDependencyError(
            "py3langid", purpose="reconnaître la langue", extra="hygiene"
        ) from None
    found = LanguageIdentifier.from_model_file(MODEL_FILE)

    def identify(text: str) -> str:
        start = max(0, (len(text) - _SAMPLE) // 2)
        sample = text[start : start + _SAMPLE]
        if sum(map(str.isalpha, sample)) < _LETTERS:
            return UNKNOWN
        return str(found.classify(sample)[0])

    return identify
