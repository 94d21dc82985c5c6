"""Une comparaison de stratégies : une page HTML d'un seul fichier, et des tableaux au terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.comparison import VariantResult, VariantSummary, by_text
from gpt_architecture.evaluation.repetition import repeated_places
from gpt_architecture.french import decimal, percent, rate, significant
from gpt_architecture.reports.charts import COLORS, Cloud, one_decimal, scatter, whole_percent
from gpt_architecture.reports.pages import render
from gpt_architecture.reports.terminal import table, visible_text


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Une mesure montrée en barres.

    Attributes:
        name: nom affiché.
        meaning: ce qu'elle dit, en une ligne.
        of_variant: valeur d'une variante ; None : elle n'en a pas.
        of_result: valeur d'une génération ; None : la mesure n'existe que pour la variante.
        show: écrit une valeur.
        full: longueur d'une barre pleine ; None : la plus grande valeur.
    """

    name: str
    meaning: str
    of_variant: Callable[[VariantSummary], float | None]
    of_result: Callable[[VariantResult], float] | None
    show: Callable[[float], str]
    full: float | None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Une barre : longueur et points en part de la plus longue, dans [0, 1]."""

    label: str
    series: int
    length: float
    text: str
    points: tuple[float, ...]


def _share_measure(name: str, meaning: str, share: str) -> Measure:
    """La mesure d'une part que chaque génération porte sous ce nom."""
    return Measure(
        name=name,
        meaning=meaning,
        of_variant=lambda variant: variant.mean(share),
        of_result=attrgetter(share),
        show=whole_percent,
        full=1.0,
    )


MEASURES = (
    _share_measure(
        "Distinct-1", "part de tokens différents ; plus haut : plus varié", "distinct_1"
    ),
    _share_measure("Distinct-2", "part de paires différentes", "distinct_2"),
    _share_measure("Distinct-3", "part de triplets différents", "distinct_3"),
    _share_measure(
        "Répétition", "part de quadruplets déjà vus ; plus bas : moins de redites", "repetition"
    ),
    Measure(
        name="Self-BLEU",
        meaning="ressemblance entre graines ; plus bas : textes plus divers",
        of_variant=lambda variant: variant.self_bleu,
        of_result=None,
        show=lambda value: decimal(value, 2),
        full=1.0,
    ),
    Measure(
        name="Surprise",
        meaning="−log p moyen par token, en nats ; plus bas : plus attendu par le modèle",
        of_variant=lambda variant: -variant.mean_log_prob,
        of_result=lambda result: -result.mean_log_prob,
        show=lambda value: decimal(value, 2),
        full=None,
    ),
    Measure(
        name="Tokens/s",
        meaning="débit, lecture de l'invite comprise",
        of_variant=lambda variant: variant.tokens_per_second,
        of_result=lambda result: result.tokens_per_second,
        show=rate,
        full=None,
    ),
)


RECOMMENDATIONS = (
    ("une réponse stable et reproductible", "greedy"),
    ("un texte sage, proche du style appris", "temperature --temperature 0.3"),
    ("un bon compromis pour écrire", "top_p --p 0.9 --temperature 0.8"),
    ("de la variété sans trop d'écarts", "top_k --k 50"),
    ("explorer, quitte à perdre le fil", "temperature --temperature 1.5"),
)


