"""Ce que le modèle récite : un tableau par stratégie, et ses textes, au terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from gpt_architecture.french import counted, percent, plural
from gpt_architecture.reports.terminal import table, visible_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gpt_architecture.data.tokenizer import Tokenizer
    from gpt_architecture.evaluation.memorisation import MemorisationReport, Recollection
    from gpt_architecture.reports.terminal import TableData


def show_memorisation(console: Console, report: MemorisationReport, tokenizer: Tokenizer) -> None:
    """Ce que le modèle récite, par stratégie, contre ce que le hasard donnerait.

    Chaque stratégie montre son texte qui récite le plus long passage, entre crochets.
    """
    some, total = report.recited
    console.print(Text("Mémorisation", "bold"))
    console.print(
        f"{counted(some, 'texte généré')} sur {total} contien{'nen' if some > 1 else ''}t un "
        f"passage d'au moins {report.threshold} tokens copié mot pour mot du texte d'entraînement."
    )
    console.print(_meaning(report), style="dim")
    console.print(_shares_table(report))
    console.print(
        f"Passages d'au moins {report.threshold} tokens entre ⟦ ⟧ ; ⏎ : fin de ligne.", style="dim"
    )
    for variant in report.variants:
        best = max(variant.texts, key=lambda each: each.overlap.longest)
        console.print(Text(variant.label, "bold"))
        console.print(_marked(best, report.threshold, tokenizer), soft_wrap=False)
    console.print()


def _meaning(report: MemorisationReport) -> str:
    if report.chance_length is None:
        return (
            f"Sans texte inédit, rien ne dit ce que le hasard donnerait : le seuil de "
            f"{report.threshold} tokens est arbitraire."
        )
    count = len(report.reference)
    return (
        f"Seuil : sur {count} {plural(count, 'extrait')} de texte inédit, aussi "
        f"{plural(count, 'long')} que les textes générés, 95 % ne partagent pas plus de "
        f"{report.chance_length} tokens consécutifs avec l'entraînement."
    )


def memorisation_table(report: MemorisationReport) -> TableData:
    """La part de n-grammes connus de chaque stratégie, et du texte inédit."""
    rows = [
        [
            variant.label,
            *(_share(variant.share(n)) for n in report.orders),
            str(variant.longest),
            "{} sur {}".format(*variant.recited(report.threshold)),
        ]
        for variant in report.variants
    ]
    if report.reference:
        shares = [_share(report.reference_share(n)) for n in report.orders]
        rows.append(["Texte inédit", *shares, str(report.reference_longest), ""])
    title = "Part des n-grammes présents dans le texte d'entraînement"
    headings = ("Stratégie", *(f"n = {n}" for n in report.orders), "Plus long", "Récitent")
    return title, headings, rows


def _shares_table(report: MemorisationReport) -> Table:
    """Ce tableau, le texte inédit à part."""
    title, headings, rows = memorisation_table(report)
    shown = list(rows)
    found = table(title, headings, shown[: len(report.variants)])
    for row in shown[len(report.variants) :]:
        found.add_section()
        found.add_row(*row, style="dim")
    return found


def _marked(text: Recollection, threshold: int, tokenizer: Tokenizer) -> Text:
    def shown(piece: str) -> str:
        return visible_text(piece).replace("\n", "⏎ ")

    line = Text("  ").append(shown(text.result.prompt), "dim")
    for piece, recited in text.marked_text(threshold, tokenizer):
        line.append(f"⟦{shown(piece)}⟧" if recited else shown(piece), "bold" if recited else "")
    return line


def _share(value: float | None) -> str:
    return "—" if value is None else percent(value, 0)
