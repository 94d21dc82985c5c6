"""Reconnaître un modèle à son contenu, quel que soit son nom, et le lire."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

from gpt_architecture.core.checkpoint_files import MANIFEST
from gpt_architecture.core.weights import FORMAT, ModelFile, read_model
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ModelFileError, reason
from gpt_architecture.interop.book import book_state, read_book
from gpt_architecture.interop.files import read_torch, safetensors_header
from gpt_architecture.interop.hf import CONFIG, read_hf
from gpt_architecture.interop.nanogpt import is_nanogpt, read_nanogpt

Kind = Literal["model", "checkpoint", "hf", "nanogpt", "book", "quantized", "gguf", "safetensors"]
"""Ce qu'est un chemin : un modèle d'ici, un point de reprise, un dossier de Transformers, …"""

NAMES: dict[Kind, str] = {
    "model": "modèle gpt-architecture",
    "checkpoint": "point de reprise gpt-architecture",
    "hf": "dossier de Transformers (GPT-2)",
    "nanogpt": "point de reprise de nanoGPT",
    "book": "poids du livre de Raschka",
    "quantized": "modèle quantifié gpt-architecture",
    "gguf": "fichier GGUF (llama.cpp)",
    "safetensors": "fichier safetensors",
}
"""Nom de chaque genre, pour une personne."""

_TORCH_MAGICS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
_SAFETENSORS_HEADER = 100 << 20
QUANTIZED_FORMAT = "gpt-architecture/quantized"
"""Le format qu'annoncent, en JSON, les métadonnées d'un modèle quantifié."""


def detect(path: Path | str) -> Kind:
    """Ce qu'est ce fichier ou ce dossier, d'après son contenu.

    Raises:
        ModelFileError: rien de connu, ou illisible.
    """
    return _identify(Path(path))[0]


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
    kind, content = _identify(path)
    if kind == "safetensors" and (path.parent / CONFIG).is_file():
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
        f"{path} est un {NAMES[kind]}, qui ne s'importe pas",
        expected="un modèle en fp32 ou en fp16, d'ici, de Transformers, de nanoGPT ou du livre",
        remedy="donnez le modèle dont ce fichier a été tiré",
    )


def _identify(path: Path) -> tuple[Kind, Any]:
    """Le genre d'un chemin et, pour un fichier de PyTorch, son contenu."""
    if path.is_dir():
        if (path / MANIFEST).exists():
            return "checkpoint", None
        if (path / CONFIG).exists():
            return "hf", None
        raise _unknown(path)
    if not _is_torch(path):
        return _raw(path), None
    content = read_torch(path)
    return _torch_kind(path, content), content


def _torch_kind(path: Path, content: Any) -> Kind:
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return "model"
    if is_nanogpt(content):
        return "nanogpt"
    if book_state(content) is not None:
        return "book"
    raise _unknown(path)


def _is_torch(path: Path) -> bool:
    """Vrai si le fichier commence comme ceux de `torch.save`."""
    head = _head(path)
    return head.startswith(_TORCH_MAGICS) or (head[:2] == b"PK" and zipfile.is_zipfile(path))


def _raw(path: Path) -> Kind:
    """Un fichier qui ne vient pas de `torch.save`."""
    head = _head(path)
    if head.startswith(b"GGUF"):
        return "gguf"
    if len(head) > 8 and head[8:9] == b"{":
        (size,) = struct.unpack("<Q", head[:8])
        if size <= _SAFETENSORS_HEADER:
            announced = safetensors_header(path)[0].get("format")
            return "quantized" if announced == json.dumps(QUANTIZED_FORMAT) else "safetensors"
    raise _unknown(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise ModelFileError(
            f"{path} est illisible : {reason(error)}",
            expected="un fichier de modèle",
            remedy="corrigez son chemin ou ses droits",
        ) from None


def _unknown(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path} n'est pas un modèle connu",
        expected=", ".join(NAMES.values()),
        remedy="donnez le fichier ou le dossier d'un modèle",
    )
