"""Écrit un modèle en GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio.

Le fichier se suffit : poids, vocabulaire, longueur de contexte, gabarit de conversation, licence.
Il n'a que ce que notre génération emploie : les positions que l'entraînement a parcourues, et les
tokens qui ont un texte (un modèle peut avoir des lignes de plus, pour l'alignement).

llama.cpp ne lit pas de motif de découpage : il connaît par leur nom ceux des modèles publiés. Un
vocabulaire n'est donc exporté que si son motif est l'un d'eux, au caractère près.

Formes : N lignes, D largeur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

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
from gpt_architecture.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFileError,
    TokenizerError,
)
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.interop.hf_export import learned_window
from gpt_architecture.storage import write_atomically

GGUFType = Literal["f32", "f16", "q8_0"]
"""Type des matrices ; positions, normes et biais restent en fp32, comme chez llama.cpp."""

Quantizer: TypeAlias = Callable[[Any, Any], Any]
"""(matrice fp32 (N, D), `gguf.GGMLQuantizationType`) → ses octets (N, …)."""

_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}
_LARGEST_HALF = torch.finfo(torch.float16).max

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


@dataclass(frozen=True, kw_only=True)
class GGUFVocabulary:
    """Ce que les clés `tokenizer.ggml.*` d'un fichier disent du vocabulaire.

    Attributes:
        tokens: texte de chaque identifiant, octets écrits comme GPT-2 les écrit.
        special: identifiants des tokens spéciaux.
        merges: fusions « gauche droite », dans l'ordre appris.
        pre: nom du découpage chez llama.cpp.
        start: identifiant de début de texte ; None : il n'y en a pas.
        end: identifiant de fin de texte ; None : il n'y en a pas.
    """

    tokens: list[str]
    special: frozenset[int]
    merges: list[str]
    pre: str
    start: int | None
    end: int | None


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
        raise ConfigurationError(
            f"type GGUF {dtype!r}",
            expected=", ".join(get_args(GGUFType)),
            remedy="changez `dtype`",
        )
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
    library, dest = _library(), Path(dest)
    if content.config.activation != "gelu_tanh":
        raise ModelFileError(
            f"l'activation {content.config.activation} n'a pas d'équivalent en GGUF",
            expected="gelu_tanh, la seule que llama.cpp calcule pour un GPT-2",
            remedy="exportez en ONNX ou pour Transformers",
        )
    check_vocabulary(content.config, content.tokenizer)
    model, vocabulary = content.build(), gguf_vocabulary(tokenizer_from_dict(content.tokenizer))
    window = learned_window(content)  # llama.cpp se servirait des positions suivantes
    tensors = _Tensors(model, tokens=len(vocabulary.tokens), positions=window, body=body, head=head)
    for name, tensor in tensors:
        _check(tensor, tensors.kind(name))

    def write(path: Path) -> None:
        writer = library.GGUFWriter(path, "gpt2")
        try:
            _add_provenance(writer, content.metadata, dest.stem)
            _add_shape(writer, model, window)
            _add_vocabulary(writer, vocabulary)
            if body in _FILE_TYPES:
                writer.add_file_type(library.LlamaFileType[_FILE_TYPES[body]])
            writer.add_quantization_version(library.GGML_QUANT_VERSION)
            _write_tensors(writer, tensors, quantize or library.quants.quantize)
        finally:
            writer.close()

    write_atomically(dest, write)


def gguf_tensors(model: GPTModel) -> Iterator[tuple[str, Tensor]]:
    """Les tenseurs du modèle, un à un, sous leurs noms GGUF ; les biais absents valent zéro.

    Une tête liée n'y est pas : llama.cpp prend alors l'embedding des tokens.
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


class _Tensors:
    """Les tenseurs à écrire, refaits à chaque parcours : un seul occupe la mémoire à la fois."""

    def __init__(
        self, model: GPTModel, *, tokens: int, positions: int, body: str, head: str
    ) -> None:
        self._model = model
        self._rows = {
            "token_embd.weight": tokens,
            "output.weight": tokens,
            "position_embd.weight": positions,
        }
        self._body, self._head = body, head

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in gguf_tensors(self._model):
            yield name, tensor[: self._rows.get(name)]

    def kind(self, name: str) -> Any:
        """Le `GGMLQuantizationType` d'un tenseur."""
        kinds = _library().GGMLQuantizationType
        if name == "position_embd.weight" or "norm" in name or name.endswith(".bias"):
            return kinds.F32
        tied = self._model.cfg.tie_weights
        head = "token_embd.weight" if tied else "output.weight"
        return kinds[self._head if name == head else self._body]