def comparison_page(
    summaries: Sequence[VariantSummary],
    tokenizer: Tokenizer,
    *,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """La page : en bref, nuage qualité–diversité, barres, tableau, textes côte à côte.

    Args:
        summaries: une par variante, au moins une.
        tokenizer: celui du modèle.
        facts: ce que l'en-tête dit de la comparaison (nom, valeur).
    """
    clouds = [_cloud(variant) for variant in summaries]
    several = any(len(variant.results) > 1 for variant in summaries)
    prompts = list(dict.fromkeys(result.prompt for each in summaries for result in each.results))
    return render(
        "report",
        facts=facts,
        several=several,
        highlights=highlights(summaries),
        scatters=[
            scatter(clouds, width=width, height=height, x_label=one_decimal, y_label=whole_percent)
            for width, height in ((1100.0, 440.0), (400.0, 340.0))
        ],
        panels=[
            (measure, bars)
            for measure, bars in ((each, _bars(each, summaries)) for each in MEASURES)
            if any(bar.text for bar in bars)
        ],
        variants=list(enumerate(summaries)),
        colors=COLORS,
        prompts=[
            (
                prompt,
                [
                    (
                        number % COLORS,
                        variant,
                        by_text([r for r in variant.results if r.prompt == prompt]),
                    )
                    for number, variant in enumerate(summaries)
                ],
            )
            for prompt in prompts
        ],
        passages=lambda result: passages(result, tokenizer),
    )


def highlights(summaries: Sequence[VariantSummary]) -> list[tuple[str, str, str]]:
    """Ce qui ressort : (titre, variantes, valeur)."""
    wanted = (
        ("La plus attendue", "Surprise", min),
        ("La plus variée", "Distinct-1", max),
        ("La plus diverse", "Self-BLEU", min),
        ("La plus répétitive", "Répétition", max),
        ("La plus rapide", "Tokens/s", max),
    )
    found = list[tuple[str, str, str]]()
    for title, name, best_of in wanted:
        measure = next(each for each in MEASURES if each.name == name)
        values = [(measure.of_variant(variant), variant.label) for variant in summaries]
        known = [(value, label) for value, label in values if value is not None]
        if not known:
            continue
        best = best_of(value for value, _ in known)
        winners = [label for value, label in known if value == best]
        if len(winners) < len(summaries) or len(summaries) == 1:  # sinon rien ne les départage
            names = ", ".join(winners[:2]) + (" et d'autres" if len(winners) > 2 else "")
            found.append((title, names, f"{name} : {measure.show(best)}"))
    return found


def passages(result: VariantResult, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Le texte généré en morceaux (texte, déjà vu) : vrai là où un quadruplet de tokens revient."""
    return result.marked_text(repeated_places(result.tokens), tokenizer)


def _cloud(variant: VariantSummary) -> Cloud:
    return Cloud(
        label=variant.label if len(variant.label) <= 28 else f"{variant.label[:27]}…",
        points=tuple((each.mean_log_prob, each.distinct_1) for each in variant.results),
        mean=(variant.mean_log_prob, variant.mean("distinct_1")),
    )


def _bars(measure: Measure, summaries: Sequence[VariantSummary]) -> list[Bar]:
    values = [measure.of_variant(variant) for variant in summaries]
    points = [
        [] if measure.of_result is None else [measure.of_result(each) for each in variant.results]
        for variant in summaries
    ]
    full = measure.full
    if full is None:
        full = max(max(value or 0.0, *each) for value, each in zip(values, points, strict=True))
    return [
        Bar(
            label=variant.label,
            series=number % COLORS,
            length=0.0 if value is None or not full else value / full,
            text="" if value is None else measure.show(value),
            points=tuple(each / full for each in own) if len(own) > 1 and full else (),
        )
        for number, (variant, value, own) in enumerate(zip(summaries, values, points, strict=True))
    ]


def show_comparison(
    console: Console, prompts: Sequence[str], summaries: Sequence[VariantSummary]
) -> None:
    """Un tableau de textes par invite, les mesures, les conseils."""
    for prompt in dict.fromkeys(prompts):
        _show_texts(console, prompt, summaries)
    _show_measures(console, summaries)
    _show_advice(console)


def _show_texts(console: Console, prompt: str, summaries: Sequence[VariantSummary]) -> None:
    several = len({each.config.seed for each in summaries[0].results}) > 1
    title = Text(f"Invite : {visible_text(prompt)}")
    texts = Table(title=title, box=ROUNDED, show_lines=True, title_justify="left")
    texts.add_column("Variante", no_wrap=not any(len(each.label) > 24 for each in summaries))
    if several:
        texts.add_column("Graine", justify="right")
    texts.add_column("Texte généré", ratio=1)
    for summary in summaries:
        here = [each for each in summary.results if each.prompt == prompt]
        for result, seeds in by_text(here):
            seed = [", ".join(map(str, seeds))] if several else []
            text = Text(visible_text(" ".join(result.text.split())))
            texts.add_row(Text(summary.label), *seed, text)
    console.print(texts)


def _show_measures(console: Console, summaries: Sequence[VariantSummary]) -> None:
    shared = any(each.self_bleu is not None for each in summaries)
    diversity = [
        [
            each.label,
            *(percent(each.mean(f"distinct_{n}"), 0) for n in (1, 2, 3)),
            percent(each.mean("repetition"), 0),
            *([] if each.self_bleu is None else [decimal(each.self_bleu)]),
        ]
        for each in summaries
    ]
    likelihood = [
        [
            each.label,
            decimal(each.mean_log_prob),
            significant(each.perplexity),
            f"{decimal(each.seconds)} s",
            rate(each.tokens_per_second),
        ]
        for each in summaries
    ]
    headings = ("Variante", "Distinct-1", "Distinct-2", "Distinct-3", "Répétition")
    console.print(table("Mesures", (*headings, *(("Self-BLEU",) * shared)), diversity))
    headings = ("Variante", "log p moyen", "Perplexité", "Durée", "Tokens/s")
    console.print(table("Vraisemblance et vitesse", headings, likelihood))
    explanation = (
        "Distinct-n : part de n-grammes différents. Répétition : part de quadruplets de "
        "tokens déjà vus.\nlog p moyen : log-probabilité par token, en nats, sans filtre "
        "(plus près de 0 : plus attendu) ;\nperplexité : exp(−log p moyen)."
    )
    if shared:
        explanation += (
            "\nSelf-BLEU : ressemblance entre eux des textes d'une même invite, de 0 à 1."
        )
    console.print(f"{explanation}\n", style="dim")


def _show_advice(console: Console) -> None:
    advice = Table(title="Quelle stratégie choisir ?", box=None, title_justify="left")
    advice.add_column("Pour", style="bold")
    advice.add_column("gpt-architecture infer --strategy …", no_wrap=True)
    for goal, options in RECOMMENDATIONS:
        advice.add_row(goal, options)
    console.print(advice)
