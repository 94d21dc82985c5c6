"""Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel, sa fiche comprise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_architecture.config import Activation, GPTConfig, HeadConfig
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict, tokenizer_json
from gpt_architecture.data.tokenizers.protocol import ROLES, role_ids, role_names
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.card import card_of
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import save_safetensors
from gpt_architecture.interop.hf import (
    CLASSIFIER,
    CONFIG,
    PROVENANCE,
    PROVENANCE_FORMAT,
    WEIGHTS,
)
from gpt_architecture.interop.state_map import to_hf
from gpt_architecture.interop.vocabulary import config_templates
from gpt_architecture.storage import write_directory

MAX_SHARD_BYTES = 5 << 30
"""Taille d'un fichier de poids, au plus, à un tenseur près."""

Dtype = Literal["f32", "f16"]
_LINE = re.compile(r"[\x00-\x1f\x7f]+")
_ACTIVATIONS: dict[Activation, str] = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
_DTYPES: dict[Dtype, torch.dtype] = {"f32": torch.float32, "f16": torch.float16}


def export_hf(
    content: ModelFile,
    dest: Path | str,
    *,
    dtype: Dtype = "f32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    folder: Path | str | None = None,
) -> None:
    """Écrit le dossier complet, ou rien.

    Args:
        content: le modèle ; `license` et `chat_template` de ses métadonnées sont écrits.
        dest: dossier à créer.
        dtype: type des poids écrits.
        max_shard_bytes: au-delà, les poids sont répartis sur plusieurs fichiers.
        force: remplace un dossier exporté auparavant.
        folder: le dossier d'où vient le modèle, dont la fiche cite le certificat ; None : inconnu.

    Raises:
        ModelFileError: les poids ne sont pas ceux de la configuration, ou débordent en fp16.
        TokenizerError: ce tokenizer ne s'écrit pas en `tokenizer.json`.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    dest = Path(dest)
    content = _plain_values(content)
    documents = {
        **folder_documents(content, dtype=dtype),
        PROVENANCE: {
            "format": PROVENANCE_FORMAT,
            "qkv_bias": content.config.qkv_bias,
            "metadata": dict(content.metadata),
        },
    }
    weights = to_hf(content.state_dict, content.config)
    card = model_card(content, name=dest.name, folder=folder)

    def fill(new: Path) -> None:
        write_documents(new, documents)
        (new / "README.md").write_text(card, encoding="utf-8")
        _write_weights(new, weights, _DTYPES[dtype], max_shard_bytes)

    write_directory(dest, fill, force=force)


def folder_documents(content: ModelFile, *, dtype: Dtype = "f32") -> dict[str, Any]:
    """Les fichiers JSON d'un dossier, par nom : la forme, la génération, le vocabulaire.

    Raises:
        ModelFileError: le vocabulaire est plus grand que le modèle.
        TokenizerError: ce tokenizer ne s'écrit pas en `tokenizer.json`.
    """
    check_vocabulary(content.config, content.tokenizer)
    tokenizer = tokenizer_from_dict(content.tokenizer)
    writes = content.config.head is None
    return {
        CONFIG: hf_config(content.config, tokenizer, dtype=dtype),
        **({"generation_config.json": _generation_config(tokenizer)} if writes else {}),
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": _tokenizer_config(content, tokenizer),
        "special_tokens_map.json": _special_tokens(tokenizer),
    }


def write_documents(folder: Path | str, documents: Mapping[str, Any]) -> None:
    """Écrit ces fichiers JSON dans un dossier."""
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=name == PROVENANCE)
        (Path(folder) / name).write_text(text + "\n", encoding="utf-8")


def hf_config(config: GPTConfig, tokenizer: Tokenizer, *, dtype: Dtype = "f32") -> dict[str, Any]:
    """Le `config.json` de cette forme, sans rien laisser aux valeurs par défaut d'en face."""
    ids = role_ids(tokenizer)
    return {
        "architectures": ["GPT2LMHeadModel" if config.head is None else CLASSIFIER],
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
        **({} if config.head is None else _head_config(config.head, ids.get("eos_token"))),
    }


