"""Le fichier d'un modèle quantifié : safetensors, avec tout ce qu'il faut pour l'employer.

L'en-tête porte, en JSON, le format et sa version, le schéma, la configuration, le tokenizer et
les métadonnées. Les codes d'une matrice `X.weight` sont sous `X.codes`, ses échelles sous
`X.scales` ; positions, normes et biais gardent leur nom et restent en fp32. Une tête de sortie liée
à l'embedding n'est pas écrite. À la lecture, rien n'est copié : les poids restent projetés en
mémoire depuis le disque. Qui les emploie n'est pas connu d'ici (voir `kernels.decode.packed`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    bits_of,
    is_matrix,
    padded_width,
)
from gpt_architecture.core.model import blank_model
from gpt_architecture.errors import ConfigurationError, ModelFileError, reason
from gpt_architecture.formats.model_file import check_vocabulary
from gpt_architecture.formats.tensor_files import SafetensorsFile, save_safetensors
from gpt_architecture.storage import parse_json, write_atomically

FORMAT = "gpt-architecture/quantized"
VERSION = 2

_BEFORE_HEAD_BITS = 1
"""La version où la tête de sortie et l'embedding avaient toujours 8 bits."""


class QuantizedModel(Protocol):
    """Ce qu'un modèle quantifié donne à écrire."""

    @property
    def cfg(self) -> GPTConfig:
        """Sa forme."""
        ...

    @property
    def scheme(self) -> Scheme | None:
        """Comment ses matrices ont été quantifiées ; None : elles sont en fp32."""
        ...

    @property
    def vectors(self) -> Mapping[str, Tensor]:
        """Positions, normes et biais, par nom du `state_dict`."""
        ...

    def codes(self) -> Mapping[str, GroupedCodes]:
        """Ses matrices, par nom de module, une tête de sortie liée exceptée."""
        ...


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """Contenu d'un fichier quantifié.

    Attributes:
        config: forme du modèle.
        scheme: comment ses matrices ont été quantifiées.
        codes: elles, par nom de module ; une tête de sortie liée n'y est pas.
        vectors: positions, normes et biais, par nom du `state_dict`.
        tokenizer: description sérialisable du tokenizer.
        metadata: provenance et résultats.
    """

    config: GPTConfig
    scheme: Scheme
    codes: Mapping[str, GroupedCodes]
    vectors: Mapping[str, Tensor]
    tokenizer: Mapping[str, Any]
    metadata: Mapping[str, Any]


def save_quantized(
    path: Path | str,
    model: QuantizedModel,
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
    scheme = model.scheme
    if scheme is None:
        raise ConfigurationError(
            "modèle en fp32",
            expected="un modèle compacté en int8 ou int4",
            remedy="donnez à pack un schéma de quantification",
        )
    check_vocabulary(model.cfg, tokenizer)
    tensors = dict(model.vectors)
    for name, grouped in model.codes().items():
        tensors[f"{name}.codes"], tensors[f"{name}.scales"] = grouped.codes, grouped.scales
    header = {
        "format": FORMAT,
        "version": VERSION,
        "scheme": asdict(scheme),
        "config": model.cfg.to_dict(),
        "tokenizer": dict(tokenizer),
        "metadata": dict(metadata or {}),
    }
    text = {key: json.dumps(value, ensure_ascii=False) for key, value in header.items()}
    write_atomically(Path(path), lambda temporary: save_safetensors(temporary, tensors, text))


def load_quantized(
    path: Path | str, *, verify: bool | None = None, opened: SafetensorsFile | None = None
) -> QuantizedFile:
    """Lit un modèle quantifié, sans rien copier.

    Args:
        path: le fichier.
        verify: voir `SafetensorsFile.tensors`.
        opened: le fichier, s'il est déjà ouvert.

    Raises:
        ModelFileError: fichier absent, illisible, abîmé, d'un autre format, ou incohérent.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError.missing(
            path,
            expected="un fichier écrit par « gpt-architecture quantize »",
            remedy="donnez un autre chemin",
        )
    file = opened or SafetensorsFile(path)
    tensors, header = file.tensors(verify=verify), read_header(file)
    codes, vectors = _checked(file.path, header.config, header.scheme, tensors)
    return replace(header, codes=codes, vectors=vectors)


def read_header(file: SafetensorsFile) -> QuantizedFile:
    """Ce qu'un fichier quantifié dit de lui, vérifié ; ses poids n'y sont pas.

    Raises:
        ModelFileError: en-tête abîmé, ou d'un autre format.
    """
    path, header, count = file.path, file.metadata, len(file.infos)
    if header.get("format") != json.dumps(FORMAT):
        _refuse(path, "n'est pas un modèle quantifié de ce projet")
    try:
        values = {key: parse_json(value) for key, value in header.items()}
    except ValueError as error:
        _refuse(path, f": en-tête illisible ({reason(error)})")
    version = values.get("version")
    if type(version) is not int or version not in (_BEFORE_HEAD_BITS, VERSION):
        expected = f"un modèle {FORMAT} en version {_BEFORE_HEAD_BITS} ou {VERSION}"
        raise ModelFileError.other_version(path, version, expected=expected)
    for name in ("scheme", "config", "tokenizer", "metadata"):
        if not isinstance(values.get(name), dict):
            _refuse(path, f": la partie {name} manque ou est mal formée")
    known: dict[str, Any] = {"head_bits": 8} if version == _BEFORE_HEAD_BITS else {}
    try:
        config, scheme = GPTConfig.from_dict(values["config"]), Scheme(**known, **values["scheme"])
    except ConfigurationError as error:
        _refuse(path, f": {error.found}")
    except TypeError:
        _refuse(path, ": le schéma est mal formé")
    if config.n_layers > count:  # ne construit pas un million de blocs
        _refuse(path, f": {config.n_layers} blocs annoncés pour {count} tenseurs")
    return QuantizedFile(
        config=config,
        scheme=scheme,
        codes={},
        vectors={},
        tokenizer=values["tokenizer"],
        metadata=values["metadata"],
    )


def _checked(
    path: Path, config: GPTConfig, scheme: Scheme, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, GroupedCodes], dict[str, Tensor]]:
    """Les matrices et les vecteurs, chaque tenseur vérifié contre la configuration."""
    shapes = {name: tensor.shape for name, tensor in blank_model(config).state_dict().items()}
    if config.tie_weights:
        del shapes["out_head.weight"]
    matrices: dict[str, GroupedCodes] = {}
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
        bits = bits_of(module, scheme)
        kind, width = torch.int8 if bits == 8 else torch.uint8, padded_width(shape[1])
        codes = take(f"{module}.codes", kind, (shape[0], width * bits // 8))
        scales = take(f"{module}.scales", torch.bfloat16, (shape[0], width // scheme.group_size))
        if not bool(scales.isfinite().all()):
            _refuse(path, f": une échelle de {module} est infinie ou NaN")
        matrices[module] = GroupedCodes(bits=bits, width=shape[1], codes=codes, scales=scales)
    if unknown := sorted(set(tensors) - read):
        _refuse(path, f": tenseur inattendu {unknown[0]}")
    return matrices, vectors


def _refuse(path: Path, found: str) -> NoReturn:
    raise ModelFileError(
        f"{path} {found}",
        expected="un fichier écrit par « gpt-architecture quantize »",
        remedy="recopiez-le ou relancez cette commande",
    )
