"""Écrire un fichier GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio.

Le fichier se suffit : poids, vocabulaire, longueur de contexte, gabarit de conversation, licence.
Il n'a que ce que notre génération emploie : les positions que l'entraînement a parcourues, et les
tokens qui ont un texte (un modèle peut avoir des lignes de plus, pour l'alignement).

llama.cpp ne lit pas de motif de découpage : il connaît par leur nom ceux des modèles publiés. Un
vocabulaire n'est donc exporté que si son motif est l'un d'eux, au caractère près.

Formes : N lignes, D largeur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import (
    GPT2Tokenizer,
    Tokenizer,
    tokenizer_from_dict,
    tokenizer_json,
)
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.gpt2 import PatternName
from gpt_architecture.data.tokenizers.protocol import role_ids
from gpt_architecture.errors import ConfigurationError, ModelFileError, TokenizerError
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.interop.gguf_layout import (
    BLOCK_NAMES,
    EMBEDDING,
    HEAD,
    OUTER_NAMES,
    POSITIONS,
    PRE_TOKENIZERS,
    QKV,
    RECIPES,
    GGUFType,
    Recipe,
    gguf_library,
)
from gpt_architecture.interop.hf_export import learned_window
from gpt_architecture.interop.kquants import quantize
from gpt_architecture.storage import write_atomically

_LARGEST_HALF = torch.finfo(torch.float16).max


def export_gguf(content: ModelFile, dest: Path | str, *, dtype: GGUFType = "f32") -> None:
    """Écrit `dest`, entier ou pas du tout.

    Args:
        content: le modèle, son tokenizer et ses métadonnées, dont `name`, `license`, `source` et
            `chat_template` vont dans le fichier s'ils y sont.
        dest: fichier à écrire ; son dossier est créé au besoin.
        dtype: type des matrices.

    Raises:
        ConfigurationError: type inconnu, ou largeur que ses blocs ne divisent pas.
        TokenizerError: le tokenizer n'a pas d'équivalent en GGUF.
        ModelFileError: les poids ne conviennent pas.
        MissingDependencyError: le paquet gguf manque.
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
    """
    recipe = RECIPES.get(dtype)
    if recipe is None:
        choices = ", ".join(RECIPES)
        raise ConfigurationError(f"type GGUF {dtype!r}", expected=choices, remedy="changez `dtype`")
    write_gguf(content, dest, recipe)


def write_gguf(content: ModelFile, dest: Path | str, recipe: Recipe) -> None:
    """Comme `export_gguf`, le type de chaque matrice au choix."""
    library, dest = gguf_library("écrire"), Path(dest)
    config = content.config
    if config.activation != "gelu_tanh":
        raise ModelFileError(
            f"l'activation {config.activation} n'a pas d'équivalent en GGUF",
            expected="gelu_tanh, la seule que llama.cpp calcule pour un GPT-2",
            remedy="exportez en ONNX ou pour Transformers",
        )
    check_vocabulary(config, content.tokenizer)
    model, tokenizer = content.build(), tokenizer_from_dict(content.tokenizer)
    pre, document = _pre_tokenizer(tokenizer), tokenizer_json(tokenizer)
    special = {each["id"]: each["content"] for each in document["added_tokens"]}
    tokens = {index: token for token, index in document["model"]["vocab"].items()} | special
    window = learned_window(content)  # llama.cpp se servirait des positions suivantes
    rows = {EMBEDDING: len(tokens), HEAD: len(tokens), POSITIONS: window}
    kinds = library.GGMLQuantizationType

    def tensors() -> Iterator[tuple[str, Tensor, Any]]:
        """Nom, valeurs, type ; refaits à chaque parcours : un seul occupe la mémoire à la fois."""
        for name, tensor in gguf_tensors(model):
            kind = kinds[recipe.kind(name, tensor.shape[-1], config)]
            yield name, tensor[: rows.get(name)], kind

    for _, tensor, kind in tensors():
        _check(tensor, kind)

    def write(path: Path) -> None:
        writer = library.GGUFWriter(path, "gpt2")
        try:
            _add_provenance(writer, content.metadata, dest.stem)
            writer.add_context_length(window)
            writer.add_embedding_length(config.emb_dim)
            writer.add_feed_forward_length(config.inner_width)
            writer.add_block_count(config.n_layers)
            writer.add_head_count(config.n_heads)
            writer.add_layer_norm_eps(model.final_norm.eps)
            writer.add_vocab_size(len(tokens))
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list([tokens[index] for index in range(len(tokens))])
            control, normal = library.TokenType.CONTROL, library.TokenType.NORMAL
            writer.add_token_types(
                [control if i in special else normal for i in range(len(tokens))]
            )
            writer.add_token_merges(list(document["model"]["merges"]))
            _add_ends(writer, tokenizer)
            if recipe.file_type is not None:
                writer.add_file_type(library.LlamaFileType[recipe.file_type])
            writer.add_quantization_version(library.GGML_QUANT_VERSION)
            _write_tensors(writer, tensors)
        finally:
            writer.close()

    write_atomically(dest, write)


def gguf_tensors(model: GPTModel) -> Iterator[tuple[str, Tensor]]:
    """Les tenseurs du modèle, un à un, sous leurs noms GGUF ; les biais absents valent zéro.

    Une tête de sortie liée n'y est pas : llama.cpp prend alors l'embedding des tokens.
    """
    state = model.state_dict()
    for ours, theirs in OUTER_NAMES.items():
        yield theirs, state[ours]
    for index, block in enumerate(model.trf_blocks):
        for name, tensor in _block_tensors(block):
            yield f"blk.{index}.{name}", tensor
    if not model.cfg.tie_weights:
        yield HEAD, model.out_head.weight.detach()


def _block_tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Les tenseurs d'un bloc ; q, k et v réunis, dans cet ordre."""
    state: dict[str, Tensor] = block.state_dict()
    zeros = torch.zeros_like(state["att.out_proj.bias"])  # llama.cpp exige un biais
    yield "attn_qkv.weight", torch.cat([state[f"{each}.weight"] for each in QKV])  # (3D, D)
    yield "attn_qkv.bias", torch.cat([state.get(f"{each}.bias", zeros) for each in QKV])
    for ours, theirs in BLOCK_NAMES.items():
        yield theirs, state[ours]


