"""`gpt-architecture pull` : reprendre un modèle d'un dossier partagé, ou du Hub."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 pull.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import ResultOptions
from gpt_architecture.storage import check_outputs, json_of


def pull(
    place: str,
    folder: Path | None = None,
    /,
    *,
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Reprend un modèle d'un lieu d'échange, empreintes vérifiées.

    Args:
        place: Dossier où il a été déposé, ou hub:AUTEUR/NOM, seul à demander le réseau.
        folder: Dossier à créer ; sans lui, le dernier mot du lieu, ici.
    """
    check_outputs(
        {"--json-file": (results.json_file, json_of("pull"))},
        reads=(place, common),
        force=results.force,
    )
    from gpt_architecture.api import pull as pulled

    found = pulled(place, folder, force=results.force)
    if not results.emit([found.record], "pull"):
        print(found)
        print(f"Ensuite : gpt-architecture infer {found.place}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["pull", *sys.argv[1:]])
