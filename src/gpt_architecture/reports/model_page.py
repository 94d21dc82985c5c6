"""La page d'un modèle : ce qu'il a appris, ce qu'il récite, ce qu'il croit, ce qu'il regarde."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.attention_maps import AttentionMaps, attention_profile
from gpt_architecture.evaluation.comparison import VariantSummary, by_text
from gpt_architecture.evaluation.likelihood import perplexity_of
from gpt_architecture.evaluation.memorisation import MemorisationReport, Recollection
from gpt_architecture.evaluation.reliability import Calibration
from gpt_architecture.french import decimal, percent, significant, thousands
from gpt_architecture.reports.charts import (
    COLORS,
    Chart,
    Line,
    attention_paths,
    line_chart,
    reliability_chart,
    whole_percent,
)
from gpt_architecture.reports.curves import LossCurves, loss_chart
from gpt_architecture.reports.pages import render
from gpt_architecture.storage import write_atomically

SIZES = ((1100.0, 400.0), (400.0, 320.0))
"""Largeur et hauteur des figures : grand écran, téléphone."""

MAX_ATTENTION_TOKENS = 48
"""Tokens d'une phrase dont la page montre l'attention, au plus."""


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Ce qu'un modèle perd sur un texte.

    Attributes:
        label: nom du texte.
        tokens: tokens prédits.
        nll: −log p moyen, en nats par token.
        bits_per_byte: bits par octet de texte ; None : non mesurés.
        interval: bornes à 95 % de la perplexité ; None : non mesurées.
    """

    label: str
    tokens: int
    nll: float
    bits_per_byte: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def perplexity(self) -> float:
        """exp(−log p moyen), infinie si elle ne tient pas dans un flottant."""
        return perplexity_of(self.nll)


@dataclass(frozen=True, kw_only=True)
class ModelPage:
    """Ce que la page montre ; une partie absente n'y paraît pas.

    Attributes:
        name: nom du modèle.
        facts: ce que l'en-tête en dit (nom, valeur).
        curves: pertes de l'entraînement.
        scores: pertes sur des textes.
        memorisation: ce que le modèle récite ; None : non mesuré.
        samples: textes par stratégie.
        calibrations: (nom du texte, calibration).
        sentence: attention d'une phrase ; None : non demandée.
    """

    name: str
    facts: Sequence[tuple[str, str]] = ()
    curves: LossCurves = field(default_factory=LossCurves)
    scores: Sequence[TextScore] = ()
    memorisation: MemorisationReport | None = None
    samples: Sequence[VariantSummary] = ()
    calibrations: Sequence[tuple[str, Calibration]] = ()
    sentence: AttentionMaps | None = None


def write_model_page(path: Path | str, page: ModelPage, tokenizer: Tokenizer) -> None:
    """Écrit la page, d'un seul fichier, qui ne demande rien au réseau.

    Raises:
        OutputError: le fichier ne peut pas être écrit.
    """
    content = model_page(page, tokenizer)
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def model_page(page: ModelPage, tokenizer: Tokenizer) -> str:
    """Le texte HTML de la page."""
    memory = page.memorisation
    return render(
        "model",
        model=page,
        colors=COLORS,
        tiles=tiles(page),
        loss_charts=[]
        if page.curves.is_empty
        else [loss_chart(page.curves, *size) for size in SIZES],
        overfitting=overfitting(page.scores),
        memory=memory,
        memory_charts=[] if memory is None else _memory_charts(memory),
        excerpt=None if memory is None else _excerpt(memory, tokenizer),
        cards=_cards(page, tokenizer),
        reliability=[
            (label, calibration, reliability_chart(calibration))
            for label, calibration in page.calibrations
        ],
        attention=None if page.sentence is None else attention_view(page.sentence),
    )


def tiles(page: ModelPage) -> list[tuple[str, str, str]]:
    """Ce qui ressort : (titre, valeur, précision)."""
    found = list[tuple[str, str, str]]()
    if page.curves.best is not None:
        seen, loss = page.curves.best
        detail = f"après {thousands(round(seen))} tokens"
        found.append(("Meilleure perte de validation", decimal(loss), detail))
    for score in page.scores:
        detail = f"sur {thousands(score.tokens)} tokens"
        found.append((f"Perplexité, {score.label}", significant(score.perplexity), detail))
    if page.memorisation is not None:
        some, total = page.memorisation.recited
        longest = max(each.longest for each in page.memorisation.variants)
        detail = f"plus long passage : {longest} tokens"
        found.append(("Textes qui récitent", f"{some} sur {total}", detail))
    for label, calibration in page.calibrations:
        error = percent(calibration.error)
        found.append((f"Erreur de calibration, {label}", error, verdict(calibration)))
    return found


