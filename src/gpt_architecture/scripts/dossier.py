"""`gpt-architecture dossier` : ce qu'un modèle retient de ses textes, d'où ils viennent."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 dossier.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import ModelSource, ResultOptions, model_path
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Données de l'entraînement", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class LearnedOptions:
    """Ce que l'entraînement a lu."""

    data: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Données de l'entraînement, comme pour « train » ; sans elles, le corpus connu que nomme son
    dernier point de reprise, ou le modèle."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Laisse de côté, en le disant, ce qui est illisible, abîmé ou trop gros."""

    offline: bool = False
    """Interdit tout téléchargement."""


@Parameter(name="*", group=Group("Dossier", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class DossierOptions:
    """Ce qui est mesuré, et où il est écrit."""

    out: Annotated[Path | None, Parameter(metavar="PAGE")] = None
    """Page HTML à écrire, et le même dossier en JSON sous le même nom ; sans elle, dossier.html à
    côté du modèle, où la fiche d'une conversion le lit."""

    shadow: int = 0
    """Nombre pair de modèles de référence à entraîner, de la même recette, sur des moitiés du
    texte : l'attaque d'appartenance la plus forte, au prix d'autant de demi-entraînements."""

    power: float | None = None
    """Puissance de la machine pendant l'entraînement, en watts ; sans elle, l'énergie n'est pas
    estimée."""

    carbon: float | None = None
    """CO₂ de l'électricité employée, en grammes par kWh ; sans lui, le CO₂ n'est pas estimé."""

    batch_size: int = 64
    """Nombre maximal de séquences lues ensemble ; la mémoire en décide aussi."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""


def dossier(
    model: ModelSource = None,
    *,
    learned: LearnedOptions = LearnedOptions(),
    options: DossierOptions = DossierOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Mesure ce qu'un modèle retient de ses textes : canaris, extraction, appartenance.

    Écrit aussi d'où ils viennent, les données personnelles qui y restent, ce qui a été oublié,
    l'énergie : une page HTML et un JSON.
    """
    source = model_path(model)
    check_outputs(
        {"--json-file": (output.json_file, json_of("dossier"))},
        reads=(source, learned, options, common),
        force=output.force,
    )
    from gpt_architecture import api

    found = api.dossier(
        source,
        learned.data,
        field=learned.field,
        skip_bad=learned.skip_bad,
        offline=learned.offline,
        **vars(options),
        force=output.force,
        progress=True,
    )
    if not output.emit([found.record], "dossier", indent=1):
        found.show(output_console())
    say_aside(f"Dossier : {found.path}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["dossier", *sys.argv[1:]])
