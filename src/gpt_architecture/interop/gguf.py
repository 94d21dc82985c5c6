"""GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio : l'écrire, et dire ce qu'il tient.

Le fichier se suffit : poids, vocabulaire, longueur de contexte, gabarit de conversation, licence.
Il n'a que ce que notre génération emploie : les positions que l'entraînement a parcourues, et les
tokens qui ont un texte (un modèle peut avoir des lignes de plus, pour l'alignement).

llama.cpp ne lit pas de motif de découpage : il connaît par leur nom ceux des modèles publiés. Un
vocabulaire n'est donc exporté que si son motif est l'un d'eux, au caractère près.

Formes : N lignes, D largeur.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from gpt_architecture.config import GPTConfig
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
from gpt_architecture.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFileError,
    TokenizerError,
)
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import TensorInfo, refusals
from gpt_architecture.interop.hf_export import learned_window
from gpt_architecture.storage import open_regular, write_atomically

GGUFType = Literal["f32", "f16", "q8_0"]
"""Type des matrices ; positions, normes et biais restent en fp32, comme chez llama.cpp."""

Quantizer: TypeAlias = Callable[[Any, Any], Any]
"""(matrice fp32 (N, D), `gguf.GGMLQuantizationType`) → ses octets (N, …)."""

_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}
_LARGEST_HALF = torch.finfo(torch.float16).max
_MAX_READS = 2_000_000  # valeurs d'un en-tête : huit fois celles du vocabulaire de GPT-2
_PLAIN = (str, int, float, bool)
_SIZES = {
    "context_length": "gpt2.context_length",
    "emb_dim": "gpt2.embedding_length",
    "n_heads": "gpt2.attention.head_count",
    "n_layers": "gpt2.block_count",
    "inner_dim": "gpt2.feed_forward_length",
}
_EPSILON = "gpt2.attention.layer_norm_epsilon"

PRE_TOKENIZERS: dict[PatternName, str] = {"gpt2": "gpt-2", "moderne": "dbrx"}
"""Motif de découpage → nom que llama.cpp lui donne.

« llama-bpe » a le motif de « dbrx », mais ajoute un token de début et passe outre les fusions.
"""

_BLOCK_NAMES = {
    "norm1.scale": "attn_norm.weight",
    "norm1.shift": "attn_norm.bias",
    "att.out_proj.weight": "attn_output.weight",
    "att.out_proj.bias": "attn_output.bias",
    "norm2.scale": "ffn_norm.weight",
    "norm2.shift": "ffn_norm.bias",
    "ff.layers.0.weight": "ffn_up.weight",
    "ff.layers.0.bias": "ffn_up.bias",
    "ff.layers.2.weight": "ffn_down.weight",
    "ff.layers.2.bias": "ffn_down.bias",
}


def export_gguf(content: ModelFile, dest: Path | str, *, dtype: GGUFType = "f32") -> None:
    """Écrit `dest`, entier ou pas du tout.

    Args:
        content: le modèle, son tokenizer et ses métadonnées, dont `name`, `license`, `source` et
            `chat_template` vont dans le fichier s'ils y sont.
        dest: fichier à écrire ; son dossier est créé au besoin.
        dtype: type des matrices.

    Raises:
        ConfigurationError: type inconnu, ou largeur que q8_0 ne sait pas grouper.
        TokenizerError: le tokenizer n'a pas d'équivalent en GGUF.
        ModelFileError: les poids ne conviennent pas.
        MissingDependencyError: le paquet gguf manque.
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
    """
    if dtype not in get_args(GGUFType):
        choices = ", ".join(get_args(GGUFType))
        raise ConfigurationError(f"type GGUF {dtype!r}", expected=choices, remedy="changez `dtype`")
    write_gguf(content, dest, body=dtype.upper(), head=dtype.upper())


def write_gguf(
    content: ModelFile, dest: Path | str, *, body: str, head: str, quantize: Quantizer | None = None
) -> None:
    """Comme `export_gguf`, chaque type GGML nommé, et le quantificateur au choix.

    Args:
        body: type des matrices, tête exceptée.
        head: type de la tête ; c'est aussi celui de l'embedding des tokens quand il en sert.
        quantize: par défaut, celui du paquet gguf.
    """
    library, dest = _library("écrire"), Path(dest)
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
    rows = {
        "token_embd.weight": len(tokens),
        "output.weight": len(tokens),
        "position_embd.weight": window,
    }
    kinds = library.GGMLQuantizationType
    head_name = "token_embd.weight" if config.tie_weights else "output.weight"

    def tensors() -> Iterator[tuple[str, Tensor, Any]]:
        """Nom, valeurs, type ; refaits à chaque parcours : un seul occupe la mémoire à la fois."""
        for name, tensor in gguf_tensors(model):
            kind = kinds[head if name == head_name else body]
            if name == "position_embd.weight" or "norm" in name or name.endswith(".bias"):
                kind = kinds.F32
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
            if body in _FILE_TYPES:
                writer.add_file_type(library.LlamaFileType[_FILE_TYPES[body]])
            writer.add_quantization_version(library.GGML_QUANT_VERSION)
            _write_tensors(writer, tensors, quantize or library.quants.quantize)
        finally:
            writer.close()

    write_atomically(dest, write)


def gguf_tensors(model: GPTModel) -> Iterator[tuple[str, Tensor]]:
    """Les tenseurs du modèle, un à un, sous leurs noms GGUF ; les biais absents valent zéro.

    Une tête de sortie liée n'y est pas : llama.cpp prend alors l'embedding des tokens.
    """
    yield "token_embd.weight", model.tok_emb.weight.detach()
    yield "position_embd.weight", model.pos_emb.weight.detach()
    for index, block in enumerate(model.trf_blocks):
        for name, tensor in _block_tensors(block):
            yield f"blk.{index}.{name}", tensor
    yield "output_norm.weight", model.final_norm.scale.detach()
    yield "output_norm.bias", model.final_norm.shift.detach()
    if not model.cfg.tie_weights:
        yield "output.weight", model.out_head.weight.detach()


def _block_tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Les tenseurs d'un bloc ; q, k et v réunis, dans cet ordre."""
    state: dict[str, Tensor] = block.state_dict()
    projections = [f"att.W_{each}" for each in ("query", "key", "value")]
    zeros = torch.zeros_like(state["att.out_proj.bias"])  # llama.cpp exige un biais
    yield "attn_qkv.weight", torch.cat([state[f"{each}.weight"] for each in projections])  # (3D, D)
    yield "attn_qkv.bias", torch.cat([state.get(f"{each}.bias", zeros) for each in projections])
    for ours, theirs in _BLOCK_NAMES.items():
        yield theirs, state[ours]


