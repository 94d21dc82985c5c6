"""Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt_architecture.config import Activation, GPTConfig
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict, tokenizer_json
from gpt_architecture.data.tokenizers.protocol import ROLES, role_ids, role_names
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.foreign_files import write_directory
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import sealed
from gpt_architecture.interop.chat_templates import config_templates
from gpt_architecture.interop.hf import CONFIG, PROVENANCE, PROVENANCE_FORMAT, WEIGHTS
from gpt_architecture.interop.model_card import model_card
from gpt_architecture.interop.state_map import to_hf

MAX_SHARD_BYTES = 5 << 30
"""Taille d'un fichier de poids, au plus, à un tenseur près."""

Dtype = Literal["f32", "f16"]
_ACTIVATIONS: dict[Activation, str] = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
_DTYPES: dict[Dtype, torch.dtype] = {"f32": torch.float32, "f16": torch.float16}


def export_hf(
    content: ModelFile,
    dest: Path | str,
    *,
    dtype: Dtype = "f32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
) -> None:
    """Écrit le dossier complet, ou rien.

    Args:
        content: le modèle ; `license` et `chat_template` de ses métadonnées sont écrits.
        dest: dossier à créer.
        dtype: type des poids écrits.
        max_shard_bytes: au-delà, les poids sont répartis sur plusieurs fichiers.
        force: remplace un dossier exporté auparavant.

    Raises:
        ModelFileError: les poids ne sont pas ceux de la configuration, ou débordent en fp16.
        TokenizerError: ce tokenizer ne s'écrit pas en `tokenizer.json`.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    dest = Path(dest)
    check_vocabulary(content.config, content.tokenizer)
    tokenizer = tokenizer_from_dict(content.tokenizer)
    weights = to_hf(content.state_dict, content.config)
    documents = {
        CONFIG: hf_config(content.config, tokenizer, dtype=dtype),
        "generation_config.json": _generation_config(tokenizer),
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": _tokenizer_config(content, tokenizer),
        "special_tokens_map.json": _special_tokens(tokenizer),
        PROVENANCE: {
            "format": PROVENANCE_FORMAT,
            "qkv_bias": content.config.qkv_bias,
            "metadata": dict(content.metadata),
        },
    }
    card = model_card(content, name=dest.name)

    def fill(folder: Path) -> None:
        for name, document in documents.items():
            text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=name == PROVENANCE)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        _write_weights(folder, weights, _DTYPES[dtype], max_shard_bytes)

    write_directory(dest, fill, force=force)


def hf_config(config: GPTConfig, tokenizer: Tokenizer, *, dtype: Dtype = "f32") -> dict[str, Any]:
    """Le `config.json` de cette forme, sans rien laisser aux valeurs par défaut d'en face."""
    ids = role_ids(tokenizer)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,  # l'ancien nom, que d'autres lecteurs cherchent
        "n_embd": config.emb_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.inner_dim,
        "activation_function": _ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.drop_rate,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.drop_rate,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": config.tie_weights,
        "bos_token_id": ids.get("bos_token"),
        "eos_token_id": ids.get("eos_token"),
        "use_cache": True,
        "dtype": str(_DTYPES[dtype]).removeprefix("torch."),
    }


def learned_window(content: ModelFile) -> int:
    """Positions que l'entraînement a vues : au-delà, elles existent mais n'ont rien appris."""
    learned, limit = content.metadata.get("window"), content.config.context_length
    return min(learned, limit) if type(learned) is int and learned > 0 else limit


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = role_ids(tokenizer)
    return {f"{role}_id": ids.get(role) for role in ROLES}


def _tokenizer_config(content: ModelFile, tokenizer: Tokenizer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": learned_window(content),
        "clean_up_tokenization_spaces": False,
        **_special_tokens(tokenizer),
    }
    templates = config_templates(content.metadata)
    if templates is not None:
        document["chat_template"] = templates
    return document


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Les rôles du vocabulaire, et un token inconnu : CTranslate2, par exemple, en exige un."""
    names = role_names(tokenizer)
    return {"unk_token": names["eos_token"], **names} if "eos_token" in names else names


def _write_weights(
    folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype, limit: int
) -> None:
    """Les poids, en un fichier ou plusieurs avec leur index."""
    shards = list(_split(weights, dtype, limit))
    stem = Path(WEIGHTS[0]).stem
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [WEIGHTS[0]]
    for name, shard in zip(names, shards, strict=True):
        tensors = {key: _narrowed(key, weights[key], dtype) for key in shard}
        save_file(tensors, folder / name, metadata=sealed({"format": "pt"}, tensors))
    if len(shards) > 1:
        total = sum(t.numel() * dtype.itemsize for t in weights.values())
        index = {
            "metadata": {"total_size": total},
            "weight_map": {
                key: name for name, keys in zip(names, shards, strict=True) for key in keys
            },
        }
        path = folder / f"{WEIGHTS[0]}.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _split(weights: Mapping[str, Tensor], dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """Les noms, par fichiers d'au plus `limit` octets ; un tenseur n'est jamais coupé."""
    shard: list[str] = []
    size = 0
    for name, tensor in weights.items():
        needed = tensor.numel() * dtype.itemsize
        if shard and size + needed > limit:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += needed
    yield shard


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrowed = tensor.to(dtype)
    if dtype is not torch.float32 and bool((narrowed.isinf() & ~tensor.isinf()).any()):
        raise ModelFileError(
            f"{name} dépasse ce que fp16 sait écrire",
            expected="des poids d'au plus 65504",
            remedy="exportez en f32",
        )
    return narrowed