def _write_tensors(writer: Any, tensors: Callable[[], Iterator[tuple[str, Tensor, Any]]]) -> None:
    """Annonce tous les tenseurs, puis les écrit."""
    byte_shape = gguf_library("écrire").quants.quant_shape_to_byte_shape
    for name, tensor, kind in tensors():
        shape = tuple(tensor.shape)
        size = prod(byte_shape(shape, kind))
        writer.add_tensor_info(name, shape, np.dtype("f4"), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, kind in tensors():
        array = tensor.to("cpu", torch.float32).contiguous().numpy()
        writer.write_tensor_data(array if kind.name == "F32" else quantize(array, kind))


def _add_provenance(writer: Any, metadata: Mapping[str, Any], default_name: str) -> None:
    """Ce que le fichier dit de lui-même."""
    texts = {key: value for key, value in metadata.items() if isinstance(value, str) and value}
    writer.add_type("model")
    writer.add_name(texts.get("name", default_name))
    for key, add in (
        ("license", writer.add_license),
        ("source", writer.add_source_url),
        ("chat_template", writer.add_chat_template),
    ):
        if key in texts:
            add(texts[key])


def _add_ends(writer: Any, tokenizer: Tokenizer) -> None:
    """Les tokens de début et de fin ; notre génération n'ajoute rien à l'invite."""
    start = role_ids(tokenizer).get("bos_token")
    if start is not None:
        writer.add_bos_token_id(start)
    if tokenizer.eos_id is not None:
        writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _check(tensor: Tensor, kind: Any) -> None:
    """Refuse ce qui ne se groupe pas, ou que 16 bits ne savent pas écrire."""
    group, _ = gguf_library("écrire").GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % group:
        raise ConfigurationError(
            f"{kind.name} sur des lignes de {tensor.shape[-1]} poids",
            expected=f"une largeur multiple de {group}",
            remedy="prenez f16 ou f32",
        )
    if kind.name != "F32" and not float(tensor.abs().max()) <= _LARGEST_HALF:
        raise ModelFileError(
            f"un poids vaut {float(tensor.abs().max()):g}",
            expected=f"des poids qui s'écrivent sur 16 bits ({_LARGEST_HALF:g} au plus)",
            remedy="prenez f32",
        )


def _pre_tokenizer(tokenizer: Tokenizer) -> str:
    """Le nom que llama.cpp donne au découpage de ce tokenizer.

    Raises:
        TokenizerError: ce n'est pas un BPE par octets, ou llama.cpp n'a pas son motif.
    """
    if not isinstance(tokenizer, (GPT2Tokenizer, BPETokenizer)):
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas d'équivalent en GGUF",
            expected="un BPE par octets : gpt2, ou le vôtre (bpe-N)",
            remedy="exportez en ONNX, ou entraînez un autre modèle avec le tokenizer gpt2 ou "
            "bpe-4096",
        )
    pattern: PatternName = "gpt2" if isinstance(tokenizer, GPT2Tokenizer) else tokenizer.pattern
    name = PRE_TOKENIZERS.get(pattern)
    if name is None:
        raise TokenizerError(
            f"llama.cpp n'a pas le motif de découpage {pattern}",
            expected=", ".join(PRE_TOKENIZERS),
            remedy="refaites le vocabulaire avec l'un d'eux, ou exportez en ONNX",
        )
    return name
