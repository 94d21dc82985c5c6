"""Fertilités et découpages au terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_architecture.cli.command import output_console
from gpt_architecture.french import decimal, percent, thousands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpt_architecture.evaluation.fertility import Fertility, Segment

_STYLES = tuple(f"black on {colour}" for colour in ("#a9c7f5", "#f7c79d", "#a5dcbd", "#ecb3d8"))


def show_comparison(rows: Sequence[Fertility]) -> None:
    """Un tableau : une ligne par vocabulaire ; le premier sert de référence."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    first = rows[0]
    table = Table(
        title=Text(f"{thousands(first.words)} mots, {thousands(first.text_bytes)} octets"),
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("Tokenizer")
    headings = ("Vocabulaire", "Tokens", "Tokens/mot", "Octets/token", "Employés")
    for heading in (*headings, *(("Longueur",) * (len(rows) > 1))):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        relative = row.tokens / first.tokens
        table.add_row(
            Text(row.label),
            thousands(row.vocab_size),
            thousands(row.tokens),
            decimal(row.tokens_per_word),
            decimal(row.bytes_per_token),
            percent(row.share_used),
            *((f"× {decimal(relative)}",) * (len(rows) > 1)),
        )
    console = output_console()
    console.print(table)
    explanation = "Tokens/mot : la fertilité, un mot étant ce que séparent des blancs."
    if len(rows) > 1:
        explanation += f" Longueur : tokens, rapportés à ceux de {first.label}."
    console.print(Text(explanation), style="dim")


def show_splits(splits: Mapping[str, Sequence[Segment]]) -> None:
    """Chaque découpage : en couleurs, ou avec des barres là où il n'y en a pas."""
    from rich.text import Text

    from gpt_architecture.data.tokenizers.visible import visible_text, visible_token

    console = output_console()
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
