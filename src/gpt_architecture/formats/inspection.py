"""Dire ce qu'est un modèle sans lire ses poids : en-têtes, formes, provenance, empreintes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt_architecture.config import GPTConfig, LoRAConfig
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import (
    CheckpointError,
    ConfigurationError,
    GPTArchitectureError,
    ModelFileError,
    TokenizerError,
    malformed,
    reason,
)
from gpt_architecture.formats.checkpoint_files import read_checkpoint
from gpt_architecture.formats.foreign_files import read_json
from gpt_architecture.formats.headers import (
    Header,
    adapter_header,
    gguf_header,
    onnx_header,
)
from gpt_architecture.formats.integrity import check_integrity
from gpt_architecture.formats.model_file import ModelFile, read_model
from gpt_architecture.formats.open import Kind, detect
from gpt_architecture.formats.tensor_files import (
    TensorInfo,
    named_tensors,
    read_torch,
    safetensors_header,
)
from gpt_architecture.interop.book import book_config, book_state, split_fused
from gpt_architecture.interop.hf import CONFIG, config_from_hf, read_provenance, weight_files
from gpt_architecture.interop.nanogpt import nanogpt_config
from gpt_architecture.interop.vocabulary import assumed_tokenizer, folder_tokenizer
from gpt_architecture.storage import open_regular, parse_json

OnProgress = Callable[[int, int], None]
"""Reçoit les octets lus et leur total."""

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Un fichier : son nom, sa taille en octets, son empreinte si elle a été calculée."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Ce qu'on sait d'un modèle sans avoir lu ses poids.

    Attributes:
        kind: son genre.
        path: où il est.
        config: sa forme ; None si rien ne la dit.
        parameters: paramètres distincts, une tête liée comptée une fois.
        tensors: chaque tenseur écrit.
        tokenizer: nom, taille et empreinte du vocabulaire ; ou `problem`, ce qui manque.
        provenance: ce que l'entraînement ou l'export a noté.
        files: les fichiers lus.
        intact: vrai si les sommes de contrôle ont été relues ; None : on ne l'a pas demandé, ou
            il n'y en a pas.
    """

    kind: Kind
    path: Path
    config: GPTConfig | None
    parameters: int
    tensors: tuple[TensorInfo, ...]
    tokenizer: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: tuple[FileInfo, ...]
    intact: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Facts:
    config: GPTConfig | None = None
    tensors: tuple[TensorInfo, ...] = ()
    tokenizer: Callable[[], Tokenizer | Mapping[str, Any]] | None = None
    provenance: Mapping[str, Any]


def inspect_model(
    path: Path | str,
    *,
    hashes: bool = True,
    check: bool = False,
    on_progress: OnProgress | None = None,
) -> Inspection:
    """Examine un modèle, d'ici ou d'ailleurs.

    Args:
        path: fichier ou dossier.
        hashes: calcule l'empreinte de chaque fichier.
        check: relit les sommes de contrôle que le modèle porte.
        on_progress: suit le calcul des empreintes, seul moment où les fichiers sont parcourus.

    Raises:
        ModelFileError: absent, inconnu, abîmé au point de ne pas dire ce qu'il est, ou, avec
            `check`, changé depuis son écriture.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(
            f"modèle introuvable : {path}",
            expected="un fichier ou un dossier de modèle",
            remedy="corrigez son chemin",
        )
    kind = detect(path)
    facts = _READERS[kind](path)
    counted = sum(_count(info.shape) for info in facts.tensors)
    return Inspection(
        kind=kind,
        path=path,
        config=facts.config,
        parameters=counted if facts.config is None else facts.config.num_parameters(),
        tensors=facts.tensors,
        tokenizer=_describe(facts.tokenizer),
        provenance=facts.provenance,
        files=tuple(_files(path, hashes=hashes, on_progress=on_progress)),
        intact=check_integrity(kind, path) if check else None,
    )


def _inspect_model_file(path: Path) -> _Facts:
    return _model_facts(
        read_model(path, verify=False)
    )  # projeté en mémoire : les poids restent sur le disque


def _model_facts(content: ModelFile) -> _Facts:
    return _Facts(
        config=content.config,
        tensors=_infos(content.state_dict),
        tokenizer=lambda: tokenizer_from_dict(content.tokenizer),
        provenance=content.metadata,
    )


def _inspect_checkpoint(path: Path) -> _Facts:
    try:
        checkpoint = read_checkpoint(path, verify=False)
        state = checkpoint.state
        whole = "model" in checkpoint.names  # sinon des adaptateurs, comptés seuls
        config = GPTConfig.from_dict(state["config"]) if whole else None
        group = "model" if whole else "adapter"
        tensors = tuple(safetensors_header(path / f"{group}.safetensors")[1])
        described = {} if whole else _adapter_facts(state["identity"])
    except (CheckpointError, ConfigurationError, KeyError, TypeError) as error:
        found = error.found if isinstance(error, GPTArchitectureError) else malformed(error)
        raise ModelFileError(
            f"{path} n'est pas un point de reprise complet : {found}",
            expected="un dossier checkpoints/step-… écrit par l'entraînement",
            remedy="donnez-en un autre",
        ) from None
    return _Facts(
        config=config,
        tensors=tensors,
        tokenizer=lambda: tokenizer_from_dict(state.get("tokenizer")),
        provenance={"steps": checkpoint.step, **described, **_mapping(state.get("identity"))},
    )


def _adapter_facts(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Ce qu'un fichier d'adaptateurs dit de lui, lu d'un de leurs points de reprise."""
    lora = LoRAConfig.from_dict(identity["lora"])
    return {
        "base_sha256": str(identity["start"]["sha256"]),
        "rank": lora.rank,
        "alpha": lora.alpha,
        "targets": ", ".join(lora.targets),
    }


