"""`gpt-architecture demo` : des stratégies de décodage côte à côte, mesurées."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 demo.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gpt_architecture.cli.command import CommonOptions, read_prompt
from gpt_architecture.cli.options import (
    ModelChoice,
    ModelSource,
    ResultOptions,
    model_path,
    warn_cut,
)
from gpt_architecture.config import MAX_TOKENS, TrainingConfig
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.storage import check_outputs, json_of, page_of


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
    from gpt_architecture.api import compare

    source = model_path(model, whole=True)
    check_outputs(
        {"--html": (html, page_of("report")), "--json-file": (output.json_file, json_of("demo"))},
        reads=(source, prompt, common),
        force=output.force,
    )
    found = compare(
        source,
        None if prompt is None else [read_prompt(each) for each in prompt],
        variants=variant or None,
        max_tokens=max_tokens,
        seeds=seed,
        device=choice.device,
        quant=choice.quant,
        drafts=choice.drafts,
        progress=True,
    )
    for each in found.summaries:
        warn_cut(each.config, [result.finish for result in each.results])
    if not output.emit(found.records, "demo"):
        from gpt_architecture.reports.comparison import show_comparison

        prompts = [result.prompt for result in found.results]
        show_comparison(output_console(), prompts, found.summaries)
    if html is not None:
        found.save(html)
        say_aside(f"Page : {html}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["demo", *sys.argv[1:]])
