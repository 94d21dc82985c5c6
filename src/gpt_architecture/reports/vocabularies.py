"""Ce que des vocabulaires font d'un texte : une page HTML, et les mêmes vues au terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.fertility import (
    Fertility,
    Segment,
    measure_fertility,
    split_text,
)
from gpt_architecture.french import decimal, percent, thousands
from gpt_architecture.reports.pages import render
from gpt_architecture.reports.terminal import table, visible_text, visible_token

_STYLES = tuple(f"black on {colour}" for colour in ("#a9c7f5", "#f7c79d", "#a5dcbd", "#ecb3d8"))


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
        {
            "measures": measure_fertility(text, tokenizer, label=label),
            "segments": list(split_text(text, tokenizer)),
        }
        for label, tokenizer in tokenizers.items()
    ]
    return render("vocabulary", views=views, characters=len(text))


def show_fertilities(console: Console, rows: Sequence[Fertility]) -> None:
    """Un tableau : une ligne par vocabulaire ; le premier sert de référence."""
    first, several = rows[0], len(rows) > 1
    headings = ("Tokenizer", "Vocabulaire", "Tokens", "Tokens/mot", "Octets/token", "Employés")
    cells = [
        [
            row.label,
            thousands(row.vocab_size),
            thousands(row.tokens),
            decimal(row.tokens_per_word),
            decimal(row.bytes_per_token),
            percent(row.share_used),
            *((f"× {decimal(row.tokens / first.tokens)}",) * several),
        ]
        for row in rows
    ]
    title = Text(f"{thousands(first.words)} mots, {thousands(first.text_bytes)} octets")
    console.print(table(title, (*headings, *(("Longueur",) * several)), cells))
    explanation = "Tokens/mot : la fertilité, un mot étant ce que séparent des blancs."
    if several:
        explanation += f" Longueur : tokens, rapportés à ceux de {first.label}."
    console.print(Text(explanation), style="dim")


def show_splits(console: Console, splits: Mapping[str, Sequence[Segment]]) -> None:
    """Chaque découpage : en couleurs, ou avec des barres là où il n'y en a pas."""
    coloured = console.is_terminal and not console.no_color
    for label, segments in splits.items():
        count = sum(len(segment.ids) for segment in segments)
        console.print(Text(f"{label} : {thousands(count)} tokens", style="bold"), soft_wrap=True)
        shown = Text()
        for index, segment in enumerate(segments):
            if coloured:
                style = _STYLES[index % len(_STYLES)] + " underline" * (len(segment.ids) > 1)
                written = visible_text(segment.text).replace("\n", "⏎\n")
            else:
                style = ""
                written = "|" * (index > 0) + visible_token(segment.text).replace("⏎", "⏎\n")
            shown.append(written, style=style)
        console.print(shown, soft_wrap=True)
