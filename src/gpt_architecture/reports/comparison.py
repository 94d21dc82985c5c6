"""Une comparaison de stratégies au terminal : textes, mesures, conseils."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_architecture.french import decimal, percent, rate, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from gpt_architecture.evaluation.comparison import VariantSummary

RECOMMENDATIONS = (
    ("une réponse stable et reproductible", "greedy"),
    ("un texte sage, proche du style appris", "temperature --temperature 0.3"),
    ("un bon compromis pour écrire", "top_p --p 0.9 --temperature 0.8"),
    ("de la variété sans trop d'écarts", "top_k --k 50"),
    ("explorer, quitte à perdre le fil", "temperature --temperature 1.5"),
)


def show_comparison(
    console: Console, prompts: Sequence[str], summaries: Sequence[VariantSummary]
) -> None:
    """Un tableau de textes par début, les mesures, les conseils."""
    for prompt in dict.fromkeys(prompts):
        _show_texts(console, prompt, summaries)
    _show_measures(console, summaries)
    _show_advice(console)


def _show_texts(console: Console, prompt: str, summaries: Sequence[VariantSummary]) -> None:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    from gpt_architecture.data.tokenizers.visible import visible_text
    from gpt_architecture.evaluation.comparison import by_text

    several = len({each.config.seed for each in summaries[0].results}) > 1
    title = Text(f"Début : {visible_text(prompt)}")
    table = Table(title=title, box=ROUNDED, show_lines=True, title_justify="left")
    table.add_column("Variante", no_wrap=not any(len(each.label) > 24 for each in summaries))
    if several:
        table.add_column("Graine", justify="right")
    table.add_column("Suite générée", ratio=1)
    for summary in summaries:
        here = [each for each in summary.results if each.prompt == prompt]
        for result, seeds in by_text(here):
            seed = [", ".join(map(str, seeds))] if several else []
            text = Text(visible_text(" ".join(result.text.split())))
            table.add_row(Text(summary.label), *seed, text)
    console.print(table)


def _show_measures(console: Console, summaries: Sequence[VariantSummary]) -> None:

    shared = any(each.self_bleu is not None for each in summaries)
    diversity = {
        each.label: [
            *(percent(each.mean(f"distinct_{n}"), 0) for n in (1, 2, 3)),
            percent(each.mean("repetition"), 0),
            *([] if each.self_bleu is None else [decimal(each.self_bleu)]),
        ]
        for each in summaries
    }
    likelihood = {
        each.label: [
            decimal(each.mean_log_prob),
            significant(each.perplexity),
            f"{decimal(each.seconds)} s",
            rate(each.tokens_per_second),
        ]
        for each in summaries
    }
    headings = ("Distinct-1", "Distinct-2", "Distinct-3", "Répétition")
    _show_table(console, "Mesures", (*headings, *(("Self-BLEU",) * shared)), diversity)
    headings = ("log p moyen", "Perplexité", "Durée", "Tokens/s")
    _show_table(console, "Vraisemblance et vitesse", headings, likelihood)
    explanation = (
        "Distinct-n : part de n-grammes différents. Répétition : part de quadruplets de "
        "tokens déjà vus.\nlog p moyen : vraisemblance par token sous le modèle, sans filtre "
        "(plus près de 0 : plus attendu) ;\nperplexité : exp(−log p moyen)."
    )
    if shared:
        explanation += (
            "\nSelf-BLEU : ressemblance entre elles des suites d'un même début, de 0 à 1."
        )
    console.print(f"{explanation}\n", style="dim")


def _show_table(
    console: Console, title: str, headings: Sequence[str], rows: dict[str, list[str]]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("Variante")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in rows.items():
        table.add_row(Text(label), *cells)
    console.print(table)


def _show_advice(console: Console) -> None:
    from rich.table import Table

    advice = Table(title="Quelle stratégie choisir ?", box=None, title_justify="left")
    advice.add_column("Pour", style="bold")
    advice.add_column("gpt-architecture infer --strategy …", no_wrap=True)
    for goal, options in RECOMMENDATIONS:
        advice.add_row(goal, options)
    console.print(advice)
