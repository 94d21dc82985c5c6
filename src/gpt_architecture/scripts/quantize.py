"""`gpt-architecture quantize` : écrire un modèle quantifié, et dire ce qu'il perd."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 quantize.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, ProgressBar, find_model
from gpt_architecture.cli.options import ModelSource, ResultOptions
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import decimal, french_size
from gpt_architecture.storage import check_outputs, json_of, nothing

if TYPE_CHECKING:
    from gpt_architecture.evaluation.reliability import Fidelity
    from gpt_architecture.formats.model_file import ModelFile
    from gpt_architecture.kernels.decode.packed import PackedModel


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
    from gpt_architecture.api import locate, read_any, short_name

    source = find_model(model)
    path = locate(source)
    inside = source if source.is_dir() else Path()  # un dossier d'entraînement, ou le Hub
    folder = source.parent if path == source else inside
    name = f"{short_name(source, path)}-{options.scheme}.safetensors"
    output = options.output or folder / name
    _check(output, options)
    check_outputs(
        {
            "--output": (output, nothing),
            "--json-file": (results.json_file, json_of("quantize")),
        },
        reads=(path, options, common),
        force=results.force,
    )
    from gpt_architecture.core.grouped_codes import Scheme
    from gpt_architecture.formats.quantized_file import save_quantized
    from gpt_architecture.kernels.decode.packed import pack

    content = read_any(source)
    reference = content.build()
    with ProgressBar("Quantification"):
        packed = pack(reference, Scheme(name=options.scheme, group_size=options.group_size))
    save_quantized(output, packed, tokenizer=content.tokenizer, metadata=content.metadata)
    fidelity = None
    if options.text is not None:
        with ProgressBar("Mesure") as bar:
            fidelity = _measure(content, packed, options, bar)
    sizes = (4 * content.config.num_parameters(), packed.nbytes)
    record = _record(output, options, sizes, fidelity)
    if not results.emit([record], "quantize"):
        _report(record)


def _check(output: Path, options: QuantizeOptions) -> None:
    """Refuse, avant de charger le modèle, ce qui échouerait après."""
    if output.suffix != ".safetensors":
        raise ConfigurationError.wrong(
            "--output", str(output), expected="un nom en .safetensors", remedy="changez l'extension"
        )
    if options.tokens < 2:
        raise ConfigurationError.wrong("--tokens", options.tokens, expected="au moins 2")


def _measure(
    content: ModelFile,
    packed: PackedModel,
    options: QuantizeOptions,
    bar: ProgressBar,
) -> Fidelity:
    import torch

    from gpt_architecture.config import END_OF_TEXT
    from gpt_architecture.data.texts.corpus import load_corpus
    from gpt_architecture.data.tokenizer import tokenizer_from_dict
    from gpt_architecture.evaluation.reliability import compare_models

    assert options.text is not None  # noqa: S101 — l'appelant l'a vérifié
    corpus, tokenizer = load_corpus([options.text]), tokenizer_from_dict(content.tokenizer)
    ids = tokenizer.encode(corpus.text, allowed_special={END_OF_TEXT})
    learned, limit = content.metadata.get("window"), content.config.context_length
    return compare_models(
        content.build(),
        packed,
        torch.tensor(ids[: options.tokens + 1], dtype=torch.int64),
        window=min(learned, limit) if isinstance(learned, int) and learned > 0 else limit,
        on_progress=lambda done, total: bar.start(total, done),
    )


def _record(
    output: Path, options: QuantizeOptions, sizes: tuple[int, int], fidelity: Fidelity | None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "output": str(output),
        "scheme": options.scheme,
        "group_size": options.group_size,
        "bytes_before": sizes[0],
        "bytes_after": sizes[1],
    }
    if fidelity is not None:
        record |= {
            "tokens": fidelity.tokens,
            "perplexity_before": fidelity.reference_perplexity,
            "perplexity_after": fidelity.candidate_perplexity,
            "perplexity_gap": fidelity.relative_gap,
            "greedy_agreement": fidelity.agreement,
        }
    return record


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
