"""Des stratégies de décodage comparées, et l'effet des réglages sur un token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.gpt import TEMPERATURES
from gpt_architecture.api.loading import loaded
from gpt_architecture.api.options import checked_options
from gpt_architecture.api.views import Distribution, Table
from gpt_architecture.config import MAX_TOKENS, TrainingConfig
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.comparison import (
    SIX_VARIANTS,
    VariantResult,
    Variants,
    VariantSummary,
    compare_strategies,
    parse_variant,
    summarize,
)
from gpt_architecture.french import plural, thousands
from gpt_architecture.storage import check_outputs, own_figure, write_atomically

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run

_WARM_UP = 40
"""Tokens écrits avant toute mesure : sans eux la première variante paraît lente, car les poids
compactés ne se rangent qu'après quelques pas."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Des stratégies essayées sur les mêmes invites et les mêmes graines.

    Attributes:
        summaries: une par variante, ses textes et ses mesures.
        tokenizer: celui du modèle.
        facts: ce que l'en-tête de la page en dit (nom, valeur).
    """

    summaries: tuple[VariantSummary, ...]
    tokenizer: Tokenizer
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def results(self) -> tuple[VariantResult, ...]:
        """Chaque texte généré, et ses mesures."""
        return tuple(result for each in self.summaries for result in each.results)

    @property
    def records(self) -> list[dict[str, object]]:
        """Une ligne par texte, en types simples : le JSON de la commande."""
        return [
            {
                "variante": result.label,
                "strategy": result.config.strategy,
                "prompt": result.prompt,
                "seed": result.config.seed,
                "text": result.text,
                "distinct_1": result.distinct_1,
                "distinct_2": result.distinct_2,
                "distinct_3": result.distinct_3,
                "repetition": result.repetition,
                "self_bleu": summary.self_bleu,
                "mean_log_prob": result.mean_log_prob,
                "perplexity": result.perplexity,
                "seconds": result.seconds,
                "tokens": len(result.tokens),
                "finish": result.finish,
            }
            for summary in self.summaries
            for result in summary.results
        ]

    @property
    def table(self) -> Table:
        """Les mêmes lignes, en colonnes."""
        records = self.records
        columns = {name: [each[name] for each in records] for name in records[0]}
        return Table(columns, title="Comparaison")

    def to_pandas(self) -> Any:
        """Un `DataFrame` de pandas, une ligne par texte.

        Raises:
            MissingDependencyError: pandas n'est pas installé.
        """
        return self.table.to_pandas()

    def page(self) -> str:
        """La page HTML de la commande `demo` : nuage, barres, tableau, textes côte à côte."""
        from gpt_architecture.reports.comparison import comparison_page

        return comparison_page(self.summaries, self.tokenizer, facts=self.facts)

    def save(self, path: Path | str) -> Path:
        """Écrit cette page.

        Raises:
            OutputError: le fichier ne peut pas être écrit.
        """
        path, page = Path(path), self.page()
        write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return path

    def __repr__(self) -> str:
        count, texts = len(self.summaries), len(self.results)
        labels = ", ".join(each.label for each in self.summaries)
        return (
            f"Comparison({count} {plural(count, 'variante')}, {texts} {plural(texts, 'texte')} : "
            f"{labels})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import comparison_cell

        return comparison_cell(self.summaries)


@checked_options
def compare(
    model: GPT | Run | Path | str | None = None,
    prompt: str | Sequence[str] | None = None,
    *,
    variants: Sequence[str | tuple[str, GenerationConfig]] | None = None,
    max_tokens: int = MAX_TOKENS,
    seeds: int | Sequence[int] = (TrainingConfig.seed,),
    device: str = "auto",
    quant: str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    progress: bool | None = None,
) -> Comparison:
    """Compare des stratégies de décodage sur les mêmes invites, comme `gpt-architecture demo`.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        prompt: une invite, ou plusieurs ; None : celle de l'entraînement.
        variants: lignes comme `"top_p p=0.9 temperature=0.8 nom=Sage"`, ou couples (étiquette,
            `GenerationConfig`) ; None : les six variantes du document d'origine.
        max_tokens: tokens d'un texte, au plus.
        seeds: graines ; chaque variante est essayée avec chacune.
        device: voir `load`.
        quant: voir `load`.
        drafts: voir `load`.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: variante mal écrite, invite vide, doublon, réglage hors bornes.
        ModelFileError: voir `load`.

    Examples:
        >>> from gpt_architecture import compare
        >>> found = compare("modele", "Un soir", variants=["greedy", "top_k k=3"], max_tokens=4)
        >>> [each.label for each in found.results]
        ['greedy', 'top_k k=3']
    """
    from gpt_architecture.reports.console import ProgressBar

    chosen = _variants(variants, max_tokens)  # une erreur d'usage n'attend pas le modèle
    gpt = loaded(model, device=device, quant=quant, drafts=drafts)
    for _, config in chosen:
        gpt.generator.check(config)
    prompts = [gpt.opening(each) for each in _prompts(prompt)]
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    results = list[VariantResult]()
    with ProgressBar("Variantes", shown=progress) as bar:
        bar.start(len(chosen) * len(prompts) * len(seeds), 0)
        gpt.generate(prompts[0], max_tokens=_WARM_UP, ignore_eos=True)
        for result in compare_strategies(gpt.generator, prompts, chosen, seeds=seeds):
            results.append(result)
            pace = f"{result.label} : {thousands(round(result.tokens_per_second), ' ')} tokens/s"
            bar.update(len(results), pace)
    return Comparison(
        summaries=tuple(summarize(results)),
        tokenizer=gpt.tokenizer,
        facts=(
            ("paramètres", thousands(gpt.config.num_parameters())),
            ("contexte", thousands(gpt.window)),
            ("variantes", str(len(chosen))),
            ("invites", str(len(prompts))),
            ("graines", ", ".join(map(str, sorted(seeds)))),
            ("tokens par génération", f"{thousands(max_tokens)} au plus"),
        ),
    )


@checked_options
def visualize(
    model: GPT | Run | Path | str | None = None,
    prompt: str | None = None,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    k: int = 5,
    p: float = 0.9,
    n_tokens: int = 10,
    path: Path | str | None = None,
    force: bool = False,
    device: str = "auto",
    quant: str | None = None,
) -> Distribution:
    """L'effet de la température, de top-k et de top-p sur le token suivant, comme la commande.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        prompt: l'invite ; None : celle de l'entraînement.
        temperatures: celles à comparer.
        k: nombre de tokens gardés par top-k.
        p: masse de probabilité gardée par top-p.
        n_tokens: tokens suivis, les plus probables d'abord.
        path: figure à écrire ; son extension fixe le format.
        force: remplace un fichier que cette fonction n'a pas écrit.
        device: voir `load`.
        quant: voir `load`.

    Raises:
        ConfigurationError: réglage hors bornes, ou invite vide.
        MissingDependencyError: `path` est donné, et matplotlib n'est pas installé.
        OutputError: la figure ne peut pas être écrite.

    Examples:
        >>> from gpt_architecture import visualize
        >>> found = visualize("modele", "Un soir", temperatures=(0.5, 1.0), k=3)
        >>> [effect.label for effect in found.filters]
        ['brute', 'top-k, k = 3', 'top-p, p = 0,9']
        >>> found.filters[1].kept
        3
    """
    if path is not None:
        check_outputs({"`path`": (Path(path), own_figure)}, reads=(), force=force)
    gpt = loaded(model, device=device, quant=quant)
    found = gpt.distribution(prompt, temperatures=temperatures, k=k, p=p, n_tokens=n_tokens)
    if path is not None:
        found.save(path)
    return found


def _prompts(prompt: str | Sequence[str] | None) -> list[str | None]:
    """Les invites demandées ; [None] : celle de l'entraînement. Une marque de gabarit reste."""
    if prompt is None or isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ConfigurationError.wrong("`prompt`", prompt, expected="au moins une invite")
    return list(prompt)


def _variants(
    variants: Sequence[str | tuple[str, GenerationConfig]] | None, max_tokens: int
) -> Variants:
    if variants is None:
        return [(label, replace(config, max_tokens=max_tokens)) for label, config in SIX_VARIANTS]
    return [
        parse_variant(each, {"max_tokens": max_tokens}) if isinstance(each, str) else each
        for each in ([variants] if isinstance(variants, str) else variants)
    ]
