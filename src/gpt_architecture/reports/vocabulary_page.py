"""La page HTML qui montre comment un ou plusieurs vocabulaires découpent un texte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.fertility import (
    Fertility,
    Segment,
    measure_fertility,
    split_text,
)
from gpt_architecture.reports.pages import render


@dataclass(frozen=True, kw_only=True)
class _View:
    """Un découpage à montrer."""

    measures: Fertility
    segments: list[Segment]


def vocabulary_page(text: str, tokenizers: Mapping[str, Tokenizer]) -> str:
    """Une page d'un seul fichier : chaque token dans sa couleur, son identifiant au survol.

    Args:
        text: le texte, montré en entier.
        tokenizers: nom sous lequel le montrer → tokenizer.

    Raises:
        DataError: texte sans un mot.
        TokenizerError: un vocabulaire ne sait pas le coder.
    """
    views = [
        _View(
            measures=measure_fertility(text, tokenizer, label=label),
            segments=list(split_text(text, tokenizer)),
        )
        for label, tokenizer in tokenizers.items()
    ]
    most = max(view.measures.tokens for view in views)
    return render("vocabulary", views=views, most=most, characters=len(text))