def verdict(calibration: Calibration) -> str:
    """Le sens de l'écart entre confiance et exactitude, en quelques mots."""
    gap = calibration.confidence - calibration.accuracy
    if abs(gap) < 0.02:
        return "confiance juste"
    return "trop sûr de lui" if gap > 0 else "pas assez sûr de lui"


def overfitting(scores: Sequence[TextScore]) -> float | None:
    """Rapport de la plus grande perplexité à la plus petite ; None : moins de deux textes."""
    if len(scores) < 2:
        return None
    gap = max(each.nll for each in scores) - min(each.nll for each in scores)
    return perplexity_of(gap)


def _memory_charts(memory: MemorisationReport) -> list[Chart]:
    """La part de n-grammes retrouvés selon n : une courbe par stratégie, et le hasard."""
    orders = memory.orders
    lines = [
        Line(label=each.label, series=number % COLORS, points=_known(each.share, orders))
        for number, each in enumerate(memory.variants)
    ]
    if memory.reference:
        points = _known(memory.reference_share, orders)
        lines.append(Line(label="texte inédit", series=7, points=points, style="dashed"))
    return [
        line_chart(
            lines,
            width=width,
            height=height,
            x_label=lambda x: str(orders[int(x)]),
            y_label=whole_percent,
            x_values=range(len(orders)),
            y_values=[0.0, 0.25, 0.5, 0.75, 1.0],
        )
        for width, height in SIZES
    ]


def _known(
    share: Callable[[int], float | None], orders: Sequence[int]
) -> list[tuple[float, float]]:
    """La part de chaque longueur, à son rang ; rien là où elle est inconnue."""
    return [(x, y) for x, n in enumerate(orders) if (y := share(n)) is not None]


def _excerpt(memory: MemorisationReport, tokenizer: Tokenizer) -> tuple[str, str, str, str] | None:
    """(stratégie, avant, passage, après), en texte."""
    found = memory.excerpt
    if found is None or len(found.passage) < memory.threshold:
        return None
    parts = (found.before, found.passage, found.after)
    before, passage, after = (tokenizer.decode(part) for part in parts)
    return found.label, before, passage, after


@dataclass(frozen=True, kw_only=True)
class _Sample:
    prompt: str
    pieces: list[tuple[str, bool]]
    seeds: tuple[int, ...]
    finished: bool
    longest: int | None
    known_prompt: bool


def _cards(page: ModelPage, tokenizer: Tokenizer) -> list[tuple[int, str, list[_Sample]]]:
    """(couleur, stratégie, textes) ; les passages récités y sont marqués."""
    memory = page.memorisation
    texts = [] if memory is None else [text for each in memory.variants for text in each.texts]
    known = {(each.result.prompt_ids, each.result.tokens): each for each in texts}
    cards = list[tuple[int, str, list[_Sample]]]()
    for number, summary in enumerate(page.samples):
        samples = list[_Sample]()
        for prompt in dict.fromkeys(each.prompt_ids for each in summary.results):
            here = [each for each in summary.results if each.prompt_ids == prompt]
            for result, seeds in by_text(here):
                found: Recollection | None = known.get((prompt, result.tokens))
                samples.append(
                    _Sample(
                        prompt=result.prompt,
                        pieces=[(result.text, False)]
                        if memory is None or found is None
                        else found.marked_text(memory.threshold, tokenizer),
                        seeds=seeds,
                        finished=result.finish == "stop",
                        longest=None if found is None else found.overlap.longest,
                        known_prompt=found is not None and found.known_prompt,
                    )
                )
        samples.sort(key=lambda each: each.longest or 0, reverse=True)  # la page replie la suite
        cards.append((number % COLORS, summary.label, samples))
    return cards


@dataclass(frozen=True, kw_only=True)
class _Head:
    layer: int
    head: int
    paths: tuple[str, ...]
    profile: tuple[float, float, float]


def attention_view(maps: AttentionMaps) -> dict[str, Any]:
    """Toutes les têtes ; celle qui regarde le moins les places banales est montrée en grand."""
    kept = min(len(maps.pieces), MAX_ATTENTION_TOKENS)
    weights = maps.weights[..., :kept, :kept]  # l'attention est causale : rien n'y change
    layers = [
        [
            _Head(
                layer=layer, head=head, paths=attention_paths(own), profile=attention_profile(own)
            )
            for head, own in enumerate(heads, start=1)
        ]
        for layer, heads in enumerate(weights, start=1)
    ]
    return {
        "pieces": maps.pieces[:kept],
        "omitted": len(maps.pieces) - kept,
        "layers": layers,
        "profiles": [attention_profile(heads) for heads in weights],
        "chosen": min(
            (head for layer in layers for head in layer), key=lambda each: sum(each.profile)
        ),
    }
