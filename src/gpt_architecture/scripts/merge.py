"""`gpt-architecture merge` : fondre des adaptateurs dans leur modèle de départ."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 merge.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.errors import OutputError
from gpt_architecture.scripts._cli import CommonOptions, french_size


@Parameter(name="*", group=Group("Fusion", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Où écrire, et comment le dire."""

    out: Path
    """Fichier du modèle à écrire."""

    force: bool = False
    """Remplace un fichier qui existe déjà."""

    as_json: Annotated[bool, Parameter(name="--json")] = False
    """Écrit un objet JSON au lieu d'une ligne."""


def merge(
    model: Path,
    adapter: Path,
    /,
    *,
    options: MergeOptions,
    common: CommonOptions = CommonOptions(),  # noqa: B008 — immuable
) -> None:
    """Fond des adaptateurs dans leur modèle de départ, et écrit un modèle ordinaire.

    Args:
        model: Modèle dont l'affinage est parti ; tout autre est refusé.
        adapter: Fichier adapter.safetensors, ou point de reprise de l'affinage.
    """
    del common  # lues par le lanceur
    if options.out.exists() and not options.force:
        raise OutputError(
            f"{options.out} existe déjà",
            expected="un nom libre",
            remedy="ajoutez --force pour le remplacer, ou donnez un autre --out",
        )

    from gpt_architecture.core.weights import save_model
    from gpt_architecture.scripts._finetuning import starting_point
    from gpt_architecture.training.adapter_file import read_adapter

    found = read_adapter(adapter)
    base = starting_point(model).content
    merged = found.merge(base)
    save_model(
        options.out,
        merged,
        base.config,
        tokenizer=base.tokenizer,
        metadata={**base.metadata, **found.metadata},
    )
    size = options.out.stat().st_size
    if options.as_json:
        record = {"output": str(options.out), "bytes": size, "lora": found.lora.to_dict()}
        print(json.dumps(record, ensure_ascii=False))
        return
    print(
        f"{options.out} : {len(found.tensors) // 2} adaptateurs de rang {found.lora.rank} fondus "
        f"({french_size(size)})"
    )


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["merge", *sys.argv[1:]])
