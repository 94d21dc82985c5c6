"""Le fichier d'un modèle quantifié : safetensors, avec tout ce qu'il faut pour l'employer.

L'en-tête porte, en JSON, le format et sa version, le schéma, la configuration, le tokenizer et
les métadonnées. Les codes d'une matrice `X.weight` sont sous `X.codes`, ses échelles sous
`X.scales` ; positions, normes et biais gardent leur nom et restent en fp32. Une tête liée à
l'embedding n'est pas écrite. À la lecture, rien n'est copié : les poids restent projetés en
mémoire depuis le disque.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    is_matrix,
    padded_width,
    scheme_of,
)
from gpt_architecture.core.model import blank_model
from gpt_architecture.errors import ConfigurationError, ModelFileError, reason, shown
from gpt_architecture.formats.model_file import check_vocabulary
from gpt_architecture.formats.tensor_files import read_safetensors, sealed
from gpt_architecture.kernels.decode.packed import PackedModel
from gpt_architecture.kernels.decode.weights import GroupedMatrix, PackedMatrix
from gpt_architecture.storage import parse_json, write_atomically

FORMAT = "gpt-architecture/quantized"
VERSION = 1

_CODE_TYPES = {8: torch.int8, 4: torch.uint8}


class QuantizedFile(NamedTuple):
    """Contenu d'un fichier quantifié.

    Attributes:
        model: prêt à décoder.
        tokenizer: description sérialisable du tokenizer.
        metadata: provenance et résultats.
    """

    model: PackedModel
    tokenizer: dict[str, Any]
    metadata: dict[str, Any]


def save_quantized(
    path: Path | str,
    model: PackedModel,
    *,
    tokenizer: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Écrit un modèle quantifié, entier ou pas du tout.

    Raises:
        ConfigurationError: le modèle est en fp32.
        ModelFileError: le tokenizer ne tient pas dans le vocabulaire du modèle.
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
    """
    if model.scheme is None:
        raise ConfigurationError(
            "modèle en fp32",
            expected="un modèle compacté en int8 ou int4",
            remedy="donnez à pack un schéma de quantification",
        )
    check_vocabulary(model.cfg, tokenizer)
    tensors = dict(model.vectors)
    for name, matrix in _distinct(model.matrices).items():
        tensors[f"{name}.codes"], tensors[f"{name}.scales"] = (
            matrix.grouped.codes,
            matrix.grouped.scales,
        )
    header = {
        "format": FORMAT,
        "version": VERSION,
        "scheme": {"name": model.scheme.name, "group_size": model.scheme.group_size},
        "config": model.cfg.to_dict(),
        "tokenizer": dict(tokenizer),
        "metadata": dict(metadata or {}),
    }
    text = {key: json.dumps(value, ensure_ascii=False) for key, value in header.items()}
    write_atomically(Path(path), lambda temporary: _write(tensors, temporary, text))


def load_quantized(path: Path | str, *, verify: bool | None = None) -> QuantizedFile:
    """Lit un modèle quantifié, sans rien copier.

    Args:
        path: le fichier.
        verify: voir `read_safetensors`.

    Raises:
        ModelFileError: fichier absent, illisible, abîmé, d'un autre format, ou incohérent.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(
            f"modèle introuvable : {path}",
            expected="un fichier écrit par « gpt-architecture quantize »",
            remedy="donnez un autre chemin",
        )
    header, tensors = read_safetensors(path, verify=verify)
    config, scheme, tokenizer, metadata = _parse(path, header, len(tensors))
    return QuantizedFile(_build(path, config, scheme, tensors), tokenizer, metadata)


def _parse(
    path: Path, header: Mapping[str, str], count: int
) -> tuple[GPTConfig, Scheme, dict[str, Any], dict[str, Any]]:
    """L'en-tête, vérifié."""
    if header.get("format") != json.dumps(FORMAT):
        _refuse(path, "n'est pas un modèle quantifié de ce projet")
    try:
        values = {key: parse_json(value) for key, value in header.items()}
    except ValueError as error:
        _refuse(path, f": en-tête illisible ({reason(error)})")
    if type(values.get("version")) is not int or values["version"] != VERSION:
        raise ModelFileError(
            f"{path} est en version {shown(values.get('version'))}",
            expected=f"un modèle {FORMAT} en version {VERSION}",
            remedy="mettez gpt-architecture à jour",
        )
    for name in ("scheme", "config", "tokenizer", "metadata"):
        if not isinstance(values.get(name), dict):
            _refuse(path, f": la partie {name} manque ou est mal formée")
    try:
        config, scheme = GPTConfig.from_dict(values["config"]), Scheme(**values["scheme"])
    except ConfigurationError as error:
        _refuse(path, f": {error.found}")
    except TypeError:
        _refuse(path, ": le schéma est mal formé")
    if config.n_layers > count:  # ne construit pas un million de blocs
        _refuse(path, f": {config.n_layers} blocs annoncés pour {count} tenseurs")
    return config, scheme, values["tokenizer"], values["metadata"]


def _build(
    path: Path, config: GPTConfig, scheme: Scheme, tensors: Mapping[str, Tensor]
) -> PackedModel:
    """Le modèle, une fois chaque tenseur vérifié contre la configuration."""
    shapes = {name: tensor.shape for name, tensor in blank_model(config).state_dict().items()}
    if config.tie_weights:
        del shapes["out_head.weight"]
    matrices: dict[str, PackedMatrix] = {}
    vectors: dict[str, Tensor] = {}
    read: set[str] = set()

    def take(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        read.add(name)
        found = tensors.get(name)
        if found is None or found.dtype is not dtype or found.shape != shape:
            seen = "absent" if found is None else f"{found.dtype} {tuple(found.shape)}"
            _refuse(path, f": {name} est {seen} au lieu de {dtype} {shape}")
        return found

    for name, shape in shapes.items():
        if not is_matrix(name):
            vectors[name] = take(name, torch.float32, tuple(shape))
            continue
        module = name.removesuffix(".weight")
        own = scheme_of(module, scheme)
        width = padded_width(shape[1])
        codes = take(f"{module}.codes", _CODE_TYPES[own.bits], (shape[0], width * own.bits // 8))
        scales = take(f"{module}.scales", torch.bfloat16, (shape[0], width // own.group_size))
        if not bool(scales.isfinite().all()):
            _refuse(path, f": une échelle de {module} est infinie ou NaN")
        matrices[module] = GroupedMatrix(
            GroupedCodes(bits=own.bits, width=shape[1], codes=codes, scales=scales)
        )
    if unknown := sorted(set(tensors) - read):
        _refuse(path, f": tenseur inattendu {unknown[0]}")
    if config.tie_weights:
        matrices["out_head"] = matrices["tok_emb"]
    return PackedModel(config, matrices, vectors, scheme=scheme)


def _distinct(matrices: Mapping[str, PackedMatrix]) -> dict[str, GroupedMatrix]:
    """Les matrices quantifiées, une tête liée exceptée."""
    seen: set[int] = set()
    kept = {}
    for name, matrix in matrices.items():
        if isinstance(matrix, GroupedMatrix) and id(matrix) not in seen:
            seen.add(id(matrix))
            kept[name] = matrix
    return kept


def _write(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata=sealed(header, tensors))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _refuse(path: Path, found: str) -> NoReturn:
    raise ModelFileError(
        f"{path} {found}",
        expected="un fichier écrit par « gpt-architecture quantize »",
        remedy="recopiez-le ou relancez cette commande",
    )
