"""`gpt-architecture convert` : d'un format de poids à un autre."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 convert.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, ProgressBar
from gpt_architecture.cli.options import NamedModel, ResultOptions, model_and_rest
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import french_number, french_size
from gpt_architecture.storage import check_not_read, check_outputs, json_of, nothing

if TYPE_CHECKING:
    from gpt_architecture.formats.model_file import ModelFile

Target = Literal["hf", "gguf", "onnx", "nanogpt", "pt", "peft"]
Dtype = Literal["f32", "f16", "q8_0"]

_DTYPES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("f32", "f16"),
    "gguf": ("f32", "f16", "q8_0"),
    "onnx": ("f32",),
    "nanogpt": ("f32",),
    "pt": ("f32",),
    "peft": ("f32",),
}
_FOLDERS: tuple[Target, ...] = ("hf", "peft")


@Parameter(name="*", group=Group("Conversion", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Vers quoi convertir, et ce que la source ne dit pas d'elle-même."""

    to: Annotated[Target, Parameter(metavar="FORMAT")]
    """Format : dossier de Transformers, GGUF de llama.cpp, ONNX, ckpt.pt de nanoGPT, fichier de ce
    projet, ou dossier de PEFT pour des adaptateurs."""

    dtype: Dtype = "f32"
    """Type des poids écrits : f16 pour hf et gguf, q8_0 (8 bits) pour gguf."""

    tokenizer: str | None = None
    """Vocabulaire des poids qui n'en portent pas : gpt2, ou le fichier d'un tokenizer."""

    n_heads: int | None = None
    """Nombre de têtes d'attention d'un fichier du livre ; sans lui, une par 64 de la largeur."""

    license: str | None = None
    """Licence à écrire dans la fiche, par exemple mit ou cc-by-4.0."""

    untie: bool = False
    """Écrit la tête de sortie à part de l'embedding, pour des lecteurs qui ne savent pas les
    lier."""

    cache: bool = False
    """Avec onnx, ajoute le cache, le masque et les positions, comme le fait optimum."""

    shard_size: int = 5120
    """Taille maximale d'un fichier de poids hf, en Mio : au-delà, ils sont répartis."""