def _write_tensors(
    writer: Any, tensors: Callable[[], Iterator[tuple[str, Tensor, Any]]], quantize: Quantizer
) -> None:
    """Annonce tous les tenseurs, puis les écrit."""
    byte_shape = _library("écrire").quants.quant_shape_to_byte_shape
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
    group, _ = _library("écrire").GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % group:
        raise ConfigurationError(
            f"{kind.name.lower()} sur des lignes de {tensor.shape[-1]} poids",
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


def _library(purpose: Literal["lire", "écrire"]) -> Any:
    try:
        import gguf  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("gguf", purpose=f"{purpose} un fichier de llama.cpp") from None
    return gguf


class GGUFFormat(ModelFormat):
    """Un fichier de llama.cpp."""

    kind, name = "gguf", "fichier GGUF (llama.cpp)"

    def recognises(self, model: OpenedModel) -> bool:
        """Ses premiers octets le nomment."""
        return model.head.startswith(b"GGUF")

    def facts(self, model: OpenedModel) -> Facts:
        """L'en-tête, s'il est dans des bornes."""
        gguf = _library("lire")

        class Reader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
            """Celui de gguf, dont le nombre de lectures est borné."""

            reads = 0

            def _get(self, *arguments: Any, **named: Any) -> Any:
                self.reads += 1
                if self.reads > _MAX_READS:
                    raise ValueError("trop de valeurs")
                return super()._get(*arguments, **named)

        with (
            open_regular(model.path),
            refusals(model.path, "en-tête abîmé ou démesuré", "un fichier GGUF complet"),
        ):
            reader = Reader(model.path)
            values = {name: field.contents() for name, field in reader.fields.items()}
            tensors = tuple(
                TensorInfo(
                    name=str(each.name),
                    shape=tuple(int(size) for size in reversed(each.shape)),
                    dtype=each.tensor_type.name,
                )
                for each in reader.tensors
            )
            tokens = values.get("tokenizer.ggml.tokens")
            return Facts(
                config=_gguf_config(values, tensors),
                tensors=tensors,
                tokenizer=lambda: _gguf_tokenizer(values, tokens),
                provenance={
                    key: value
                    for key, value in values.items()
                    if type(value) in _PLAIN and not key.startswith(("GGUF.", "tokenizer."))
                },
            )

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Il n'a pas de sommes de contrôle."""
        return None


def _gguf_config(values: Mapping[str, Any], tensors: tuple[TensorInfo, ...]) -> GPTConfig | None:
    if values.get("general.architecture") != "gpt2":
        return None
    try:
        return GPTConfig(
            **{ours: values[theirs] for ours, theirs in _SIZES.items()},
            norm_eps=float(f"{values[_EPSILON]:.6g}"),  # écrit en fp32
            vocab_size=len(values["tokenizer.ggml.tokens"]),
            qkv_bias=True,
            tie_weights=all(each.name != "output.weight" for each in tensors),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _gguf_tokenizer(values: Mapping[str, Any], tokens: Any) -> dict[str, Any]:
    if not isinstance(tokens, list):
        return {"problem": "le fichier n'en dit rien"}
    names = [values.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    return {
        "name": "/".join(str(name)[:40] for name in names if name),
        "vocab_size": len(tokens),
        "sha256": hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest(),
    }