def _head_config(head: HeadConfig, padding: int | None) -> dict[str, Any]:
    """Ce que `GPT2ForSequenceClassification` veut savoir : ses classes, et le remplissage.

    Sans remplissage, il ne juge qu'un texte à la fois ; la fin de texte en tient lieu.
    """
    labels = head.labels or ("LABEL_0",)
    kind = "regression" if head.is_regression else "single_label_classification"
    return {
        "problem_type": kind,
        "id2label": {str(rank): label for rank, label in enumerate(labels)},
        "label2id": {label: rank for rank, label in enumerate(labels)},
        "pad_token_id": padding,
    }


def _plain_values(content: ModelFile) -> ModelFile:
    """Le même modèle, dont la sortie brute est la valeur ; un autre est rendu tel quel.

    La tête n'a pas de biais : `center` va dans le décalage de la dernière norme, le long de ses
    poids w, où w·(x + center·w/‖w‖²) = w·x + center.
    """
    head = content.config.head
    if head is None or not head.is_regression:
        return content
    state = {name: tensor.float() for name, tensor in content.state_dict.items()}
    weight = head.scale * state["out_head.weight"].double()  # (1, D)
    norm = float(weight.square().sum())
    if head.center and not norm:
        raise ModelFileError(
            "la tête de ce modèle est nulle : sa valeur constante ne s'écrit pas sans biais",
            expected="un modèle qui a appris",
            remedy="entraînez-le davantage",
        )
    shift = state["final_norm.shift"].double() + (head.center * weight[0] / norm if norm else 0)
    changed = {"out_head.weight": weight.float(), "final_norm.shift": shift.float()}
    return replace(
        content,
        config=replace(content.config, head=HeadConfig()),
        state_dict={**state, **changed},
    )


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
    if content.config.head is not None and "eos_token" in document:
        document |= {"pad_token": document["eos_token"], "padding_side": "right"}
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
        save_safetensors(folder / name, tensors, {"format": "pt"})
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


def model_card(content: ModelFile, *, name: str, folder: Path | str | None = None) -> str:
    """La fiche (`formats.card`), en deux langues, avec l'en-tête que le Hub lit.

    Args:
        content: le modèle.
        name: son titre.
        folder: le dossier d'où il vient, certificat et confidentialité compris ; None : inconnu.
    """
    sha256 = weights_sha256(content)
    card = card_of(content.config, content.metadata, folder=folder, sha256=sha256)
    french, english = (
        "\n".join(f"- **{label}**{mark} {value}." for label, value in card.said(language))
        for language, mark in enumerate((" :", ":"))
    )
    judges = content.config.head is not None
    auto = "AutoModelForSequenceClassification" if judges else "AutoModelForCausalLM"
    return f"""\
---
library_name: transformers
pipeline_tag: {"text-classification" if judges else "text-generation"}
license: {_yaml(card.license or "unknown")}
{_yaml_list("language", card.languages)}{_yaml_list("datasets", card.datasets)}\
{_yaml_list("tags", ("gpt2", "gpt-architecture"))}---

# {_LINE.sub(" ", name)[:200]}

## Fiche

GPT-2 entraîné ou converti avec gpt-architecture.

{french}

## Model card

A GPT-2 trained or converted with gpt-architecture.

{english}

```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained(".")
```
"""


def _yaml(value: str) -> str:
    """Un identifiant, entre guillemets dès qu'il n'est pas fait de lettres ordinaires."""
    return value if re.fullmatch(r"[A-Za-z0-9.\-]{1,64}", value) else "unknown"


def _yaml_list(name: str, values: Sequence[str]) -> str:
    """Un champ de l'en-tête qui a plusieurs valeurs ; rien sans valeur."""
    return "".join([f"{name}:\n", *(f"- {each}\n" for each in values)]) if values else ""
