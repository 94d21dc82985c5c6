"""`gpt-architecture merge` : fondre des adaptateurs dans leur modèle de départ."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 merge.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass

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


def merge(
    start: str | None = None,
    adapter: Path | None = None,
    /,
    *,
    model: NamedModel = None,
    options: MergeOptions,
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008 — immuable
) -> None:
    """Fond des adaptateurs dans leur modèle de départ, et écrit un modèle ordinaire.

    Args:
        start: Modèle dont l'affinage est parti ; tout autre est refusé.
        adapter: Fichier adapter.safetensors, point de reprise ou dossier de l'affinage.
    """
    base_name, adapter = model_and_rest(
        model, start, adapter, usage="MODÈLE ADAPTATEURS --out FICHIER"
    )
    check_outputs(
        {"--out": (options.out, nothing), "--json-file": (results.json_file, json_of("merge"))},
        reads=(base_name, adapter, common),
        force=results.force,
    )
    from gpt_architecture.api import merge as merged

    found = merged(base_name, adapter, options.out, force=results.force)
    if not results.emit([found.record], "merge"):
        print(found)


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["merge", *sys.argv[1:]])
