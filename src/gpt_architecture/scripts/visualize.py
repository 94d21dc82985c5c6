"""`gpt-architecture visualize` : l'effet des réglages sur un token, et l'intérieur du modèle."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 visualize.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, default_prompt
from gpt_architecture.cli.options import PROMPTING, DeviceChoice, ModelSource, Prompt, model_path
from gpt_architecture.errors import ConfigurationError, MissingDependencyError
from gpt_architecture.french import decimal, thousands
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.storage import check_outputs, own_figure

if TYPE_CHECKING:
    from gpt_architecture.api import GPT, Distribution
    from gpt_architecture.reports.terminal import TableData

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


@Parameter(name="*", group=Group("Intérieur du modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class InsideOptions:
    """Ce qui est montré du modèle, à la place de la distribution."""

    view: Literal[
        "distribution", "heads", "lens", "ablation", "neuron", "neighbours", "learning"
    ] = "distribution"
    """Ce qui est montré : la distribution du token suivant ; heads, ce que cherche chaque tête
    d'attention, et laquelle recopie ; lens, ce que croit chaque couche ; ablation, le token suivant
    sans chaque pièce ; neuron, les passages de l'invite qui allument un neurone ; neighbours, les
    tokens voisins de --follow ; learning, la même invite à chaque point de reprise d'un dossier
    d'entraînement."""

    follow: str | None = None
    """Token dont suivre la probabilité (ablation, learning), ou dont chercher les voisins
    (neighbours)."""

    layer: int = 1
    """Couche du neurone, depuis 1."""

    neuron: int | None = None
    """Rang du neurone, depuis 1 ; sans lui, le plus tranché de la couche."""

    removed: Literal["mean", "zero"] = "mean"
    """Ce que rend une pièce retirée : sa moyenne sur l'invite, ou zéro."""


def visualize(
    model: ModelSource = None,
    *,
    figure: FigureOptions = FigureOptions(),
    inside: InsideOptions = InsideOptions(),
    choice: DeviceChoice = DeviceChoice(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Montre l'effet de la température, de top-k et de top-p sur le token suivant.

    La distribution est celle du modèle entraîné, après l'invite donnée. Sans matplotlib, le
    tableau du terminal donne les mêmes nombres. Avec --view, montre l'intérieur du modèle : têtes
    d'attention, couches, neurones, embeddings, points de reprise.
    """
    from gpt_architecture.api import load

    source, path = model_path(model), figure.output_dir / PLOT_NAME
    if inside.view == "learning":
        _learning(source, figure, inside)
        return
    if inside.view != "distribution":
        _inside(load(source, device=choice.device, quant=choice.quant), figure, inside)
        return
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
        say_aside(f"avertissement : figure non tracée, {error}")
        return
    print(f"Figure : {path}")


def _inside(gpt: GPT, figure: FigureOptions, inside: InsideOptions) -> None:
    """Un tableau, et ce qui s'en dit."""
    if inside.view == "heads":
        found = gpt.heads()
        _table(found.table, found.verdict)
        return
    if inside.view == "neighbours":
        if inside.follow is None:
            raise ConfigurationError(
                "--view neighbours sans --follow",
                expected="le token dont chercher les voisins",
                remedy="ajoutez par exemple --follow e",
            )
        _table(gpt.neighbours(inside.follow, top=figure.n_tokens).table)
        return
    prompt = default_prompt(figure.prompt, gpt.metadata)
    if inside.view == "lens":
        _table(gpt.lens(prompt).table)
    elif inside.view == "ablation":
        _table(gpt.ablate(prompt, follow=inside.follow, mode=inside.removed).table)
    else:
        neuron = gpt.neuron(prompt, inside.layer, inside.neuron, top=figure.n_tokens)
        _table(neuron.table, *neuron.notes)


def _learning(source: Path, figure: FigureOptions, inside: InsideOptions) -> None:
    """La même invite à chaque point de reprise, une barre pendant qu'ils se chargent."""
    from gpt_architecture.api import follow_learning
    from gpt_architecture.reports.console import ProgressBar

    if figure.prompt is None:
        raise ConfigurationError(
            "--view learning sans --prompt",
            expected="l'invite donnée à chaque point de reprise",
            remedy="ajoutez par exemple --prompt « Il était une fois »",
        )
    with ProgressBar("Points de reprise") as bar:
        found = follow_learning(
            source,
            figure.prompt,
            follow=inside.follow,
            on_progress=lambda done, total: bar.start(total, done),
        )
    _table(found.table)


def _table(data: TableData, *notes: str) -> None:
    from gpt_architecture.reports.terminal import table

    console = output_console()
    console.print(table(*data))
    for line in notes:
        console.print(line, markup=False, highlight=False)


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
