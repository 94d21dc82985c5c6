"""Ce qu'un carnet affiche : des fragments de HTML autonomes, lisibles sur fond clair ou sombre.

Chacun porte son style et aucun script. Le texte garde la couleur du carnet, les fonds sont
translucides : rien n'a besoin de savoir quel thème il habille.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gpt_architecture.french import decimal, thousands
from gpt_architecture.reports.pages import render_cell

if TYPE_CHECKING:
    from gpt_architecture.decoding.trace import Trace
    from gpt_architecture.evaluation.attention_maps import AttentionMaps
    from gpt_architecture.evaluation.comparison import VariantSummary
    from gpt_architecture.evaluation.distribution import DistributionStudy
    from gpt_architecture.evaluation.fertility import Segment
    from gpt_architecture.evaluation.reliability import Calibration
    from gpt_architecture.reports.curves import LossCurves
    from gpt_architecture.reports.terminal import TableData

CHART_SIZE = (760.0, 300.0)
"""Largeur et hauteur d'une figure."""

MOST_ROWS = 50
"""Tokens détaillés dans un tableau, au plus : la cellule reste légère."""

Facts = Sequence[tuple[str, str]]


class Candidate(Protocol):
    """Un token qui aurait pu suivre."""

    @property
    def text(self) -> str:
        """Son texte, seul."""
        ...

    @property
    def probability(self) -> float:
        """Sa probabilité sous le modèle."""
        ...


class WrittenToken(Candidate, Protocol):
    """Un token d'un texte généré ; `text` est ce qu'il ajoute au texte."""

    @property
    def name(self) -> str:
        """Son texte, seul."""
        ...

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Les plus probables à sa place."""
        ...


def facts_cell(
    title: str,
    facts: Facts,
    *,
    curves: LossCurves | None = None,
    link: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Une fiche : un titre, des faits, des courbes s'il y en a.

    Args:
        title: ce que c'est.
        facts: (nom, valeur).
        curves: pertes d'un entraînement.
        link: adresse à ouvrir, qui vient du programme.
        notes: phrases qui suivent.
    """
    from gpt_architecture.reports.curves import loss_chart

    charts, description = [], ""
    if curves is not None and not curves.is_empty:
        charts = [loss_chart(curves, *CHART_SIZE)]
        description = "Courbes de perte"
        if curves.best is not None:
            seen, loss = curves.best
            description += (
                f" ; la plus basse validation est {decimal(loss)} nats, "
                f"après {thousands(round(seen))} tokens"
            )
    return render_cell(
        "facts",
        title=title,
        facts=facts,
        charts=charts,
        description=description,
        link=link,
        notes=notes,
    )


def tables_cell(
    tables: Sequence[TableData],
    *,
    calibration: Calibration | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Des tableaux l'un sous l'autre, puis le diagramme d'une calibration s'il y en a une."""
    from gpt_architecture.reports.charts import reliability_chart

    chart = None if calibration is None else reliability_chart(calibration, unit="exemples")
    return render_cell("tables", tables=tables, reliability=chart, notes=notes)


def tokens_cell(segments: Sequence[Segment], ids: Sequence[int], facts: Facts) -> str:
    """Un texte, chaque token dans sa couleur, son identifiant au survol."""
    return render_cell("tokens", segments=segments, ids=ids, facts=facts)


def completion_cell(prompt: str, pieces: Sequence[WrittenToken], facts: Facts) -> str:
    """Un texte généré, chaque token coloré par sa surprise, ses candidats au survol."""
    return render_cell("completion", prompt=prompt, pieces=pieces, facts=facts, most=MOST_ROWS)


def attention_cell(maps: AttentionMaps) -> str:
    """Une tête en grand, toutes les autres en vignettes."""
    from gpt_architecture.reports.model_page import attention_view

    return render_cell("attention", attention=attention_view(maps))


def trace_cell(trace: Trace) -> str:
    """Le texte coloré par la surprise, puis un tableau par token."""
    from gpt_architecture.reports.trace import trace_context

    hidden = max(0, len(trace.steps) - MOST_ROWS) + trace.omitted
    context = trace_context(trace)
    facts = [("stratégie", trace.config.strategy), *context["settings"]]
    facts += [("tokens", thousands(len(trace.steps) + trace.omitted)), ("arrêt", context["finish"])]
    return render_cell("trace", **context, facts=facts, most=MOST_ROWS, hidden=hidden)


def distribution_cell(study: DistributionStudy, labels: Sequence[str], prompt: str) -> str:
    """Les tokens suivis, sous chaque température et chaque filtre."""
    effects = (*study.temperatures, *study.filters)
    return render_cell("distribution", effects=effects, labels=labels, prompt=prompt)


def comparison_cell(summaries: Sequence[VariantSummary]) -> str:
    """Les textes de chaque variante, invite par invite, et leurs mesures."""
    from gpt_architecture.evaluation.comparison import by_text

    prompts = dict.fromkeys(result.prompt for each in summaries for result in each.results)
    seeds = {result.config.seed for each in summaries for result in each.results}
    return render_cell(
        "comparison",
        several=len(seeds) > 1,
        prompts=[
            (
                prompt,
                [
                    (variant, by_text([each for each in variant.results if each.prompt == prompt]))
                    for variant in summaries
                ],
            )
            for prompt in prompts
        ],
    )
