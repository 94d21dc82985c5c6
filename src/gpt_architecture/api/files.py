"""D'un format à un autre : préparer des textes, convertir et quantifier des modèles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from gpt_architecture.api.loading import content_of, find_tokenizer, held, source_of
from gpt_architecture.api.options import listed, named_options, one_of
from gpt_architecture.config import END_OF_TEXT, check_int
from gpt_architecture.core.grouped_codes import GROUP_SIZES, Scheme, SchemeName
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import PreparedTokens, prepare_tokens
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.reliability import Fidelity, compare_models
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.door import is_remote, locate, short_name
from gpt_architecture.formats.model_file import ModelFile, save_model
from gpt_architecture.formats.quantized_file import save_quantized
from gpt_architecture.french import decimal, french_number, french_size, percent, thousands
from gpt_architecture.storage import check_free, check_not_read, check_outputs, nothing

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run
    from gpt_architecture.kernels.decode.packed import PackedModel

Target = Literal["hf", "gguf", "onnx", "nanogpt", "pt", "peft"]
"""Transformers, llama.cpp, ONNX, nanoGPT, fichier de ce projet, adaptateurs de PEFT."""

Dtype = Literal["f32", "f16", "q8_0"]
"""Type des poids écrits."""

FOLDERS: tuple[Target, ...] = ("hf", "peft")
"""Formats qui écrivent un dossier."""

_DTYPES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("f32", "f16"),
    "gguf": ("f32", "f16", "q8_0"),
    "onnx": ("f32",),
    "nanogpt": ("f32",),
    "pt": ("f32",),
    "peft": ("f32",),
}


class Prepared(PreparedTokens):
    """Un dossier de fragments de tokens ; voir `data.shards.prepare.PreparedTokens`."""

    @property
    def _facts(self) -> list[tuple[str, str]]:
        skipped = sum(entry["count"] for entry in self.skipped.values())
        facts = [
            ("documents", thousands(sum(self.documents.values()))),
            ("tokens d'entraînement", thousands(self.tokens["train"])),
            ("tokens de validation", thousands(self.tokens["val"])),
            ("octets par token", decimal(self.bytes_per_token)),
        ]
        return [*facts, ("écartés", thousands(skipped))] if skipped else facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Prepared({self.folder} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Fragments de tokens : {self.folder}", self._facts)


@named_options
def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    field: str = "text",
    tokenizer: str | Path | Tokenizer = "gpt2",
    val_fraction: float | None = None,
    shard_tokens: int = 100_000_000,
    workers: int | None = None,
    seed: int = 0,
    max_line_bytes: int = 32 << 20,
    force: bool = False,
    progress: bool | None = None,
) -> Prepared:
    """Prépare des textes en fragments de tokens, comme `gpt-architecture prepare`.

    Interrompue, une préparation reprend quand on la redemande.

    Args:
        sources: un fichier ou un dossier (.txt, .md, .jsonl, .jsonl.gz, .parquet), un corpus
            connu, ou une suite d'entre eux.
        out: dossier à écrire.
        field: champ du texte, en JSONL et en Parquet.
        tokenizer: `gpt2`, le fichier d'un tokenizer, un modèle, ou un tokenizer déjà ouvert.
        val_fraction: part des documents gardée pour la validation ; None : selon la taille.
        shard_tokens: tokens par fragment.
        workers: processus ; None : un par cœur. Le résultat n'en dépend pas.
        seed: graine de la répartition des documents.
        max_line_bytes: une ligne ou une valeur plus longue, en octets, est écartée.
        force: remplace un dossier préparé avec d'autres réglages, ou recommence.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: aucune source, ou réglage hors bornes.
        DataError: source absente ou sans texte.
        OutputError: dossier pris, ou disque qui refuse.
        TokenizerError: tokenizer inconnu, ou sans fin de texte.

    Examples:
        >>> from gpt_architecture import prepare
        >>> found = prepare("texte.txt", "fragments", val_fraction=0.2)
        >>> found.outcome, found.tokens["train"] > found.tokens["val"] > 0
        ('new', True)
    """
    from gpt_architecture.reports.console import PrepareProgress, ProgressBar

    given, out = listed(sources), Path(out)
    if not given:
        raise ConfigurationError(
            "aucune source", expected="un texte ou plusieurs", remedy="donnez `sources`"
        )
    check_not_read(out, (given, tokenizer), "`out`")
    config = PrepareConfig(
        field=field,
        val_fraction=val_fraction,
        shard_tokens=shard_tokens,
        seed=seed,
        max_record_bytes=max_line_bytes,
    )
    with ProgressBar("Préparation", width=40, shown=progress) as bar:
        found = prepare_tokens(
            given,
            out,
            tokenizer=find_tokenizer(tokenizer),
            config=config,
            workers=workers,
            force=force,
            reporter=PrepareProgress(bar),
        )
    return Prepared(**vars(found))


@dataclass(frozen=True, kw_only=True, repr=False)
class Conversion:
    """Ce qu'une conversion a écrit.

    Attributes:
        output: le fichier ou le dossier.
        to: son format.
        dtype: type des poids.
        parameters: paramètres écrits.
        context_length: positions du modèle ; None : des adaptateurs.
        window: positions qui ont appris ; None : inconnues.
        bytes: taille, en octets.
        files: noms des fichiers.
    """

    output: str
    to: Target
    dtype: Dtype
    parameters: int
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


@named_options
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
    force: bool = False,
    progress: bool | None = None,
) -> Conversion:
    """Convertit un modèle, comme `gpt-architecture convert`.

    Args:
        source: modèle chargé, entraînement, ou chemin dont le format est reconnu au contenu ; pour
            `peft`, des adaptateurs d'ici.
        dest: dossier (`hf`, `peft`) ou fichier à écrire.
        to: `hf` (Transformers), `gguf` (llama.cpp), `onnx`, `nanogpt`, `pt` (ce projet) ou `peft`.
        dtype: type des poids écrits : `f16` pour `hf` et `gguf`, `q8_0` pour `gguf`.
        tokenizer: vocabulaire des poids qui n'en portent pas.
        n_heads: têtes d'un fichier du livre ; None : une par 64 de la largeur.
        license: licence à écrire dans la fiche.
        untie: écrit la tête de sortie à part de l'embedding.
        cache: avec `onnx`, ajoute cache, masque et positions.
        shard_size: taille d'un fichier de poids `hf`, en Mio, au plus.
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
    reads = () if held(source) is not None else (source_of(source), tokenizer)
    check_conversion(
        dest, reads, to=to, dtype=dtype, n_heads=n_heads, cache=cache, shard_size=shard_size,
        force=force,
    )  # fmt: skip
    if to == "peft":
        from gpt_architecture.interop.peft import export_peft

        adapter = read_adapter(locate(source_of(source)))
        export_peft(adapter, dest, force=force)
        return _conversion(
            sorted(dest.iterdir()),
            output=str(dest),
            to=to,
            dtype=dtype,
            parameters=sum(tensor.numel() for tensor in adapter.tensors.values()),
        )
    with ProgressBar("Conversion", shown=progress) as bar:
        bar.start(2, 0)
        known = None if tokenizer is None else find_tokenizer(tokenizer)
        content = content_of(source, tokenizer=known, n_heads=n_heads)
        if license is not None:
            content = replace(content, metadata={**content.metadata, "license": license})
        content = content.untied() if untie else content
        bar.update(1, "lecture faite")
        _write(content, dest, to, dtype, cache=cache, shard_size=shard_size, force=force)
        bar.update(2, "écriture faite")
    learned = content.metadata.get("window")
    return _conversion(
        _written(content, dest, to),
        output=str(dest),
        to=to,
        dtype=dtype,
        parameters=content.config.num_parameters(),
        context_length=content.config.context_length,
        window=learned if isinstance(learned, int) else None,
    )


