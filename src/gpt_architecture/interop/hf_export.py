"""Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel, sa fiche comprise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_architecture.config import Activation, GPTConfig
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict, tokenizer_json
from gpt_architecture.data.tokenizers.protocol import ROLES, role_ids, role_names
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import save_safetensors
from gpt_architecture.french import thousands
from gpt_architecture.interop.hf import CONFIG, PROVENANCE, PROVENANCE_FORMAT, WEIGHTS
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


def model_card(content: ModelFile, *, name: str) -> str:
    """La fiche, avec l'en-tête que le Hub lit.

    Ce que les métadonnées ne disent pas est dit inconnu, jamais supposé.

    Args:
        content: le modèle.
        name: son titre.
    """
    config, metadata = content.config, content.metadata
    license_id = str(metadata.get("license", "unknown"))
    stated = license_id != "unknown"
    train, validation = (_last(metadata.get(key)) for key in ("train_losses", "val_losses"))
    final, tied = measured_at_the_end(metadata), config.tie_weights
    learned = metadata.get("window")
    window = str(learned) if type(learned) is int else None
    past = (
        "inconnu"
        if window is None
        else f"{window} tokens ; au-delà, les positions n'ont rien appris"
    )
    shape = (config.n_layers, config.n_heads, config.emb_dim, config.vocab_size)
    sizes = "{} blocs, {} têtes, largeur {}, vocabulaire de {} tokens".format(*shape)
    sizes_en = "{} layers, {} heads, width {}, vocabulary of {} tokens".format(*shape)
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
license: {_yaml(license_id)}
tags:
- gpt2
- gpt-architecture
---

# {_line(name)}

## Fiche

GPT-2 entraîné ou converti avec gpt-architecture.

- **Forme** : {thousands(config.num_parameters(), " ")} paramètres, {sizes}, \
{config.context_length} positions.
- **Tête de sortie** : {"liée à" if tied else "indépendante de"} l'embedding.
- **Contexte d'entraînement** : {past}.
- **Données** : {_data(metadata) or "inconnues"}.
- **Tokens vus** : {_count(metadata.get("tokens_seen"), " ") or "inconnu"}.
- **{"Perte finale" if final else "Dernière perte mesurée"}** : \
entraînement {_decimal(train, ",") or "inconnue"}, \
validation {_decimal(validation, ",") or "inconnue"}.
- **Licence** : {_line(license_id) if stated else "non précisée"}.
- **Limites** : un modèle de cette taille invente, répète et peut réciter son texte \
d'entraînement ; ne l'employez pas pour établir un fait.

## Model card

A GPT-2 trained or converted with gpt-architecture.

- **Shape**: {thousands(config.num_parameters(), ",")} parameters, {sizes_en}, \
{config.context_length} positions.
- **Head**: {"tied to" if tied else "independent of"} the embedding.
- **Learned window**: {window or "unknown"} tokens; positions beyond it learned nothing.
- **Data**: {_data(metadata) or "unknown"}.
- **Tokens seen**: {_count(metadata.get("tokens_seen"), ",") or "unknown"}.
- **{"Final loss" if final else "Last measured loss"}**: \
training {_decimal(train, ".") or "unknown"}, validation {_decimal(validation, ".") or "unknown"}.
- **License**: {_line(license_id) if stated else "not stated"}.
- **Limits**: a model this small makes things up, repeats itself and may recite its training text; \
do not use it to establish a fact.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
```
"""


def measured_at_the_end(metadata: Mapping[str, Any]) -> bool:
    """Vrai si la dernière évaluation a suivi la dernière étape : les poids sont ceux mesurés."""
    steps, evaluated = metadata.get("steps"), metadata.get("eval_steps")
    return type(steps) is int and isinstance(evaluated, Sequence) and steps - 1 in evaluated[-1:]


def _data(metadata: Mapping[str, Any]) -> str | None:
    """Nom et empreinte des données, telles que l'entraînement les a notées."""
    data = metadata.get("data")
    if not isinstance(data, Mapping):
        return None
    return ", ".join(f"{key} {_line(data[key])}" for key in ("name", "sha256") if key in data)


def _last(values: object) -> float | None:
    if isinstance(values, Sequence) and values and isinstance(values[-1], (int, float)):
        return float(values[-1]) if math.isfinite(values[-1]) else None
    return None


def _decimal(value: float | None, mark: str) -> str | None:
    return None if value is None else f"{value:.3f}".replace(".", mark)


def _count(value: object, mark: str) -> str | None:
    last = value[-1] if isinstance(value, Sequence) and value else value
    return thousands(last, mark) if type(last) is int else None


def _line(value: object) -> str:
    """Un texte venu d'ailleurs, sur une ligne et borné."""
    return _LINE.sub(" ", str(value))[:200]


def _yaml(value: str) -> str:
    """Un identifiant, entre guillemets dès qu'il n'est pas fait de lettres ordinaires."""
    return value if re.fullmatch(r"[A-Za-z0-9.\-]{1,64}", value) else "unknown"
