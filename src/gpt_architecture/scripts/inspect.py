"""`gpt-architecture inspect` : ce qu'est un modèle, sans charger ses poids."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 inspect.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import ModelSource, ResultOptions, model_path
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.storage import check_outputs, json_of

if TYPE_CHECKING:
    from gpt_architecture.formats.inspection import Inspection


@Parameter(name="*", group=Group("Sortie", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Ce qui est montré."""

    tensors: bool = False
    """Montre chaque tenseur ; sans cela, les blocs semblables sont réunis en un."""

    provenance: bool = False
    """Montre tout ce que l'entraînement a noté, et non l'essentiel."""

    no_hashes: bool = False
    """Ne calcule pas les empreintes, qui font lire les fichiers en entier."""

    check: bool = False
    """Vérifie, par les sommes de contrôle, que rien n'a changé depuis l'écriture ; code 1 sinon."""


def inspect(
    model: ModelSource = None,
    *,
    options: InspectOptions = InspectOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Dit ce qu'est un fichier ou un dossier de modèle, sans charger ses poids."""
    source = model_path(model)
    check_outputs(
        {"--json-file": (output.json_file, json_of("inspect"))},
        reads=(source, common),
        force=output.force,
    )
    from gpt_architecture.api import inspect_model, locate

    with ProgressBar("Empreintes") as bar:
        result = inspect_model(
            locate(source),
            hashes=not options.no_hashes,
            check=options.check,
            on_progress=lambda done, total: bar.start(total, done),
        )
    if not output.emit([_record(result)], "inspect"):
        _report(result, options)


def _record(result: Inspection) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "kind": result.kind,
        "parameters": result.parameters,
        "config": None if result.config is None else result.config.to_dict(),
        "tokenizer": dict(result.tokenizer),
        "provenance": dict(result.provenance),
        "tensors": [
            {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
            for info in result.tensors
        ],
        "files": [
            {"name": info.name, "size": info.size, "sha256": info.sha256} for info in result.files
        ],
        "intact": result.intact,
    }


def _report(result: Inspection, options: InspectOptions) -> None:
    from gpt_architecture.reports.inspection import file_lines, inspection_facts, tensor_lines

    print(f"{result.path} : {result.name}")
    for name, value in inspection_facts(result, complete=options.provenance):
        print(f"{name} : {value}")
    for line in tensor_lines(result.tensors, complete=options.tensors):
        print(f"  {line}")
    print("Fichiers :")
    for line in file_lines(result):
        print(f"  {line}")
    if options.check:
        found = "rien n'a changé" if result.intact else "inconnue : ce format n'a pas de sommes"
        print(f"Intégrité : {found}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["inspect", *sys.argv[1:]])
