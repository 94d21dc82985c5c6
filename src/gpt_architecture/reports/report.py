"""Le rapport d'une comparaison : une page HTML d'un seul fichier, figures comprises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.comparison import VariantResult, VariantSummary, by_text
from gpt_architecture.evaluation.marking import marked_pieces
from gpt_architecture.evaluation.quality import repeated_places
from gpt_architecture.french import decimal, percent, rate
from gpt_architecture.reports.charts import COLORS, Cloud, scatter
from gpt_architecture.reports.pages import render


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


def _share(value: float) -> str:
    return percent(value, 0)


MEASURES = (
    Measure(
        name="Distinct-1",
        meaning="part de tokens différents ; plus haut : plus varié",
        of_variant=lambda variant: variant.mean("distinct_1"),
        of_result=lambda result: result.distinct_1,
        show=_share,
        full=1.0,
    ),
    Measure(
        name="Distinct-2",
        meaning="part de paires différentes",
        of_variant=lambda variant: variant.mean("distinct_2"),
        of_result=lambda result: result.distinct_2,
        show=_share,
        full=1.0,
    ),
    Measure(
        name="Distinct-3",
        meaning="part de triplets différents",
        of_variant=lambda variant: variant.mean("distinct_3"),
        of_result=lambda result: result.distinct_3,
        show=_share,
        full=1.0,
    ),
    Measure(
        name="Répétition",
        meaning="part de quadruplets déjà vus ; plus bas : moins de redites",
        of_variant=lambda variant: variant.mean("repetition"),
        of_result=lambda result: result.repetition,
        show=_share,
        full=1.0,
    ),
    Measure(
        name="Self-BLEU",
        meaning="ressemblance entre graines ; plus bas : suites plus diverses",
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
        meaning="débit, lecture du début comprise",
        of_variant=lambda variant: variant.tokens_per_second,
        of_result=lambda result: result.tokens_per_second,
        show=rate,
        full=None,
    ),
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
            scatter(clouds, width=width, height=height, x_label=_tick, y_label=_share)
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
    """La suite en morceaux (texte, déjà vu) : vrai là où un quadruplet de tokens revient."""
    return marked_pieces(result, repeated_places(result.tokens), tokenizer)


def _cloud(variant: VariantSummary) -> Cloud:
    return Cloud(
        label=variant.label if len(variant.label) <= 28 else f"{variant.label[:27]}…",
        points=tuple((each.mean_log_prob, each.distinct_1) for each in variant.results),
        mean=(variant.mean_log_prob, variant.mean("distinct_1")),
    )


def _tick(value: float) -> str:
    return decimal(value, 1).removesuffix(",0")


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
