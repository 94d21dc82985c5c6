"""Reconnaître un modèle à son contenu, quel que soit son nom, et le lire."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ModelFileError, reason
from gpt_architecture.formats.checkpoint_files import MANIFEST
from gpt_architecture.formats.model_file import FORMAT, ModelFile, read_model
from gpt_architecture.formats.tensor_files import read_torch, safetensors_header
from gpt_architecture.interop.book import book_state, read_book
from gpt_architecture.interop.hf import CONFIG, read_hf
from gpt_architecture.interop.nanogpt import is_nanogpt, read_nanogpt
from gpt_architecture.storage import open_regular

Kind = Literal[
    "model",
    "checkpoint",
    "hf",
    "nanogpt",
    "book",
    "quantized",
    "adapter",
    "gguf",
    "onnx",
    "safetensors",
]
"""Ce qu'est un chemin : un modèle d'ici, un point de reprise, un dossier de Transformers, …"""

NAMES: dict[Kind, str] = {
    "model": "modèle gpt-architecture",
    "checkpoint": "point de reprise gpt-architecture",
    "hf": "dossier de Transformers (GPT-2)",
    "nanogpt": "point de reprise de nanoGPT",
    "book": "poids du livre de Raschka",
    "quantized": "modèle quantifié gpt-architecture",
    "adapter": "adaptateurs LoRA gpt-architecture",
    "gguf": "fichier GGUF (llama.cpp)",
    "onnx": "fichier ONNX",
    "safetensors": "fichier safetensors",
}
"""Nom de chaque genre, pour une personne."""

IMPORTED: tuple[Kind, ...] = ("model", "checkpoint", "hf", "nanogpt", "book")
"""Les genres dont `read_source` rend les poids ; les autres ne sont que reconnus."""

_TORCH_MAGICS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
_SAFETENSORS_HEADER = 100 << 20
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
QUANTIZED_FORMAT = "gpt-architecture/quantized"
"""Le format qu'annoncent, en JSON, les métadonnées d'un modèle quantifié."""
ADAPTER_FORMAT = "gpt-architecture/adapter"
"""Le format qu'annoncent celles d'un fichier d'adaptateurs."""
_OWN_FORMATS: dict[str, Kind] = {
    json.dumps(QUANTIZED_FORMAT): "quantized",
    ADAPTER_FORMAT: "adapter",
}


def detect(path: Path | str) -> Kind:
    """Ce qu'est ce fichier ou ce dossier, d'après son contenu.

    Raises:
        ModelFileError: rien de connu, ou illisible.
    """
    return _identify(Path(path), tuple(NAMES))[0]


def is_quantized(path: Path | str) -> bool:
    """Vrai si c'est un modèle quantifié d'ici ; un autre fichier n'est lu que de son en-tête."""
    path = Path(path)
    return path.is_file() and not _is_torch(path) and detect(path) == "quantized"


def read_source(
    path: Path | str, *, tokenizer: Tokenizer | None = None, n_heads: int | None = None
) -> ModelFile:
    """Lit un modèle d'ici ou d'ailleurs.

    Args:
        path: fichier ou dossier ; des poids à côté de leur `config.json` valent leur dossier.
        tokenizer: vocabulaire des poids qui n'en portent pas ; il remplace celui d'un dossier.
        n_heads: nombre de têtes d'un fichier du livre, que rien ne dit.

    Raises:
        ModelFileError: chemin absent, illisible, dangereux ou d'un genre qui ne s'importe pas.
        TokenizerError: vocabulaire inconnu.
    """
    path = Path(path)
    if not path.exists():
        return read_model(path)  # dit ce qui manque et comment l'obtenir
    kind, content = _identify(path, IMPORTED)
    if kind == "safetensors" and (path.parent / CONFIG).exists():
        kind, path = "hf", path.parent
    if kind == "hf":
        return read_hf(path, tokenizer=tokenizer)
    if kind == "nanogpt":
        return read_nanogpt(path, content, tokenizer=tokenizer)
    if kind == "book":
        state = book_state(content) or {}
        return read_book(path, state, tokenizer=tokenizer, n_heads=n_heads)
    if kind in ("model", "checkpoint"):
        return read_model(path)
    raise ModelFileError(
        f"{path} : {NAMES[kind]}, dont les poids ne s'importent pas",
        expected=_names(IMPORTED),
        remedy="fondez-les d'abord dans leur modèle de départ (gpt-architecture merge)"
        if kind == "adapter"
        else "donnez le modèle dont ce fichier a été tiré",
    )


def _identify(path: Path, accepted: Sequence[Kind]) -> tuple[Kind, Any]:
    """Le genre d'un chemin et, pour un fichier de PyTorch, son contenu.

    Args:
        path: le chemin.
        accepted: les genres qui conviendraient, pour le dire de ce qui n'est d'aucun.
    """
    if path.is_dir():
        if (path / MANIFEST).exists():
            return "checkpoint", None
        if (path / CONFIG).exists():
            return "hf", None
        raise _unknown(path, accepted)
    content = read_torch(path) if _is_torch(path) else None
    kind = _raw(path) if content is None else _torch_kind(content)
    if kind is None:
        raise _unknown(path, accepted)
    return kind, content


def _torch_kind(content: Any) -> Kind | None:
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return "model"
    if is_nanogpt(content):
        return "nanogpt"
    if book_state(content) is not None:
        return "book"
    return None


def _is_torch(path: Path) -> bool:
    """Vrai si le fichier commence comme ceux de `torch.save`."""
    head = _head(path)
    return head.startswith(_TORCH_MAGICS) or (head[:2] == b"PK" and zipfile.is_zipfile(path))


def _raw(path: Path) -> Kind | None:
    """Un fichier qui ne vient pas de `torch.save`."""
    head = _head(path)
    if head.startswith(b"GGUF"):
        return "gguf"
    if len(head) > 8 and head[8:9] == b"{":
        (size,) = struct.unpack("<Q", head[:8])
        if size <= _SAFETENSORS_HEADER:
            announced = safetensors_header(path)[0].get("format", "")
            return _OWN_FORMATS.get(announced, "safetensors")
    # Protobuf : la version de l'IR vient d'abord, puis un autre champ de ModelProto
    is_onnx = len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in _ONNX_FIELDS
    return "onnx" if is_onnx else None


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(16)
    except OSError as error:
        raise ModelFileError(
            f"{path} est illisible : {reason(error)}",
            expected="un fichier de modèle",
            remedy="corrigez son chemin ou ses droits",
        ) from None


def _names(kinds: Sequence[Kind]) -> str:
    *others, last = (NAMES[kind] for kind in kinds)
    return f"{', '.join(others)} ou {last}"


def _unknown(path: Path, accepted: Sequence[Kind]) -> ModelFileError:
    return ModelFileError(
        f"{path} n'est pas un modèle connu",
        expected=_names(accepted),
        remedy="donnez le fichier ou le dossier d'un modèle",
    )
