"""`gpt-architecture demo` : des stratégies de décodage côte à côte, mesurées."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 demo.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, read_prompt
from gpt_architecture.cli.options import (
    PROMPTING,
    ModelChoice,
    ModelSource,
    ResultOptions,
    model_path,
)
from gpt_architecture.cli.sampling import warn_cut, warn_ignored
from gpt_architecture.config import MAX_TOKENS, TrainingConfig
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.storage import check_outputs, json_of, page_of


def _whole(_type: Any, value: str, *, delimiter: str | None = None) -> list[str]:
    """Une variable d'environnement est un seul texte, espaces compris."""
    del delimiter
    return [value]


_COMPARISON = Group("Comparaison", sort_key=1)
Prompts = Annotated[
    tuple[str, ...] | None,
    Parameter(group=PROMPTING, allow_leading_hyphen=True, env_var_split=_whole),
]
VariantLines = Annotated[
    tuple[str, ...] | None,
    Parameter(
        name=("--variant", "--variants"),
        group=_COMPARISON,
        consume_multiple=1,
        env_var_split=_whole,
        metavar="VARIANTE…",
    ),
]
Seeds = Annotated[
    tuple[int, ...],
    Parameter(name=("--seed", "--seeds"), group=_COMPARISON, consume_multiple=1),
]


def demo(
    model: ModelSource = None,
    *,
    prompt: Prompts = None,
    variant: VariantLines = None,
    max_tokens: Annotated[int, Parameter(group=_COMPARISON)] = MAX_TOKENS,
    seed: Seeds = (TrainingConfig.seed,),
    html: Annotated[Path | None, Parameter(group=_COMPARISON)] = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008 — immuable
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Compare des stratégies de décodage sur les mêmes invites, avec leurs mesures.

    Args:
        prompt: Texte à continuer, répétable ; « - » le lit sur l'entrée standard. Sans lui,
            l'invite des exemples de l'entraînement.
        variant: Stratégie suivie de ses réglages, par exemple "top_p p=0.9 temperature=0.8" ;
            nom="…" lui donne un nom ; répétable. Sans elle, six variantes sont comparées.
        max_tokens: Nombre maximal de tokens à produire par génération.
        seed: Graines de l'échantillonnage ; chaque variante est essayée avec chacune.
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
        warn_ignored(each.config, each.label)
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