def _write_tensors(writer: Any, tensors: _Tensors, quantize: Quantizer) -> None:
    """Annonce tous les tenseurs, puis les écrit."""
    byte_shape = _library().quants.quant_shape_to_byte_shape
    for name, tensor in tensors:
        shape, kind = tuple(tensor.shape), tensors.kind(name)
        size = prod(byte_shape(shape, kind))
        writer.add_tensor_info(name, shape, np.dtype("f4"), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors:
        array, kind = tensor.to("cpu", torch.float32).contiguous().numpy(), tensors.kind(name)
        writer.write_tensor_data(array if kind.name == "F32" else quantize(array, kind))


def _add_provenance(writer: Any, metadata: Mapping[str, Any], default_name: str) -> None:
    """Ce que le fichier dit de lui-même."""
    texts = {key: value for key, value in metadata.items() if isinstance(value, str) and value}
    writer.add_type("model")
    writer.add_name(texts.get("name", default_name))
    if "license" in texts:
        writer.add_license(texts["license"])
    if "source" in texts:
        writer.add_source_url(texts["source"])
    if "chat_template" in texts:
        writer.add_chat_template(texts["chat_template"])


def _add_shape(writer: Any, model: GPTModel, window: int) -> None:
    cfg = model.cfg
    writer.add_context_length(window)
    writer.add_embedding_length(cfg.emb_dim)
    writer.add_feed_forward_length(cfg.inner_width)
    writer.add_block_count(cfg.n_layers)
    writer.add_head_count(cfg.n_heads)
    writer.add_layer_norm_eps(model.final_norm.eps)


def _add_vocabulary(writer: Any, vocabulary: GGUFVocabulary) -> None:
    kinds, count = _library().TokenType, len(vocabulary.tokens)
    writer.add_vocab_size(count)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(
        [kinds.CONTROL if each in vocabulary.special else kinds.NORMAL for each in range(count)]
    )
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.start is not None:
        writer.add_bos_token_id(vocabulary.start)
    if vocabulary.end is not None:
        writer.add_eos_token_id(vocabulary.end)
    writer.add_add_bos_token(False)  # notre génération n'ajoute rien à l'invite
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _check(tensor: Tensor, kind: Any) -> None:
    """Refuse ce qui ne se groupe pas, ou que 16 bits ne savent pas écrire."""
    group, _ = _library().GGML_QUANT_SIZES[kind]
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


def _library() -> Any:
    try:
        import gguf  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("gguf", purpose="écrire un fichier de llama.cpp") from None
    return gguf


def gguf_vocabulary(tokenizer: Tokenizer) -> GGUFVocabulary:
    """Le vocabulaire d'un tokenizer.

    Raises:
        TokenizerError: ce tokenizer n'est pas un BPE par octets, ou llama.cpp n'a pas son motif
            de découpage.
    """
    if not isinstance(tokenizer, (GPT2Tokenizer, BPETokenizer)):
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas d'équivalent en GGUF",
            expected="un BPE par octets : gpt2, ou le vôtre (bpe-N)",
            remedy="exportez en ONNX, ou entraînez un autre modèle avec le tokenizer gpt2 ou "
            "bpe-4096",
        )
    document = tokenizer_json(tokenizer)
    special = {each["id"]: each["content"] for each in document["added_tokens"]}
    tokens = {index: token for token, index in document["model"]["vocab"].items()} | special
    return GGUFVocabulary(
        tokens=[tokens[index] for index in range(len(tokens))],
        special=frozenset(special),
        merges=list(document["model"]["merges"]),
        pre=_pre_tokenizer(tokenizer),
        start=role_ids(tokenizer).get("bos_token"),
        end=tokenizer.eos_id,
    )


def _pre_tokenizer(tokenizer: GPT2Tokenizer | BPETokenizer) -> str:
    """Le nom que llama.cpp donne au découpage de ce tokenizer."""
    pattern: PatternName = "gpt2" if isinstance(tokenizer, GPT2Tokenizer) else tokenizer.pattern
    name = PRE_TOKENIZERS.get(pattern)
    if name is None:
        raise TokenizerError(
            f"llama.cpp n'a pas le motif de découpage {pattern}",
            expected=", ".join(PRE_TOKENIZERS),
            remedy="refaites le vocabulaire avec l'un d'eux, ou exportez en ONNX",
        )
    return name
