"""`gpt-architecture quantize` : écrire un modèle quantifié, et dire ce qu'il perd."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 quantize.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, find_model
from gpt_architecture.cli.options import ModelSource, ResultOptions
from gpt_architecture.french import decimal, french_size
from gpt_architecture.storage import check_outputs, json_of, nothing


@Parameter(name="*", group=Group("Quantification", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Comment quantifier, et où écrire."""

    scheme: Literal["int8", "int4"] = "int8"
    """Nombre de bits par poids : 8, ou 4 (6 pour la tête de sortie et l'embedding)."""

    group_size: Literal[32, 64, 128] = 32
    """Nombre de poids par échelle : plus il est grand, plus le fichier est petit et moins il est
    fidèle."""

    output: Path | None = None
    """Fichier à écrire ; sans lui, le nom du modèle suivi du schéma, à côté de lui."""

    text: Path | None = None
    """Texte que le modèle n'a pas appris, pour mesurer la perplexité et l'accord des tokens."""

    tokens: int = 8192
    """Nombre maximal de tokens de ce texte à mesurer."""


def quantize(
    model: ModelSource = None,
    *,
    options: QuantizeOptions = QuantizeOptions(),
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Quantifie les poids d'un modèle, sur 8 ou 4 bits, pour décoder plus vite."""
    from gpt_architecture.api import quantize as quantized
    from gpt_architecture.api import quantized_output

    source = find_model(model)
    output, path = quantized_output(source, options.scheme, options.output)
    check_outputs(
        {
            "--output": (output, nothing),
            "--json-file": (results.json_file, json_of("quantize")),
        },
        reads=(path, options, common),
        force=results.force,
    )
    found = quantized(source, **vars(options), force=results.force, progress=True)
    if not results.emit([found.record], "quantize"):
        _report(found.record)


def _report(record: dict[str, Any]) -> None:
    before, after = record["bytes_before"], record["bytes_after"]
    print(
        f"{record['output']} : {record['scheme']}, groupes de {record['group_size']} ; "
        f"poids de {french_size(before)} à {french_size(after)} "
        f"({decimal(before / after, 1)} fois moins)"
    )
    if "tokens" not in record:
        print("Qualité non mesurée : --text FICHIER, un texte que le modèle n'a pas appris.")
        return
    gap = f"{100 * record['perplexity_gap']:+.2f}".replace(".", ",")
    print(
        f"Perplexité sur {record['tokens']} tokens : {decimal(record['perplexity_before'], 3)} "
        f"→ {decimal(record['perplexity_after'], 3)} ({gap} %)"
    )
    print(f"Même token glouton : {decimal(100 * record['greedy_agreement'], 1)} % des positions")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["quantize", *sys.argv[1:]])