def _inspect_hf(path: Path) -> _Facts:
    provenance = read_provenance(path)
    config = config_from_hf(
        read_json(path / CONFIG), path / CONFIG, qkv_bias=provenance.get("qkv_bias", True)
    )
    tensors: list[TensorInfo] = []
    for file in weight_files(path):
        if file.suffix == ".safetensors":
            tensors += safetensors_header(file)[1]
        else:
            tensors += _infos(named_tensors(file, read_torch(file)))
    return _Facts(
        config=config,
        tensors=tuple(tensors),
        tokenizer=lambda: folder_tokenizer(path, config.vocab_size),
        provenance=provenance.get("metadata", {}),
    )


def _inspect_nanogpt(path: Path) -> _Facts:
    content = read_torch(path)
    config = nanogpt_config(path, content["model_args"])
    state = named_tensors(path, content["model"])
    steps = content.get("iter_num")
    return _Facts(
        config=config,
        tensors=_infos(state),
        tokenizer=lambda: assumed_tokenizer(config.vocab_size, path),
        provenance={
            **({"steps": steps} if type(steps) is int else {}),
            **_plain(_mapping(content.get("config"))),
        },
    )


def _inspect_book(path: Path) -> _Facts:
    content = read_torch(path)  # projeté en mémoire ; dire si la tête est liée les compare
    state = named_tensors(path, book_state(content) or {})
    try:
        config = book_config(path, split_fused(state))
    except ModelFileError:  # nombre de têtes que rien ne dit
        config = None
    vocab_size = state["tok_emb.weight"].size(0)
    return _Facts(
        config=config,
        tensors=_infos(state),
        tokenizer=lambda: assumed_tokenizer(vocab_size, path),
        provenance={},
    )


def _inspect_safetensors(path: Path) -> _Facts:
    if (path.parent / CONFIG).exists():
        return _inspect_hf(path.parent)
    header, tensors = safetensors_header(path)
    return _Facts(tensors=tuple(tensors), provenance=header)


def _inspect_quantized(path: Path) -> _Facts:
    header, tensors = safetensors_header(path)
    try:
        values = {key: parse_json(value) for key, value in header.items()}
        config = GPTConfig.from_dict(values["config"])
        metadata = {**values["scheme"], **values["metadata"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{path} : en-tête de modèle quantifié illisible ({malformed(error)})",
            expected="un fichier écrit par « gpt-architecture quantize »",
            remedy="relancez cette commande",
        ) from None
    return _Facts(
        config=config,
        tensors=tuple(tensors),
        tokenizer=lambda: tokenizer_from_dict(values.get("tokenizer")),
        provenance=metadata,
    )


def _inspect_header(read: Callable[[Path], Header], path: Path) -> _Facts:
    header = read(path)
    return _Facts(
        config=header.config,
        tensors=header.tensors,
        tokenizer=lambda: header.tokenizer,
        provenance=header.provenance,
    )


_READERS: dict[Kind, Callable[[Path], _Facts]] = {
    "model": _inspect_model_file,
    "checkpoint": _inspect_checkpoint,
    "hf": _inspect_hf,
    "nanogpt": _inspect_nanogpt,
    "book": _inspect_book,
    "quantized": _inspect_quantized,
    "safetensors": _inspect_safetensors,
    "adapter": partial(_inspect_header, adapter_header),
    "gguf": partial(_inspect_header, gguf_header),
    "onnx": partial(_inspect_header, onnx_header),
}


def _describe(build: Callable[[], Tokenizer | Mapping[str, Any]] | None) -> dict[str, Any]:
    """Nom, taille et empreinte d'un vocabulaire ; ou pourquoi on ne les sait pas."""
    if build is None:
        return {"problem": "le fichier n'en dit rien"}
    try:
        tokenizer = build()
    except (TokenizerError, ModelFileError) as error:
        return {"problem": error.found}
    if isinstance(tokenizer, Mapping):
        return dict(tokenizer)
    return {
        "name": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer_sha256(tokenizer.to_dict()),
    }


def _infos(state: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, shape=tuple(tensor.shape), dtype=_dtype(tensor))
        for name, tensor in state.items()
    )


def _dtype(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return _DTYPES.get(name, name.upper())


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _files(path: Path, *, hashes: bool, on_progress: OnProgress | None) -> Iterator[FileInfo]:
    """Les fichiers du modèle et leurs empreintes ; un lien vers un fichier est suivi."""
    paths = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    sizes = {file: file.stat().st_size for file in paths}
    total, done = sum(sizes.values()), 0
    for file, size in sizes.items():
        if not hashes:
            yield FileInfo(name=file.name, size=size, sha256=None)
            continue
        digest = hashlib.sha256()
        try:
            with open_regular(file) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done, total)
        except OSError as error:
            raise ModelFileError(
                f"{file} est illisible : {reason(error)}",
                expected="un fichier de modèle",
                remedy="corrigez ses droits",
            ) from None
        yield FileInfo(name=file.name, size=size, sha256=digest.hexdigest())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Les réglages qui s'écrivent en JSON."""
    return {str(k): v for k, v in values.items() if type(v) in (str, int, float, bool)}
