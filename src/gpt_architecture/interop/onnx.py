"""ONNX, que lisent onnxruntime et ses semblables, sans PyTorch : l'écrire, et dire ce qu'il tient.

Rien n'est tracé : le graphe se construit nœud par nœud, sans exécuter le modèle, en opérateurs
standard. Il accepte tout lot et toute longueur jusqu'au contexte du modèle. Les poids y portent nos
noms ; une tête de sortie liée n'est écrite qu'une fois. Le flux résiduel y est une matrice (N, D),
N = B·T : chaque couche linéaire est un `Gemm` sur le poids tel qu'il est rangé.

Formes : B lot, T tokens, P tokens passés, S = P + T, D largeur, H têtes, K taille d'une tête,
V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import MissingDependencyError, OutputError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import TensorInfo, refusals
from gpt_architecture.storage import open_regular, read_at_most, write_atomically

INLINE_LIMIT = 2_000_000_000
"""Octets de poids que le fichier .onnx porte lui-même : Protobuf s'arrête à 2 Gio."""

OPSET = 20
"""La première version qui a l'opérateur Gelu ; LayerNormalization est de la 17."""
_LOWEST = -3.4028234663852886e38  # en fp32
_IR_VERSION = 9  # celle d'ONNX 1.15, la première à avoir l'opset 20
_MAX_BYTES = 1 << 31  # d'un fichier lu : Protobuf s'arrête là, et les poids y sont
_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"  # ceux qui peuvent suivre la version de l'IR
_PAGE = 4096  # un poids à part commence sur une page, pour être projeté en mémoire


def export_onnx(
    content: ModelFile, dest: Path | str, *, cache: bool = False, inline_limit: int = INLINE_LIMIT
) -> None:
    """Écrit `dest` : `input_ids` (B, T) int64 → `logits` (B, T, V) fp32, B et T libres.

    Args:
        content: le modèle et ses métadonnées.
        dest: fichier à écrire ; son dossier est créé au besoin.
        cache: ajoute ce que Transformers et optimum donnent à un modèle qui génère : les
            entrées `attention_mask` (B, S) et `position_ids` (B, T) int64,
            `past_key_values.N.{key,value}` (B, H, P, K), P ≥ 0, et les sorties
            `present.N.{key,value}` (B, H, S, K).
        inline_limit: au-delà de tant d'octets, les poids vont dans `dest` suivi de « .data ».

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
    shapes = {name: tuple(each.shape) for name, each in weights.items()}
    graph = _GraphBuilder(library, content.config, shapes)
    _build_nodes(graph, content.config, cache=cache)
    outside = dest.with_name(f"{dest.name}.data")
    size = 4 * sum(tensor.numel() for tensor in weights.values())
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
    library: Any, graph: _GraphBuilder, content: ModelFile, weights: list[Any], *, cache: bool
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
    kind = library.TensorProto.FLOAT
    return library.TensorProto(name=name, data_type=kind, dims=tensor.shape, **values)


def _place(library: Any, location: str, offset: int, tensor: Tensor) -> dict[str, Any]:
    where = {"location": location, "offset": str(offset), "length": str(4 * tensor.numel())}
    entries = [library.StringStringEntryProto(key=key, value=value) for key, value in where.items()]
    return {"data_location": library.TensorProto.EXTERNAL, "external_data": entries}


def _places(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Où commence chaque poids dans le fichier à part."""
    places, end = {}, 0
    for name, tensor in weights.items():
        places[name] = end
        end = -(-(end + 4 * tensor.numel()) // _PAGE) * _PAGE
    return places


def _write_weights(path: Path, weights: Mapping[str, Tensor], places: Mapping[str, int]) -> None:
    with path.open("wb") as file:
        for name, tensor in weights.items():
            file.seek(places[name])
            file.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    """Les octets fp32 du tenseur, petit-boutistes comme ONNX les veut."""
    data: bytes = tensor.to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes()
    return data


def _library(purpose: Literal["lire", "écrire"]) -> Any:
    try:
        import onnx  # noqa: PLC0415 — facultatif
        import onnx.helper  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError("onnx", purpose=f"{purpose} un fichier ONNX") from None
    return onnx


class _GraphBuilder:
    """Les nœuds d'un graphe, dans l'ordre du calcul ; chaque méthode rend un nom de tenseur.

    Args:
        library: le module onnx.
        cfg: forme du modèle.
        weights: forme de chaque poids, par nom ; les biais absents n'y sont pas.
    """

    def __init__(self, library: Any, cfg: GPTConfig, weights: Mapping[str, Sequence[int]]) -> None:
        self._library, self._cfg, self._weights = library, cfg, weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, to: str, **attributes: Any) -> str:
        """Ajoute un nœud ; sa sortie s'appelle `to`."""
        node = self._library.helper.make_node(operator, inputs, [to], name=to, **attributes)
        self.nodes.append(node)
        return to

    def constant(self, name: str, values: Sequence[float] | float, *, integer: bool = True) -> str:
        """Un petit tenseur fixe, int64 ou fp32, écrit dans le graphe."""
        proto = self._library.TensorProto
        kind = proto.INT64 if integer else proto.FLOAT
        shape, flat = ([len(values)], values) if isinstance(values, Sequence) else ([], [values])
        self.constants.append(self._library.helper.make_tensor(name, kind, shape, flat))
        return name

    def linear(self, x: str, module: str, *, to: str) -> str:
        """x (N, entrée) → (N, sortie) par le poids (sortie, entrée) de `module`, et son biais."""
        bias = [f"{module}.bias"] if f"{module}.bias" in self._weights else []
        return self.add("Gemm", x, f"{module}.weight", *bias, to=to, transB=1)

    def normalize(self, x: str, module: str, *, to: str) -> str:
        """x (N, D) → (N, D)."""
        names = (f"{module}.scale", f"{module}.shift")
        epsilon = self._cfg.norm_eps
        return self.add("LayerNormalization", x, *names, to=to, axis=-1, epsilon=epsilon)

    def activate(self, x: str, *, to: str) -> str:
        """x (N, F) → (N, F)."""
        if self._cfg.activation == "relu":
            return self.add("Relu", x, to=to)
        approximate = "tanh" if self._cfg.activation == "gelu_tanh" else "none"
        return self.add("Gelu", x, to=to, approximate=approximate)


