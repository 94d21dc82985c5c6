"""`gpt-architecture models` : les modèles d'un dossier et du cache, sans les charger."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 models.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import ResultOptions
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Recherche", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """Où chercher."""

    depth: int = 4
    """Niveaux de sous-dossiers où descendre ; 0 : aucun."""

    limit: int = 500
    """Modèles à montrer, au plus."""

    checkpoints: bool = False
    """Une ligne par point de reprise, au lieu d'une par entraînement."""

    no_cache: bool = False
    """Laisse de côté les dépôts du cache de Hugging Face."""


def models(
    *folders: Path,
    options: ModelsOptions = ModelsOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Dit quels modèles il y a dans des dossiers et dans le cache, d'après leurs en-têtes.

    Args:
        folders: Dossiers où chercher, ou fichiers ; sans eux, le dossier d'ici.
    """
    check_outputs(
        {"--json-file": (output.json_file, json_of("models"))},
        reads=(common,),
        force=output.force,
    )
    from gpt_architecture.api import models as list_models

    found = list_models(
        folders,
        cache=not options.no_cache,
        depth=options.depth,
        limit=options.limit,
        checkpoints=options.checkpoints,
    )
    if not output.emit([each.record for each in found], "models"):
        print(found if len(found) else "Aucun modèle ici.")
    if found.is_partial:
        say_aside("La recherche s'est arrêtée à ses bornes : il peut y en avoir d'autres.")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["models", *sys.argv[1:]])