def check_conversion(
    dest: Path,
    reads: Sequence[object],
    *,
    to: Target,
    dtype: Dtype,
    n_heads: int | None,
    cache: bool,
    shard_size: int,
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
        force: voir `convert`.
        others: d'autres sorties de l'appelant, sous le nom de leur réglage.

    Raises:
        ConfigurationError: réglage hors bornes, ou qui ne va pas avec un autre.
        OutputError: destination prise, lue, ou où l'on ne peut pas écrire.
    """
    one_of("to", to, get_args(Target))
    if dtype not in _DTYPES[to]:
        raise ConfigurationError(
            f"`dtype` vaut {dtype} avec `to={to}`",
            expected=" ou ".join(_DTYPES[to]),
            remedy="corrigez `dtype`",
        )
    check_int("`shard_size`", shard_size, minimum=1, maximum=1 << 20)
    if cache and to != "onnx":
        raise ConfigurationError(
            f"`cache` avec `to={to}`", expected="`to=onnx`", remedy="retirez `cache`"
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
    force: bool,
) -> None:
    if to == "hf":
        from gpt_architecture.interop.hf_export import export_hf

        export_hf(
            content,
            dest,
            dtype="f16" if dtype == "f16" else "f32",
            max_shard_bytes=shard_size << 20,
            force=force,
        )
    elif to == "gguf":
        from gpt_architecture.interop.gguf import export_gguf

        export_gguf(content, dest, dtype=dtype)
    elif to == "onnx":
        from gpt_architecture.interop.onnx import export_onnx

        export_onnx(content, dest, cache=cache)
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


def _written(content: ModelFile, dest: Path, to: Target) -> list[Path]:
    """Les fichiers de la conversion, ceux qui accompagnent le sien compris."""
    files = sorted(dest.iterdir()) if dest.is_dir() else [dest]
    beside = dest.with_name(f"{dest.name}.data")  # les gros poids d'un export ONNX
    files += [beside] if to == "onnx" and beside.exists() else []
    characters = to == "nanogpt" and content.tokenizer.get("name") == "char"
    return files + ([dest.with_name(f"{dest.stem}.meta.json")] if characters else [])


def _conversion(files: Sequence[Path], **known: Any) -> Conversion:
    return Conversion(
        **known,
        bytes=sum(file.stat().st_size for file in files),
        files=tuple(file.name for file in files),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Quantization:
    """Un modèle quantifié.

    Attributes:
        output: le fichier.
        scheme: `int8` ou `int4`.
        group_size: poids par échelle.
        bytes_before: taille des poids en fp32, en octets.
        bytes_after: leur taille, quantifiés.
        fidelity: ce qu'il perd de l'original ; None : non mesuré.
    """

    output: str
    scheme: SchemeName
    group_size: int
    bytes_before: int
    bytes_after: int
    fidelity: Fidelity | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        record: dict[str, Any] = {
            "output": self.output,
            "scheme": self.scheme,
            "group_size": self.group_size,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }
        if self.fidelity is not None:
            record |= {
                "tokens": self.fidelity.tokens,
                "perplexity_before": self.fidelity.reference_perplexity,
                "perplexity_after": self.fidelity.candidate_perplexity,
                "perplexity_gap": self.fidelity.relative_gap,
                "greedy_agreement": self.fidelity.agreement,
            }
        return record

    @property
    def _facts(self) -> list[tuple[str, str]]:
        sizes = f"de {french_size(self.bytes_before)} à {french_size(self.bytes_after)}"
        facts = [("schéma", f"{self.scheme}, groupes de {self.group_size}"), ("poids", sizes)]
        if self.fidelity is not None:
            before, after = self.fidelity.reference_perplexity, self.fidelity.candidate_perplexity
            facts.append(("perplexité", f"de {decimal(before, 3)} à {decimal(after, 3)}"))
            facts.append(("même token glouton", percent(self.fidelity.agreement)))
        return facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Quantization({self.output} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Modèle quantifié : {self.output}", self._facts)


@named_options
def quantize(
    model: GPT | Run | Path | str | None = None,
    *,
    scheme: SchemeName = "int8",
    group_size: int = 32,
    output: Path | str | None = None,
    text: Path | str | None = None,
    tokens: int = 8192,
    force: bool = False,
    progress: bool | None = None,
) -> Quantization:
    """Écrit un modèle quantifié sur 8 ou 4 bits, comme `gpt-architecture quantize`.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        scheme: bits par poids : `int8`, ou `int4` (6 pour la tête de sortie et l'embedding).
        group_size: poids par échelle : 32, 64 ou 128.
        output: fichier à écrire ; None : le nom du modèle suivi du schéma, à côté de lui.
        text: texte que le modèle n'a pas appris : mesure ce qui est perdu.
        tokens: tokens de ce texte à mesurer, au plus.
        force: remplace un fichier qui existe.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: réglage hors bornes, ou forme que les noyaux ne calculent pas.
        MissingDependencyError: numba n'est pas installé.
        ModelFileError: voir `load`.
        OutputError: fichier pris, ou disque qui refuse.

    Examples:
        >>> from gpt_architecture import quantize
        >>> found = quantize("modele", scheme="int8", output="modele-int8.safetensors")
        >>> found.bytes_after < found.bytes_before
        True
    """
    from gpt_architecture.reports.console import ProgressBar

    one_of("scheme", scheme, get_args(SchemeName))
    one_of("group_size", str(group_size), list(map(str, GROUP_SIZES)))
    output, path = quantized_output(model, scheme, output)
    check_int("`tokens`", tokens, minimum=2)
    check_outputs({"`output`": (output, nothing)}, reads=(path, text), force=force)
    from gpt_architecture.kernels.decode.packed import pack

    content = content_of(model)
    with ProgressBar("Quantification", shown=progress):
        packed = pack(content.build(), Scheme(name=scheme, group_size=group_size))
    save_quantized(output, packed, tokenizer=content.tokenizer, metadata=content.metadata)
    measure = partial(_fidelity, content, packed, tokens=tokens, progress=progress)
    return Quantization(
        output=str(output),
        scheme=scheme,
        group_size=group_size,
        bytes_before=4 * content.config.num_parameters(),
        bytes_after=packed.nbytes,
        fidelity=None if text is None else measure(text),
    )


def quantized_output(
    model: object, scheme: str, output: Path | str | None
) -> tuple[Path, Path | None]:
    """Le fichier à écrire, et celui qui est lu ; None : un modèle déjà chargé.

    Args:
        model: voir `quantize`, comme les suivants.
        scheme: voir `quantize`.
        output: voir `quantize`.

    Raises:
        ConfigurationError: rien ne dit où écrire, ou ce n'est pas un .safetensors.
        ModelFileError: modèle absent.
    """
    chosen, path = _place_of(model, scheme, output)
    if chosen.suffix != ".safetensors":
        raise ConfigurationError.wrong(
            "`output`", str(chosen), expected="un nom en .safetensors", remedy="changez l'extension"
        )
    return chosen, path


def _place_of(model: object, scheme: str, output: Path | str | None) -> tuple[Path, Path | None]:
    if held(model) is not None and not hasattr(model, "path"):
        if output is None:
            raise ConfigurationError(
                "`output` n'est pas donné",
                expected="le fichier à écrire : un modèle déjà chargé n'a pas de place à lui",
                remedy="donnez `output`",
            )
        return Path(output), None
    source = source_of(model)
    path = locate(source)
    if output is not None:
        return Path(output), path
    inside = source if source.is_dir() and not is_remote(source) else Path()
    folder = source.parent if path == source else inside
    return folder / f"{short_name(source, path)}-{scheme}.safetensors", path


def _fidelity(
    content: ModelFile,
    packed: PackedModel,
    text: Path | str,
    *,
    tokens: int,
    progress: bool | None,
) -> Fidelity:
    """Ce que le modèle quantifié perd, sur un texte."""
    from gpt_architecture.reports.console import ProgressBar

    corpus, tokenizer = load_corpus([Path(text)]), tokenizer_from_dict(content.tokenizer)
    ids = tokenizer.encode(corpus.text, allowed_special={END_OF_TEXT})
    learned, limit = content.metadata.get("window"), content.config.context_length
    with ProgressBar("Mesure", shown=progress) as bar:
        return compare_models(
            content.build(),
            packed,
            torch.tensor(ids[: tokens + 1], dtype=torch.int64),
            window=min(learned, limit) if isinstance(learned, int) and learned > 0 else limit,
            on_progress=lambda done, total: bar.start(total, done),
        )
