"""Un modèle écrit dans un autre format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from gpt_architecture.api.loading import content_of, find_tokenizer, folder_of, held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.config import check_int
from gpt_architecture.core.grouped_codes import SchemeName
from gpt_architecture.core.lora import HEAD
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.model_file import ModelFile, save_model
from gpt_architecture.formats.own_formats import read_adapters
from gpt_architecture.french import french_number, french_size, thousands
from gpt_architecture.storage import check_free, check_not_read, check_outputs, exists, nothing

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run


Target = Literal["hf", "gguf", "ollama", "onnx", "transformersjs", "nanogpt", "pt", "peft", "page"]
"""Transformers, llama.cpp, Ollama, ONNX, transformers.js, nanoGPT, fichier de ce projet,
adaptateurs de PEFT, page HTML."""

Dtype = Literal["f32", "f16", "q8_0", "q4_0", "q4_K_M", "q5_K_M", "q6_K"]
"""Type des poids écrits."""

FOLDERS: tuple[Target, ...] = ("hf", "ollama", "transformersjs", "peft")
"""Formats qui écrivent un dossier."""

_DTYPES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("f32", "f16"),
    "gguf": get_args(Dtype),
    "ollama": get_args(Dtype),
    "onnx": ("f32",),
    "transformersjs": ("f32",),
    "nanogpt": ("f32",),
    "pt": ("f32",),
    "peft": ("f32",),
    "page": ("f32",),
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Conversion:
    """Ce qu'une conversion a écrit.

    Attributes:
        output: le fichier ou le dossier.
        to: son format.
        dtype: type des poids ; d'une page, comment ils sont quantifiés.
        parameters: paramètres écrits.
        judges: vrai si le modèle classe ou note des textes.
        context_length: positions du modèle ; None : des adaptateurs.
        window: positions qui ont appris ; None : inconnues.
        bytes: taille, en octets.
        files: noms des fichiers.
    """

    output: str
    to: Target
    dtype: Dtype | SchemeName
    parameters: int
    judges: bool = False
    context_length: int | None = None
    window: int | None = None
    bytes: int
    files: tuple[str, ...]

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        absent = ("context_length", "window") if self.to == "peft" else ()
        kept = {name: each for name, each in asdict(self).items() if name not in absent}
        return kept | {"files": list(self.files)}

    def __repr__(self) -> str:
        count, size = french_number(self.parameters), french_size(self.bytes)
        return f"Conversion({self.output} : {self.to}, {count} paramètres en {self.dtype}, {size})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [
            ("format", self.to),
            ("paramètres", thousands(self.parameters)),
            ("poids", self.dtype),
            ("taille", french_size(self.bytes)),
        ]
        notes = ["Fichiers : " + ", ".join(self.files)]
        return facts_cell(f"Modèle converti : {self.output}", facts, notes=notes)


@checked_options
def convert(
    source: GPT | Run | Path | str,
    dest: Path | str,
    *,
    to: Target,
    dtype: Dtype = "f32",
    tokenizer: str | None = None,
    n_heads: int | None = None,
    license: str | None = None,
    untie: bool = False,
    cache: bool = False,
    shard_size: int = 5120,
    quant: SchemeName | None = None,
    text_only: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Conversion:
    """Convertit un modèle, comme `gpt-architecture convert`.

    Args:
        source: modèle chargé, entraînement, ou chemin dont le format est reconnu au contenu ; pour
            `peft`, des adaptateurs.
        dest: dossier (`hf`, `ollama`, `transformersjs`, `peft`) ou fichier à écrire.
        to: `hf` (Transformers), `gguf` (llama.cpp), `ollama` (un GGUF et son Modelfile), `onnx`,
            `transformersjs` (ONNX fp32 et 8 bits, pour un navigateur ou Node), `nanogpt`, `pt` (ce
            projet), `peft`, ou `page` (une page HTML où le modèle s'exécute).
        dtype: type des poids écrits : `f16` pour `hf`, `gguf` et `ollama` ; pour ces deux derniers,
            aussi `q8_0`, `q6_K`, `q5_K_M`, `q4_K_M` ou `q4_0`.
        tokenizer: vocabulaire des poids qui n'en portent pas.
        n_heads: têtes d'un fichier du livre ; None : une par 64 de la largeur.
        license: licence à écrire dans la fiche.
        untie: écrit la tête de sortie à part de l'embedding.
        cache: avec `onnx`, ajoute cache, masque et positions.
        shard_size: taille d'un fichier de poids `hf`, en Mio, au plus.
        quant: avec `page`, bits des poids, `int8` ou `int4` ; None : `int8`. Avec `onnx`, `int8`
            met les matrices et leurs activations sur 8 bits.
        text_only: avec `page`, n'y met que ce qui écrit, sans distribution ni attention.
        force: remplace ce qui existe.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: format inconnu, ou réglages qui ne vont pas ensemble.
        MissingDependencyError: la bibliothèque du format n'est pas installée.
        ModelFileError: source absente ou illisible.
        OutputError: destination prise, ou disque qui refuse.

    Examples:
        >>> from gpt_architecture import convert
        >>> found = convert("modele", "transformers", to="hf")
        >>> found.to, "model.safetensors" in found.files
        ('hf', True)
    """
    from gpt_architecture.reports.console import ProgressBar

    dest = Path(dest)
    reads = _reads(source, tokenizer)
    check_conversion(
        dest, reads, to=to, dtype=dtype, n_heads=n_heads, cache=cache, shard_size=shard_size,
        quant=quant, text_only=text_only, force=force,
    )  # fmt: skip
    if to == "peft":
        from gpt_architecture.interop.peft import export_peft

        adapter = read_adapters(source_of(source))
        if HEAD in adapter.tensors:
            raise ModelFileError(
                "ces adaptateurs ont une tête de classe ou de valeur, que `peft` n'écrit pas",
                expected="des adaptateurs d'un modèle qui écrit",
                remedy="fondez-les (« gpt-architecture merge »), et convertissez avec `to=hf`",
            )
        export_peft(adapter, dest, force=force)
        return _conversion(
            _written(dest),
            output=str(dest),
            to=to,
            dtype=dtype,
            parameters=sum(tensor.numel() for tensor in adapter.tensors.values()),
        )
    with ProgressBar("Conversion", shown=progress) as bar:
        bar.start(2, 0)
        known = None if tokenizer is None else find_tokenizer(tokenizer)
        content = content_of(source, tokenizer=known, n_heads=n_heads)
        if to not in ("hf", "pt"):
            content.config.check_writes()
        if license is not None:
            content = replace(content, metadata={**content.metadata, "license": license})
        content = content.untied() if untie else content
        bar.update(1, "lecture faite")
        if to == "page":
            from gpt_architecture.reports.portable.page import export_page

            export_page(content, dest, quant=quant or "int8", text_only=text_only)
        else:
            _write(
                content, dest, to, dtype, cache=cache, shard_size=shard_size, quant=quant,
                force=force, folder=folder_of(source),
            )  # fmt: skip
        bar.update(2, "écriture faite")
    learned = content.metadata.get("window")
    return _conversion(
        [*_written(dest), *_beside(content, dest, to)],
        output=str(dest),
        to=to,
        dtype=quant or ("int8" if to == "page" else dtype),
        parameters=content.config.num_parameters(),
        judges=content.config.head is not None,
        context_length=content.config.context_length,
        window=learned if isinstance(learned, int) else None,
    )


def check_conversion(
    dest: Path | str,
    reads: Sequence[object],
    *,
    to: Target,
    dtype: Dtype,
    n_heads: int | None,
    cache: bool,
    shard_size: int,
    quant: SchemeName | None = None,
    text_only: bool = False,
    force: bool,
    **others: tuple[Path | None, Callable[[bytes, bytes], bool]],
) -> None:
    """Refuse, avant de lire le modèle, ce qui échouerait après.

    Args:
        dest: voir `convert`, comme les suivants.
        reads: ce qui est lu.
        to: voir `convert`.
        dtype: voir `convert`.
        n_heads: voir `convert`.
        cache: voir `convert`.
        shard_size: voir `convert`.
        quant: voir `convert`.
        text_only: voir `convert`.
        force: voir `convert`.
        others: d'autres sorties de l'appelant, sous le nom de leur réglage.

    Raises:
        ConfigurationError: réglage hors bornes, ou qui ne va pas avec un autre.
        OutputError: destination prise, lue, ou où l'on ne peut pas écrire.
    """
    dest = Path(dest)
    if dtype not in _DTYPES[to]:
        raise ConfigurationError(
            f"`dtype` vaut {dtype} avec `to={to}`",
            expected=" ou ".join(_DTYPES[to]),
            remedy="corrigez `dtype`",
        )
    check_int("`shard_size`", shard_size, minimum=1, maximum=1 << 20)
    for name, given, targets in (
        ("cache", cache, ("onnx",)),
        ("quant", quant is not None, ("page", "onnx")),
        ("text_only", text_only, ("page",)),
    ):
        if given and to not in targets:
            expected = " ou ".join(f"`to={each}`" for each in targets)
            raise ConfigurationError(
                f"`{name}` avec `to={to}`", expected=expected, remedy=f"retirez `{name}`"
            )
    if to == "onnx" and quant == "int4":
        raise ConfigurationError(
            "`quant` vaut int4 avec `to=onnx`", expected="int8", remedy="corrigez `quant`"
        )
    if to == "page" and dest.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError.wrong(
            "la destination", str(dest), expected="un nom en .html", remedy="changez l'extension"
        )
    if n_heads is not None:
        check_int("`n_heads`", n_heads, minimum=1)
    in_folder = to in FOLDERS
    if in_folder:
        check_free(dest, force=force, directory=True)
        check_not_read(dest, reads, "la destination")
        for name, (file, _) in others.items():
            _check_outside(name, file, dest)
    beside = {"onnx": f"{dest.name}.data", "nanogpt": f"{dest.stem}.meta.json"}.get(to)
    check_outputs(
        {
            "la destination": (None if in_folder else dest, nothing),
            "ce qui l'accompagne": (None if beside is None else dest.with_name(beside), nothing),
            **{f"`{name}`": each for name, each in others.items()},
        },
        reads=reads,
        force=force,
    )


def _check_outside(name: str, file: Path | None, folder: Path) -> None:
    """Refuse un fichier dans le dossier que la conversion remplace."""
    if file is not None and file.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"`{name}={file}` est dans {folder}, que la conversion écrit",
            expected="un fichier ailleurs",
            remedy=f"changez `{name}`",
        )


def _write(
    content: ModelFile,
    dest: Path,
    to: Target,
    dtype: Dtype,
    *,
    cache: bool,
    shard_size: int,
    quant: SchemeName | None,
    force: bool,
    folder: Path | None,
) -> None:
    if to == "hf":
        from gpt_architecture.interop.hf_export import export_hf

        export_hf(
            content,
            dest,
            dtype="f16" if dtype == "f16" else "f32",
            max_shard_bytes=shard_size << 20,
            force=force,
            folder=folder,
        )
    elif to == "gguf":
        from gpt_architecture.interop.gguf import export_gguf

        export_gguf(content, dest, dtype=dtype)
    elif to == "onnx":
        from gpt_architecture.interop.onnx import export_onnx

        export_onnx(content, dest, cache=cache, quant="int8" if quant else None)
    elif to == "transformersjs":
        from gpt_architecture.interop.onnx_folder import export_onnx_folder

        export_onnx_folder(content, dest, force=force)
    elif to == "ollama":
        from gpt_architecture.interop.ollama import export_ollama

        export_ollama(content, dest, dtype=dtype, force=force)
    elif to == "nanogpt":
        from gpt_architecture.interop.nanogpt import export_nanogpt

        export_nanogpt(content, dest, force=force)
    else:
        save_model(
            dest,
            content.build(),
            content.config,
            tokenizer=content.tokenizer,
            metadata=content.metadata,
        )


def _written(dest: Path) -> list[Path]:
    """Les fichiers d'un dossier, ou le fichier."""
    return sorted(file for file in dest.rglob("*") if file.is_file()) if dest.is_dir() else [dest]


def _beside(content: ModelFile, dest: Path, to: Target) -> list[Path]:
    """Ce qui accompagne un fichier."""
    beside = dest.with_name(f"{dest.name}.data")  # les gros poids d'un export ONNX
    if to == "onnx" and beside.exists():
        return [beside]
    characters = to == "nanogpt" and content.tokenizer.get("name") == "char"
    return [dest.with_name(f"{dest.stem}.meta.json")] if characters else []


def _reads(source: object, tokenizer: Path | str | None) -> tuple[Path | str | None, ...]:
    """Ce qu'il ne faut pas écraser : ce qui est lu, ou l'a été pour charger le modèle."""
    gpt = held(source)
    if gpt is None:
        return source_of(source), tokenizer
    return tuple(
        path for path in (getattr(source, "path", None), gpt.name) if path and exists(path)
    )


def _conversion(files: Sequence[Path], *, output: str, **known: Any) -> Conversion:
    dest = Path(output)
    root = dest if dest.is_dir() else dest.parent
    return Conversion(
        **known,
        output=output,
        bytes=sum(file.stat().st_size for file in files),
        files=tuple(file.relative_to(root).as_posix() for file in files),
    )
