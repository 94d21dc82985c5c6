"""`gpt-architecture demo` : six variantes de décodage côte à côte."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 demo.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gpt_architecture.config import MAX_TOKENS, TrainingConfig
from gpt_architecture.scripts._cli import (
    CommonOptions,
    default_prompt,
    find_model,
    output_console,
)
from gpt_architecture.scripts._options import ModelChoice, Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.evaluation.comparison import VariantResult

RECOMMENDATIONS = (
    ("une réponse stable et reproductible", "greedy"),
    ("un texte sage, proche du style appris", "temperature --temperature 0.3"),
    ("un bon compromis pour écrire", "top_p --p 0.9 --temperature 0.8"),
    ("de la variété sans trop d'écarts", "top_k --k 50"),
    ("explorer, quitte à perdre le fil", "temperature --temperature 1.5"),
)


def demo(
    *,
    prompt: Prompt = None,
    max_tokens: int = MAX_TOKENS,
    seed: int = TrainingConfig.seed,
    choice: ModelChoice = ModelChoice(),  # noqa: B008 — immuable
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Compare six stratégies de décodage sur un même début, avec leurs mesures.

    Args:
        prompt: Début du texte ; « - » le lit sur l'entrée standard. Sans lui, celui de
            l'entraînement.
        max_tokens: Nombre de tokens à produire par variante, au plus.
        seed: Graine du tirage, la même pour chaque variante.
        as_json: Écrit un objet JSON par variante au lieu du tableau.
    """
    del common  # lues par le lanceur
    from rich.progress import Progress

    from gpt_architecture.api import load
    from gpt_architecture.evaluation.comparison import SIX_VARIANTS, compare_strategies

    gpt = load(find_model(choice.model), device=choice.device)
    text = default_prompt(prompt, gpt.metadata)
    results = []
    with Progress(console=output_console(stderr=True), transient=True) as progress:
        task = progress.add_task("Variantes", total=len(SIX_VARIANTS))
        for result in compare_strategies(
            gpt.model,
            gpt.encode(text),
            max_tokens=max_tokens,
            seed=seed,
            context_size=gpt.window,
            eos_id=gpt.tokenizer.eos_id,
        ):
            results.append(result)
            pace = f"{result.label} : {result.tokens_per_second:.0f} tokens/s"
            progress.update(task, advance=1, description=pace)
    if as_json:
        for result in results:
            print(
                json.dumps(_record(result, gpt.tokenizer.decode(result.tokens)), ensure_ascii=False)
            )
        return
    _show(text, results, [gpt.tokenizer.decode(result.tokens) for result in results])


def _record(result: VariantResult, text: str) -> dict[str, object]:
    return {
        "variante": result.label,
        "strategy": result.config.strategy,
        "text": text,
        "distinct_1": result.distinct_1,
        "distinct_2": result.distinct_2,
        "repetition": result.repetition,
        "mean_log_prob": result.mean_log_prob,
        "seconds": result.seconds,
        "tokens": len(result.tokens),
    }


def _show(prompt: str, results: Sequence[VariantResult], texts: Sequence[str]) -> None:
    from rich.box import ROUNDED, SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console = output_console()
    table = Table(
        title=Text(f"Début : {prompt}"), box=ROUNDED, show_lines=True, title_justify="left"
    )
    table.add_column("Variante", no_wrap=True)
    table.add_column("Suite générée", ratio=1)
    for result, text in zip(results, texts, strict=True):
        table.add_row(result.label, Text(" ".join(text.split())))
    console.print(table)

    measures = Table(title="Mesures", box=SIMPLE_HEAD, title_justify="left")
    measures.add_column("Variante", no_wrap=True)
    for name in ("Distinct-1", "Distinct-2", "Répétition", "log p moyen", "Durée", "Tokens/s"):
        measures.add_column(name, justify="right")
    for result in results:
        measures.add_row(
            result.label,
            _percent(result.distinct_1),
            _percent(result.distinct_2),
            _percent(result.repetition),
            f"{result.mean_log_prob:.2f}".replace(".", ","),
            f"{result.seconds:.2f} s".replace(".", ","),
            f"{result.tokens_per_second:.0f}",
        )
    console.print(measures)
    console.print(
        "Distinct-n : part de n-grammes différents. Répétition : part de quadruplets de "
        "tokens déjà vus.\nlog p moyen : vraisemblance par token sous le modèle, sans filtre "
        "(plus près de 0 : plus attendu).\n",
        style="dim",
    )
    advice = Table(title="Quelle stratégie choisir ?", box=None, title_justify="left")
    advice.add_column("Pour", style="bold")
    advice.add_column("gpt-architecture infer --strategy …", no_wrap=True)
    for goal, options in RECOMMENDATIONS:
        advice.add_row(goal, options)
    console.print(advice)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["demo", *sys.argv[1:]])
