"""`gpt-architecture push` : déposer un modèle dans un dossier partagé, ou sur le Hub."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 push.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import NamedModel, ResultOptions, model_and_rest
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Dépôt", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Comment déposer."""

    license: str | None = None
    """Licence à écrire dans la fiche, par exemple mit ou cc-by-4.0."""

    public: bool = False
    """Crée sur le Hub un dépôt que tous peuvent lire ; sans cela, il est privé."""


def push(
    start: str | None = None,
    place: Path | None = None,
    /,
    *,
    model: NamedModel = None,
    options: PushOptions = PushOptions(),
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Dépose un modèle, sa fiche, son certificat et leurs empreintes.

    Args:
        start: Modèle : fichier, point de reprise ou dossier ; des adaptateurs y sont fondus.
        place: Dossier à créer, sur un disque partagé par exemple, ou hub:AUTEUR/NOM, seul à
            demander le réseau, et un jeton (HF_TOKEN).
    """
    given, place = model_and_rest(model, start, place, usage="MODÈLE LIEU")
    check_outputs(
        {"--json-file": (results.json_file, json_of("push"))},
        reads=(given, options, common),
        force=results.force,
    )
    from gpt_architecture.api import push as pushed

    found = pushed(given, place, **vars(options), force=results.force)
    if not results.emit([found.record], "push"):
        print(found)
        print("Fichiers : " + ", ".join(found.files))
        print(f"Ensuite : gpt-architecture pull {place}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["push", *sys.argv[1:]])
