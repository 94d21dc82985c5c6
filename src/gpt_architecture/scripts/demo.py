"""`gpt-architecture demo` : des stratégies de décodage côte à côte, mesurées."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 demo.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gpt_architecture.cli.command import (
    CommonOptions,
    default_prompt,
    output_console,
    say_aside,
)
from gpt_architecture.cli.options import (
    ModelChoice,
    ModelSource,
    ResultOptions,
    model_path,
    warn_cut,
    warn_ignored,
)
from gpt_architecture.config import MAX_TOKENS, TrainingConfig
from gpt_architecture.storage import check_outputs, json_of, page_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.evaluation.comparison import Variants, VariantSummary


def _whole(_type: Any, value: str, *, delimiter: str | None = None) -> list[str]:
    """Une variable d'environnement est un seul texte, espaces compris."""
    del delimiter
    return [value]


Prompts = Annotated[
    tuple[str, ...] | None, Parameter(allow_leading_hyphen=True, env_var_split=_whole)
]
VariantLines = Annotated[
    tuple[str, ...] | None,
    Parameter(name=("--variant", "--variants"), consume_multiple=True, env_var_split=_whole),
]
Seeds = Annotated[tuple[int, ...], Parameter(name=("--seed", "--seeds"), consume_multiple=True)]


def demo(
    model: ModelSource = None,
    *,
    prompt: Prompts = None,
    variant: VariantLines = None,
    max_tokens: int = MAX_TOKENS,
    seed: Seeds = (TrainingConfig.seed,),
    choice: ModelChoice = ModelChoice(),  # noqa: B008 — immuable
    html: Path | None = None,
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Compare des stratégies de décodage sur les mêmes débuts, avec leurs mesures.

    Args:
        prompt: Début du texte, répétable ; « - » le lit sur l'entrée standard. Sans lui, celui
            de l'entraînement.
        variant: Stratégie et ses réglages, par exemple "top_p p=0.9 temperature=0.8" ;
            répétable ; nom="…" la nomme. Sans elle, six variantes.
        max_tokens: Nombre de tokens à produire par génération, au plus.
        seed: Graines du tirage ; chaque variante est essayée avec chacune.
        html: Page à écrire en plus : figures, mesures, textes côte à côte.
    """
    variants = _variants(variant, max_tokens)  # une erreur d'usage n'attend pas le modèle
    for label, config in variants:
        warn_ignored(config, label)
    source = model_path(model, whole=True)
    from gpt_architecture.api import load
    from gpt_architecture.evaluation.comparison import summarize

    check_outputs(
        {"--html": (html, page_of("report")), "--json-file": (output.json_file, json_of("demo"))},
        reads=(source, prompt, common),
        force=output.force,
    )
    gpt = load(source, device=choice.device, quant=choice.quant, drafts=choice.drafts)
    for _, config in variants:
        gpt.generator.check(config)
    prompts = [default_prompt(each, gpt.metadata) for each in prompt or (None,)]
    summaries = summarize(_run(gpt, prompts, variants, seed))
    for each in summaries:
        warn_cut(each.config, [result.finish for result in each.results])
    if not output.emit(_records(summaries), "demo"):
        from gpt_architecture.reports.comparison import show_comparison

        show_comparison(output_console(), prompts, summaries)
    if html is not None:
        _write_page(html, gpt, summaries, max_tokens)


def _variants(lines: Sequence[str] | None, max_tokens: int) -> Variants:
    from dataclasses import replace

    from gpt_architecture.evaluation.comparison import SIX_VARIANTS, parse_variant

    if lines:
        return [parse_variant(line, {"max_tokens": max_tokens}) for line in lines]
    return [(label, replace(config, max_tokens=max_tokens)) for label, config in SIX_VARIANTS]


_WARM_UP = 40
"""Tokens écrits avant toute mesure : sans eux la première variante paraît lente, car les poids
compactés ne se rangent qu'après quelques pas."""


def _run(gpt: GPT, prompts: Sequence[str], variants: Variants, seeds: Sequence[int]) -> list[Any]:
    """Toutes les générations, avec une barre de progression."""
    from rich.progress import Progress

    from gpt_architecture.evaluation.comparison import compare_strategies

    results = []
    with Progress(console=output_console(stderr=True), transient=True) as progress:
        task = progress.add_task("Variantes", total=len(variants) * len(prompts) * len(seeds))
        gpt.generate(prompts[0], max_tokens=_WARM_UP, ignore_eos=True)
        for result in compare_strategies(gpt.generator, prompts, variants, seeds=seeds):
            results.append(result)
            pace = f"{result.label} : {result.tokens_per_second:.0f} tokens/s"
            progress.update(task, advance=1, description=pace)
    return results


def _records(summaries: Sequence[VariantSummary]) -> list[dict[str, object]]:
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
        for summary in summaries
        for result in summary.results
    ]


def _write_page(path: Path, gpt: GPT, summaries: Sequence[VariantSummary], max_tokens: int) -> None:
    from gpt_architecture.french import thousands
    from gpt_architecture.reports.comparison import comparison_page
    from gpt_architecture.storage import write_atomically

    results = summaries[0].results
    page = comparison_page(
        summaries,
        gpt.tokenizer,
        facts=[
            ("paramètres", thousands(gpt.config.num_parameters())),
            ("contexte", thousands(gpt.window)),
            ("variantes", str(len(summaries))),
            ("débuts", str(len({each.prompt for each in results}))),
            ("graines", ", ".join(str(s) for s in sorted({r.config.seed or 0 for r in results}))),
            ("tokens par génération", f"{thousands(max_tokens)} au plus"),
        ],
    )
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    say_aside(f"Page : {path}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["demo", *sys.argv[1:]])