def convert(
    source: str | None = None,
    dest: Path | None = None,
    /,
    *,
    model: NamedModel = None,
    options: ConvertOptions,
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Convertit un modèle ; le format de la source est reconnu à son contenu.

    Args:
        source: Modèle ou point de reprise d'ici, dossier de Transformers, ckpt.pt de nanoGPT,
            .pth du livre de Raschka ; hub:gpt2 le télécharge. Pour peft, des adaptateurs d'ici.
        dest: Dossier (hf, peft) ou fichier à écrire.
    """
    given, dest = model_and_rest(model, source, dest, usage="SOURCE DESTINATION --to FORMAT")
    _check(given, dest, options, results, common)
    if options.to == "peft":
        from gpt_architecture.api import locate
        from gpt_architecture.formats.adapter_file import read_adapter
        from gpt_architecture.interop.peft import export_peft

        adapter = read_adapter(locate(given))
        export_peft(adapter, dest, force=results.force)
        count = sum(tensor.numel() for tensor in adapter.tensors.values())
        record = _record(sorted(dest.iterdir()), dest, options, parameters=count)
    else:
        with ProgressBar("Conversion") as bar:
            bar.start(2, 0)
            content = _read(given, options)
            bar.update(1, "lecture faite")
            _write(content, dest, options, force=results.force)
            bar.update(2, "écriture faite")
        learned = content.metadata.get("window")
        record = _record(
            _written(content, dest, options),
            dest,
            options,
            parameters=content.config.num_parameters(),
            context_length=content.config.context_length,
            window=learned if isinstance(learned, int) else None,
        )
    if not results.emit([record], "convert"):
        _report(record)


def _check(
    source: str,
    dest: Path,
    options: ConvertOptions,
    results: ResultOptions,
    common: CommonOptions,
) -> None:
    """Refuse, avant de lire le modèle, ce qui échouerait après."""
    from gpt_architecture.config import check_int
    from gpt_architecture.storage import check_free

    if options.dtype not in _DTYPES[options.to]:
        raise ConfigurationError(
            f"--dtype vaut {options.dtype} avec --to {options.to}",
            expected=" ou ".join(_DTYPES[options.to]),
            remedy="corrigez --dtype",
        )
    check_int("--shard-size", options.shard_size, minimum=1, maximum=1 << 20)
    if options.cache and options.to != "onnx":
        raise ConfigurationError(
            f"--cache avec --to {options.to}",
            expected="--to onnx",
            remedy="retirez --cache",
        )
    if options.n_heads is not None:
        check_int("--n-heads", options.n_heads, minimum=1)
    reads, in_folder = (source, options, common), options.to in _FOLDERS
    if in_folder:
        check_free(dest, force=results.force, directory=True)
        check_not_read(dest, reads, "la destination")
        _check_outside(results.json_file, dest)
    beside = {"onnx": f"{dest.name}.data", "nanogpt": f"{dest.stem}.meta.json"}.get(options.to)
    check_outputs(
        {
            "la destination": (None if in_folder else dest, nothing),
            "ce qui l'accompagne": (None if beside is None else dest.with_name(beside), nothing),
            "--json-file": (results.json_file, json_of("convert")),
        },
        reads=reads,
        force=results.force,
    )


def _check_outside(file: Path | None, folder: Path) -> None:
    """Refuse un fichier JSON dans le dossier que la conversion remplace."""
    if file is not None and file.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"--json-file {file} est dans {folder}, que la conversion écrit",
            expected="un fichier ailleurs",
            remedy="changez --json-file",
        )


def _read(source: str, options: ConvertOptions) -> ModelFile:
    from gpt_architecture.api import read_any
    from gpt_architecture.data.tokenizer import get_tokenizer

    tokenizer = None if options.tokenizer is None else get_tokenizer(options.tokenizer)
    content = read_any(source, tokenizer=tokenizer, n_heads=options.n_heads)
    if options.license is not None:
        content = replace(content, metadata={**content.metadata, "license": options.license})
    return content.untied() if options.untie else content


def _write(content: ModelFile, dest: Path, options: ConvertOptions, *, force: bool) -> None:
    if options.to == "hf":
        from gpt_architecture.interop.hf_export import export_hf

        export_hf(
            content,
            dest,
            dtype="f16" if options.dtype == "f16" else "f32",
            max_shard_bytes=options.shard_size << 20,
            force=force,
        )
    elif options.to == "gguf":
        from gpt_architecture.interop.gguf import export_gguf

        export_gguf(content, dest, dtype=options.dtype)
    elif options.to == "onnx":
        from gpt_architecture.interop.onnx import export_onnx

        export_onnx(content, dest, cache=options.cache)
    elif options.to == "nanogpt":
        from gpt_architecture.interop.nanogpt import export_nanogpt

        export_nanogpt(content, dest, force=force)
    else:
        from gpt_architecture.formats.model_file import save_model

        save_model(
            dest,
            content.build(),
            content.config,
            tokenizer=content.tokenizer,
            metadata=content.metadata,
        )


def _written(content: ModelFile, dest: Path, options: ConvertOptions) -> list[Path]:
    """Les fichiers de la conversion, ceux qui accompagnent le sien compris."""
    files = sorted(dest.iterdir()) if dest.is_dir() else [dest]
    beside = dest.with_name(f"{dest.name}.data")  # les gros poids d'un export ONNX
    files += [beside] if options.to == "onnx" and beside.exists() else []
    characters = options.to == "nanogpt" and content.tokenizer.get("name") == "char"
    return files + ([dest.with_name(f"{dest.stem}.meta.json")] if characters else [])


def _record(
    files: list[Path], dest: Path, options: ConvertOptions, **shape: int | None
) -> dict[str, Any]:
    return {
        "output": str(dest),
        "to": options.to,
        "dtype": options.dtype,
        **shape,
        "bytes": sum(file.stat().st_size for file in files),
        "files": [file.name for file in files],
    }


def _report(record: dict[str, Any]) -> None:
    dest, target = record["output"], record["to"]
    print(
        f"{dest} : {french_number(record['parameters'])} paramètres en {record['dtype']}, "
        f"{french_size(record['bytes'])}"
    )
    if target in _FOLDERS:
        print("Fichiers : " + ", ".join(record["files"]))
        learned = record.get("window")
        if learned is not None and learned < record["context_length"]:
            print(
                f"Des {record['context_length']} positions, {record['window']} ont appris : "
                "ne les dépassez pas."
            )
    if target == "nanogpt" and len(record["files"]) > 1:
        from gpt_architecture.interop.nanogpt import DATASET

        meta = Path(dest).resolve().with_name(record["files"][1])
        target_file = f"data/{DATASET}/meta.pkl"
        code = f"pickle.dump(json.load(open({str(meta)!r})), open({target_file!r}, 'wb'))"
        print(f"Vocabulaire, que sample.py veut dans {target_file} ; du dossier de nanoGPT :")
        print(f'  mkdir -p data/{DATASET} && python -c "import json, pickle; {code}"')
    steps = {
        "hf": f'AutoModelForCausalLM.from_pretrained("{dest}"), ou : vllm serve {dest}',
        "gguf": f'llama-completion -m {dest} -p "…"',
        "onnx": f'onnxruntime.InferenceSession("{dest}")',
        "nanogpt": f"python sample.py --out_dir={Path(dest).parent}, où ce fichier est ckpt.pt",
        "pt": f"gpt-architecture infer --model {dest}",
        "peft": f'PeftModel.from_pretrained(modèle, "{dest}")',
    }
    print(f"Ensuite : {steps[target]}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["convert", *sys.argv[1:]])