def _build_nodes(graph: _GraphBuilder, cfg: GPTConfig, *, cache: bool) -> None:
    """Ajoute à `graph` le calcul de `input_ids` (B, T) à `logits` (B, T, V).

    Args:
        cache: `past_key_values.N.{key,value}` (B, H, P, K) entrent, et `present.N.{key,value}`
            (B, H, S, K) sortent : les T tokens sont la suite des P déjà lus. `attention_mask`
            (B, S) dit lesquels comptent, et `position_ids` (B, T) où ils sont.
    """
    zero, one = graph.constant("zero", 0), graph.constant("one", 1)
    sizes = graph.add("Shape", "input_ids", to="sizes")  # [B, T]
    queries = graph.add("Gather", sizes, one, to="queries")
    past = zero
    if cache:
        index = graph.constant("position_axis", 2)
        shape = graph.add("Shape", "past_key_values.0.key", to="past_shape")
        past = graph.add("Gather", shape, index, to="past")
    total = graph.add("Add", past, queries, to="total")
    rows = graph.add("Range", past, total, one, to="positions")  # (T,)
    positions = "position_ids" if cache else rows

    tokens = graph.add("Gather", "tok_emb.weight", "input_ids", to="token_rows")  # (B, T, D)
    places = graph.add("Gather", "pos_emb.weight", positions, to="position_rows")  # (T, D)
    embedded = graph.add("Add", tokens, places, to="embeddings")
    flat = graph.constant("flat", [-1, cfg.emb_dim])
    x = graph.add("Reshape", embedded, flat, to="block_input.0")  # (N, D)

    bias = _causal_bias(graph, rows, total, masked=cache)
    tail = graph.constant("heads", [cfg.n_heads, cfg.head_dim])
    split = graph.add("Concat", sizes, tail, to="split_shape", axis=0)  # [B, T, H, K]
    graph.constant("scale", 1 / math.sqrt(cfg.head_dim), integer=False)
    for layer in range(cfg.n_layers):
        attended = _attention(graph, x, layer, split=split, flat=flat, bias=bias, cache=cache)
        x = graph.add("Add", x, attended, to=f"attended.{layer}")
        x = graph.add("Add", x, _feed_forward(graph, x, layer), to=f"block_input.{layer + 1}")

    x = graph.normalize(x, "final_norm", to="normalized")
    head = "tok_emb" if cfg.tie_weights else "out_head"
    scores = graph.linear(x, head, to="flat_logits")  # (N, V)
    width = graph.constant("vocabulary", [cfg.vocab_size])
    shape = graph.add("Concat", sizes, width, to="logits_shape", axis=0)
    graph.add("Reshape", scores, shape, to="logits")


