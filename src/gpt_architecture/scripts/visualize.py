"""`gpt-architecture visualize` : l'effet des réglages sur une distribution réelle."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 visualize.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, default_prompt
from gpt_architecture.cli.options import PROMPTING, DeviceChoice, ModelSource, Prompt, model_path
from gpt_architecture.errors import MissingDependencyError
from gpt_architecture.french import decimal, thousands
from gpt_architecture.reports.console import output_console
from gpt_architecture.storage import check_outputs, own_figure

if TYPE_CHECKING:
    from gpt_architecture.api import Distribution

PLOT_NAME = "temperature-visualization.pdf"


@Parameter(name="*", group=Group("Figure", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Ce que la figure montre."""

    prompt: Annotated[Prompt, Parameter(group=PROMPTING)] = None
    """Texte à continuer ; « - » le lit sur l'entrée standard. Sans lui, l'invite des exemples de
    l'entraînement."""

    temperatures: Annotated[tuple[float, ...], Parameter(consume_multiple=1)] = (
        0.3,
        0.7,
        1.0,
        2.0,
    )
    """Températures comparées."""

    k: int = 5
    """Nombre de tokens gardés par top-k."""

    p: float = 0.9
    """Masse de probabilité gardée par top-p."""

    n_tokens: int = 10
    """Nombre de tokens montrés, les plus probables d'abord."""

    output_dir: Annotated[Path, Parameter(metavar="DOSSIER")] = Path()
    """Dossier où écrire temperature-visualization.pdf."""

    force: bool = False
    """Remplace une figure de ce nom que cette commande n'a pas écrite."""


def visualize(
    model: ModelSource = None,
    *,
    figure: FigureOptions = FigureOptions(),
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Montre l'effet de la température, de top-k et de top-p sur le token suivant.

    La distribution est celle du modèle entraîné, après l'invite donnée. Sans matplotlib, le
    tableau du terminal donne les mêmes nombres.
    """
    from gpt_architecture.api import load

    source, path = model_path(model), figure.output_dir / PLOT_NAME
    check_outputs(
        {"--output-dir": (path, own_figure)}, reads=(source, figure, common), force=figure.force
    )
    gpt = load(source, device=choice.device, quant=choice.quant)
    found = gpt.distribution(
        default_prompt(figure.prompt, gpt.metadata),
        temperatures=figure.temperatures,
        k=figure.k,
        p=figure.p,
        n_tokens=figure.n_tokens,
    )
    _show(found)
    try:
        found.save(path)
    except MissingDependencyError as error:
        print(f"avertissement : figure non tracée, {error}", file=sys.stderr)
        return
    print(f"Figure : {path}")


def _show(study: Distribution) -> None:
    from rich.table import Table
    from rich.text import Text

    effects = (*study.temperatures, *study.filters)
    table = Table(title=Text(study.title), title_justify="left")
    table.add_column("Token", no_wrap=True)
    for effect in effects:
        table.add_column(effect.label, justify="right")
    for row, label in enumerate(study.labels):
        table.add_row(Text(label), *(_percent(effect.probabilities[row]) for effect in effects))
    table.add_section()
    table.add_row("Entropie (bits)", *(decimal(effect.entropy) for effect in effects))
    table.add_row("Tokens gardés", *(thousands(effect.kept) for effect in effects))
    output_console().print(table)


def _percent(probability: float) -> str:
    if probability == 0:
        return "—"
    return f"{100 * probability:.1f} %".replace(".", ",")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["visualize", *sys.argv[1:]])
