"""La mémorisation au terminal : le verdict, le tableau, les passages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_architecture.french import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from gpt_architecture.data.tokenizer import Tokenizer
    from gpt_architecture.evaluation.memorisation import MemorisationReport, Recollection


def show_memorisation(
    console: Console, *, report: MemorisationReport, tokenizer: Tokenizer
) -> None:
    """Ce que le modèle récite, par stratégie, contre ce que le hasard donnerait.

    Chaque stratégie montre sa suite qui récite le plus long passage, entre crochets.
    """
    from rich.text import Text

    some, total = report.recited
    console.print(Text("Mémorisation", "bold"))
    console.print(
        f"{some} suite{'s' if some > 1 else ''} sur {total} contien{'nen' if some > 1 else ''}t un "
        f"passage d'au moins {report.threshold} tokens copié mot pour mot du texte d'entraînement."
    )
    console.print(_meaning(report), style="dim")
    _show_table(console, report)
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
        f"Seuil : sur {count} extrait{'s' if count > 1 else ''} de texte inédit, aussi "
        f"long{'s' if count > 1 else ''} que les suites, 95 % ne partagent pas plus de "
        f"{report.chance_length} tokens de suite avec l'entraînement."
    )


def _show_table(console: Console, report: MemorisationReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Part des n-grammes présents dans le texte d'entraînement",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("Stratégie")
    for heading in (*(f"n = {n}" for n in report.orders), "Plus long", "Récitent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant in report.variants:
        recited, total = variant.recited(report.threshold)
        shares = [_share(variant.share(n)) for n in report.orders]
        table.add_row(Text(variant.label), *shares, str(variant.longest), f"{recited} sur {total}")
    if report.reference:
        table.add_section()
        shares = [_share(report.reference_share(n)) for n in report.orders]
        table.add_row("Texte inédit", *shares, str(report.reference_longest), "", style="dim")
    console.print(table)


def _marked(text: Recollection, threshold: int, tokenizer: Tokenizer) -> Text:
    from rich.text import Text

    from gpt_architecture.data.tokenizers.visible import visible_text

    def shown(piece: str) -> str:
        return visible_text(piece).replace("\n", "⏎ ")

    line = Text("  ").append(shown(text.result.prompt), "dim")
    for piece, recited in text.marked_text(threshold, tokenizer):
        line.append(f"⟦{shown(piece)}⟧" if recited else shown(piece), "bold" if recited else "")
    return line


def _share(value: float | None) -> str:

    return "—" if value is None else percent(value, 0)
