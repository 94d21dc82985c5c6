"""`gpt-architecture inspect` : ce qu'est un modèle, sans charger ses poids."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 inspect.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import ModelSource, ResultOptions, model_path
from gpt_architecture.french import decimal, french_number, french_size
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.storage import check_outputs, json_of

if TYPE_CHECKING:
    from gpt_architecture.formats.inspection import Inspection
    from gpt_architecture.formats.tensor_files import TensorInfo

_BLOCK = re.compile(r"^(.*?\b(?:h|blk|trf_blocks))\.(\d+)\.(.*)$")
_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SHOWN = 240


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
    print(f"{result.path} : {result.name}")
    if result.parameters:
        print(f"Paramètres : {french_number(result.parameters)}")
    if result.config is not None:
        config = result.config
        print(
            f"Forme : {config.n_layers} blocs, {config.n_heads} têtes, largeur {config.emb_dim}, "
            f"vocabulaire {config.vocab_size}, {config.context_length} positions, "
            f"tête de sortie {'liée' if config.tie_weights else 'indépendante'}, "
            f"{'avec' if config.qkv_bias else 'sans'} biais q, k, v"
            + "".join(f", {name} = {value}" for name, value in config.variants().items())
        )
    print(f"Tokenizer : {_tokenizer(result.tokenizer)}")
    for line in _provenance(result.provenance, complete=options.provenance):
        print(line)
    if result.tensors:
        dtypes = sorted({info.dtype for info in result.tensors})
        print(f"Tenseurs : {len(result.tensors)}, en {', '.join(dtypes)}")
        for line in _tensor_lines(result.tensors, complete=options.tensors):
            print(f"  {line}")
    print("Fichiers :")
    for info in result.files:
        digest = "" if info.sha256 is None else f", sha256 {info.sha256}"
        print(f"  {info.name} : {french_size(info.size)}{digest}")
    if options.check:
        found = "rien n'a changé" if result.intact else "inconnue : ce format n'a pas de sommes"
        print(f"Intégrité : {found}")


def _tokenizer(tokenizer: Mapping[str, Any]) -> str:
    if "problem" in tokenizer:
        return f"inconnu ({tokenizer['problem']})"
    return f"{tokenizer['name']}, {tokenizer['vocab_size']} tokens, sha256 {tokenizer['sha256']}"


def _provenance(provenance: Mapping[str, Any], *, complete: bool) -> list[str]:
    """Une ligne par fait ; l'essentiel tient en quelques clés connues."""
    if complete:
        return [f"{_clean(key)} : {_clean(value)}" for key, value in provenance.items()]
    from gpt_architecture.interop.hf_export import measured_at_the_end

    which = "Perte finale" if measured_at_the_end(provenance) else "Dernière perte mesurée"
    known = {
        "origin": "Origine",
        "source": "Source",
        "license": "Licence",
        "steps": "Étapes",
        "window": "Contexte d'entraînement",
        "tokens_seen": "Tokens vus",
        "train_losses": f"{which}, entraînement",
        "val_losses": f"{which}, validation",
        "versions": "Versions",
        "base_sha256": "Modèle de départ",
        "rank": "Rang",
        "alpha": "Force",
        "targets": "Matrices adaptées",
        "opset": "Opset",
        "inputs": "Entrées",
        "outputs": "Sorties",
        "general.name": "Nom",
        "general.license": "Licence",
    }
    lines = []
    data = provenance.get("data")
    if isinstance(data, Mapping):
        lines.append(f"Données : {_clean(data.get('name'))}, sha256 {_clean(data.get('sha256'))}")
    for key, label in known.items():
        value = provenance.get(key)
        if isinstance(value, (list, tuple)):
            value = value[-1] if value else None
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        if value not in (None, ""):
            lines.append(f"{label} : {_clean(value)}")
    return lines + _judgement(provenance)


def _judgement(provenance: Mapping[str, Any]) -> list[str]:
    """Les repères de la perte, et les fautes que l'entraînement a montrées."""
    from gpt_architecture.training.baselines import Baselines

    lines = []
    baselines = Baselines.from_dict(provenance.get("baselines"))
    if baselines is not None:
        levels = (f"{name} {decimal(level)}" for name, level in baselines.levels.items())
        lines.append(f"Repères de validation : {', '.join(levels)}")
    found = provenance.get("diagnosis")
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            lines.append(f"Diagnostic : {_clean(each.get('found'))}")
    return lines


def _clean(value: object) -> str:
    """Un texte venu d'un fichier : borné, sur une ligne, sans commande de terminal."""
    text = f"{value:.4g}".replace(".", ",") if isinstance(value, float) else str(value)
    text = _LINE.sub(" ", text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _tensor_lines(tensors: Sequence[TensorInfo], *, complete: bool) -> list[str]:
    """Une ligne par tenseur ; ou une pour le même tenseur de tous les blocs."""
    groups: dict[tuple[str, tuple[int, ...], str], int] = {}
    for info in tensors:
        block = None if complete else _BLOCK.match(info.name)
        name = info.name if block is None else f"{block[1]}.N.{block[3]}"
        key = (name, info.shape, info.dtype)
        groups[key] = groups.get(key, 0) + 1
    return [
        f"{_clean(name)} ({', '.join(map(str, shape))}) {dtype}"
        + (f" × {count}" if count > 1 else "")
        for (name, shape, dtype), count in groups.items()
    ]


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["inspect", *sys.argv[1:]])
