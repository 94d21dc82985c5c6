"""ONNX, que lisent onnxruntime et ses semblables, sans PyTorch : l'écrire, et dire ce qu'il tient.

Le graphe est celui d'`onnx_graph`. Les poids y portent nos noms ; une tête de sortie liée n'est
écrite qu'une fois.

Formes : B lot, T tokens, P tokens passés, S = P + T, H têtes, K taille d'une tête, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import MissingDependencyError, OutputError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import TensorInfo, refusals
from gpt_architecture.interop.onnx_graph import GraphBuilder, build_nodes
from gpt_architecture.interop.onnx_int8 import IntegerGraphBuilder, integer_weights
from gpt_architecture.storage import open_regular, read_at_most, write_atomically

INLINE_LIMIT = 2_000_000_000
"""Octets de poids que le fichier .onnx porte lui-même : Protobuf s'arrête à 2 Gio."""

OPSET = 20
"""La première version qui a l'opérateur Gelu ; LayerNormalization est de la 17."""
_IR_VERSION = 9  # celle d'ONNX 1.15, la première à avoir l'opset 20
_MAX_BYTES = 1 << 31  # d'un fichier lu : Protobuf s'arrête là, et les poids y sont
_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"  # ceux qui peuvent suivre la version de l'IR
_PAGE = 4096  # un poids à part commence sur une page, pour être projeté en mémoire


def export_onnx(
    content: ModelFile,
    dest: Path | str,
    *,
    cache: bool = False,
    quant: Literal["int8"] | None = None,
    inline_limit: int = INLINE_LIMIT,
    beside: str = ".data",
) -> None:
    """Écrit `dest` : `input_ids` (B, T) int64 → `logits` (B, T, V) fp32, B et T libres.

    Args:
        content: le modèle et ses métadonnées.
        dest: fichier à écrire ; son dossier est créé au besoin.
        cache: ajoute ce que Transformers et optimum donnent à un modèle qui génère : les
            entrées `attention_mask` (B, S) et `position_ids` (B, T) int64,
            `past_key_values.N.{key,value}` (B, H, P, K), P ≥ 0, et les sorties
            `present.N.{key,value}` (B, H, S, K).
        quant: quantifie les matrices ; voir `onnx_int8`.
        inline_limit: au-delà de tant d'octets, les poids vont dans un second fichier.
        beside: ce que le nom du second ajoute à celui du premier.

    Raises:
        ModelFileError: les poids ne conviennent pas.
        MissingDependencyError: le paquet onnx manque.
        OutputError: le disque refuse l'écriture.
    """
    library = _library("écrire")
    check_vocabulary(content.config, content.tokenizer)
    dest = Path(dest)
    weights = {
        name: tensor.detach()
        for name, tensor in content.build().named_parameters()  # liée, la tête n'y est qu'une fois
    }
    weights = weights if quant is None else integer_weights(weights)
    shapes = {name: tuple(each.shape) for name, each in weights.items()}
    builder = GraphBuilder if quant is None else IntegerGraphBuilder
    graph = builder(library, content.config, shapes)
    build_nodes(graph, content.config, cache=cache)
    outside = dest.with_name(f"{dest.name}{beside}")
    size = sum(map(_size, weights.values()))
    if size <= inline_limit:
        initializers = [
            _initializer(library, name, tensor, raw_data=_bytes(tensor))
            for name, tensor in weights.items()
        ]
        model = _model(library, graph, content, initializers, cache=cache)
        replaces = dest.exists()
        write_atomically(dest, lambda path: path.write_bytes(model.SerializeToString()))
        if replaces:  # ceux d'un export précédent ; sinon ce fichier n'est pas à nous
            outside.unlink(missing_ok=True)
        return
    places = _places(weights)
    initializers = [
        _initializer(library, name, tensor, **_place(library, outside.name, places[name], tensor))
        for name, tensor in weights.items()
    ]
    model = _model(library, graph, content, initializers, cache=cache)
    write_atomically(outside, lambda path: _write_weights(path, weights, places))
    try:
        write_atomically(dest, lambda path: path.write_bytes(model.SerializeToString()))
    except OutputError:
        outside.unlink(missing_ok=True)
        raise


