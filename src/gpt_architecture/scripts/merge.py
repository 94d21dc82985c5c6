"""`gpt-architecture merge` : fondre des adaptateurs dans leur modèle de départ."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 merge.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import NamedModel, ResultOptions, model_and_rest
from gpt_architecture.storage import check_outputs, json_of, nothing


@Parameter(name="*", group=Group("Fusion", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Où écrire."""

    out: Path
    """Fichier du modèle à écrire."""

    weights: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = ()
    """Poids de chaque affinage, s'il y en a plusieurs ; il peut être négatif. Sans lui, 1."""


def merge(
    start: str | None = None,
    /,
    *adapters: Path,
    model: NamedModel = None,
    options: MergeOptions,
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008 — immuable
) -> None:
    """Fond des adaptateurs dans leur modèle de départ, et écrit un modèle ordinaire.

    Args:
        start: Modèle dont l'affinage est parti ; tout autre est refusé.
        adapters: Fichier adapter.safetensors, point de reprise ou dossier de l'affinage, dossier de
            PEFT ; plusieurs affinages du même modèle s'additionnent.
    """
    usage = "MODÈLE ADAPTATEURS… --out FICHIER"
    base_name, first = model_and_rest(model, start, next(iter(adapters), None), usage=usage)
    given = [first, *adapters[1:]]
    check_outputs(
        {"--out": (options.out, nothing), "--json-file": (results.json_file, json_of("merge"))},
        reads=(base_name, *given, common),
        force=results.force,
    )
    from gpt_architecture.api import merge as merged

    found = merged(
        base_name, given, options.out, weights=options.weights or None, force=results.force
    )
    if not results.emit([found.record], "merge"):
        print(found)


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["merge", *sys.argv[1:]])