def _causal_bias(graph: _GraphBuilder, positions: str, total: str, *, masked: bool) -> str:
    """(T, S), ou (B, 1, T, S) : 0 là où une clé est vue ; le même pour toutes les couches.

    Ailleurs, le plus petit des nombres : avec −∞, la ligne d'un token de remplissage, qui ne voit
    rien, serait NaN, et le cache avec elle.
    """
    keys = graph.add("Range", "zero", total, "one", to="keys")  # (S,)
    column = graph.constant("column", [1])
    rows = graph.add("Unsqueeze", positions, column, to="position_column")  # (T, 1)
    visible = graph.add("GreaterOrEqual", rows, keys, to="visible")
    if masked:
        axes = graph.constant("mask_axes", [1, 2])
        mask = graph.add("Unsqueeze", "attention_mask", axes, to="wide_mask")  # (B, 1, 1, S)
        known = graph.add("Greater", mask, "zero", to="known")
        visible = graph.add("And", visible, known, to="visible_and_known")  # (B, 1, T, S)
    seen = graph.constant("seen", 0.0, integer=False)
    hidden = graph.constant("hidden", _LOWEST, integer=False)
    return graph.add("Where", visible, seen, hidden, to="causal_bias")


def _attention(
    graph: _GraphBuilder, x: str, layer: int, *, split: str, flat: str, bias: str, cache: bool
) -> str:
    """Attention causale : x (N, D) → (N, D)."""
    name = f"trf_blocks.{layer}"
    normed = graph.normalize(x, f"{name}.norm1", to=f"{name}.normed1")
    parts = {}
    for part in ("query", "key", "value"):
        rows = graph.linear(normed, f"{name}.att.W_{part}", to=f"{name}.{part}_rows")
        heads = graph.add("Reshape", rows, split, to=f"{name}.{part}_heads")  # (B, T, H, K)
        new = graph.add("Transpose", heads, to=f"{name}.{part}", perm=[0, 2, 1, 3])  # (B, H, T, K)
        if cache and part != "query":
            before, to = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            new = graph.add("Concat", before, new, to=to, axis=2)  # (B, H, S, K)
        parts[part] = new
    turned = graph.add("Transpose", parts["key"], to=f"{name}.key_columns", perm=[0, 1, 3, 2])
    products = graph.add("MatMul", parts["query"], turned, to=f"{name}.products")  # (B, H, T, S)
    scores = graph.add("Mul", products, "scale", to=f"{name}.scores")
    masked = graph.add("Add", scores, bias, to=f"{name}.masked")
    weights = graph.add("Softmax", masked, to=f"{name}.weights", axis=-1)
    mixed = graph.add("MatMul", weights, parts["value"], to=f"{name}.mixed")  # (B, H, T, K)
    turned = graph.add("Transpose", mixed, to=f"{name}.joined", perm=[0, 2, 1, 3])
    rows = graph.add("Reshape", turned, flat, to=f"{name}.joined_rows")  # (N, H·K)
    return graph.linear(rows, f"{name}.att.out_proj", to=f"{name}.attention")


def _feed_forward(graph: _GraphBuilder, x: str, layer: int) -> str:
    """Perceptron : x (N, D) → (N, D)."""
    name = f"trf_blocks.{layer}"
    normed = graph.normalize(x, f"{name}.norm2", to=f"{name}.normed2")
    wide = graph.linear(normed, f"{name}.ff.layers.0", to=f"{name}.wide")
    active = graph.activate(wide, to=f"{name}.active")
    return graph.linear(active, f"{name}.ff.layers.2", to=f"{name}.feed_forward")


class ONNXFormat(ModelFormat):
    """Un fichier ONNX."""

    kind, name = "onnx", "fichier ONNX"

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