def _model(
    library: Any, graph: GraphBuilder, content: ModelFile, weights: list[Any], *, cache: bool
) -> Any:
    """Le `ModelProto` : nœuds, poids, entrées, sorties, provenance."""
    inputs, outputs = _signature(library, content.config, cache=cache)
    proto = library.helper.make_graph(
        graph.nodes, "gpt2", inputs, outputs, initializer=[*graph.constants, *weights]
    )
    model = library.helper.make_model(
        proto,
        opset_imports=[library.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="gpt-architecture",
    )
    library.helper.set_model_props(model, _provenance(content))
    return model


def _signature(library: Any, cfg: GPTConfig, *, cache: bool) -> tuple[list[Any], list[Any]]:
    """Les entrées et les sorties, leurs types et leurs dimensions libres."""
    describe, kinds = library.helper.make_tensor_value_info, library.TensorProto
    inputs = [describe("input_ids", kinds.INT64, ["batch", "time"])]
    if cache:
        inputs.append(describe("attention_mask", kinds.INT64, ["batch", "total"]))
        inputs.append(describe("position_ids", kinds.INT64, ["batch", "time"]))
    outputs = [describe("logits", kinds.FLOAT, ["batch", "time", cfg.vocab_size])]
    for layer in range(cfg.n_layers if cache else 0):
        for part in ("key", "value"):
            for side, prefix, length in (
                (inputs, "past_key_values", "past"),
                (outputs, "present", "total"),
            ):
                shape = ["batch", cfg.n_heads, length, cfg.head_dim]
                side.append(describe(f"{prefix}.{layer}.{part}", kinds.FLOAT, shape))
    return inputs, outputs


def _provenance(content: ModelFile) -> dict[str, str]:
    """Ce que le fichier dit de lui-même, en textes."""
    metadata = content.metadata
    known = {
        key: str(metadata[key])
        for key in ("name", "license", "source", "window")
        if metadata.get(key)
    }
    return {
        "tokenizer": str(content.tokenizer.get("name", "")),
        "context_length": str(content.config.context_length),
        **known,
    }


def _initializer(library: Any, name: str, tensor: Tensor, **values: Any) -> Any:
    """Un poids, dont `values` donne les octets, ou la place dans le fichier voisin."""
    kinds = library.TensorProto
    kind = kinds.UINT8 if tensor.dtype is torch.uint8 else kinds.FLOAT
    return library.TensorProto(name=name, data_type=kind, dims=tensor.shape, **values)


def _place(library: Any, location: str, offset: int, tensor: Tensor) -> dict[str, Any]:
    where = {"location": location, "offset": str(offset), "length": str(_size(tensor))}
    entries = [library.StringStringEntryProto(key=key, value=value) for key, value in where.items()]
    return {"data_location": library.TensorProto.EXTERNAL, "external_data": entries}


def _places(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Où commence chaque poids dans le fichier à part."""
    places, end = {}, 0
    for name, tensor in weights.items():
        places[name] = end
        end = -(-(end + _size(tensor)) // _PAGE) * _PAGE
    return places


def _write_weights(path: Path, weights: Mapping[str, Tensor], places: Mapping[str, int]) -> None:
    with path.open("wb") as file:
        for name, tensor in weights.items():
            file.seek(places[name])
            file.write(_bytes(tensor))


def _size(tensor: Tensor) -> int:
    """Les octets qu'il occupe une fois écrit."""
    return tensor.numel() * (1 if tensor.dtype is torch.uint8 else 4)


def _bytes(tensor: Tensor) -> bytes:
    """Les octets du tenseur, en fp32 ou en codes, petit-boutistes comme ONNX les veut."""
    if tensor.dtype is torch.uint8:
        return tensor.numpy().tobytes()
    data: bytes = tensor.to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes()
    return data


def _library(purpose: Literal["lire", "écrire"]) -> Any:
    try:
        import onnx  # noqa: PLC0415 — facultatif
        import onnx.helper  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError("onnx", purpose=f"{purpose} un fichier ONNX") from None
    return onnx


class ONNXFormat(ModelFormat):
    """Un fichier ONNX."""

    kind, name = "onnx", "fichier ONNX"
    has_header = False  # la forme est éparse entre les poids

    def recognises(self, model: OpenedModel) -> bool:
        """Protobuf : la version de l'IR vient d'abord, puis un autre champ de ModelProto."""
        head = model.head
        return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in _FIELDS

    def facts(self, model: OpenedModel) -> Facts:
        """Les entrées, les sorties, l'opset et les poids."""
        onnx = _library("lire")
        with (
            open_regular(model.path) as file,
            refusals(model.path, "en-tête abîmé ou démesuré", "un fichier ONNX complet"),
        ):
            data = read_at_most(file, _MAX_BYTES)
            if len(data) > _MAX_BYTES:
                raise ValueError(f"plus de {_MAX_BYTES >> 30} Gio")
            proto = onnx.load_model_from_string(data)
            graph, kinds = proto.graph, onnx.TensorProto.DataType
            told = {each.key: each.value for each in proto.metadata_props}
            known = told.pop("tokenizer", "")
            weights = {each.name for each in graph.initializer}
            return Facts(
                tensors=tuple(
                    TensorInfo(
                        name=each.name, shape=tuple(each.dims), dtype=kinds.Name(each.data_type)
                    )
                    for each in graph.initializer
                    if each.dims and each.data_type != kinds.INT64  # le reste sert au calcul
                ),
                tokenizer=lambda: {
                    "problem": f"son nom seul est écrit : {known}" if known else "il n'en dit rien"
                },
                provenance={
                    "producer": proto.producer_name,
                    "opset": ", ".join(
                        f"{each.domain or 'ai.onnx'} {each.version}" for each in proto.opset_import
                    ),
                    "inputs": _described(kinds, [e for e in graph.input if e.name not in weights]),
                    "outputs": _described(kinds, graph.output),
                    **told,
                },
            )

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Il n'a pas de sommes de contrôle."""
        return None


def _described(kinds: Any, values: Any) -> str:
    """« input_ids (batch, time) INT64, … »."""
    described = []
    for each in values:
        tensor = each.type.tensor_type
        sizes = [d.dim_param or str(d.dim_value) for d in tensor.shape.dim]
        described.append(f"{each.name} ({', '.join(sizes)}) {kinds.Name(tensor.elem_type)}")
    return ", ".join(described)
