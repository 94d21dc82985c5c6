"""Le graphe ONNX d'un GPT-2, construit nœud par nœud, en opérateurs standard.

Rien n'est tracé ni exécuté. Le graphe accepte tout lot et toute longueur jusqu'au contexte du
modèle. Le flux résiduel y est une matrice (N, D), N = B·T : chaque couche linéaire est un `Gemm`
sur le poids tel qu'il est rangé.

Formes : B lot, T tokens, P tokens passés, S = P + T, D largeur, F largeur du perceptron, H têtes,
K taille d'une tête, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_architecture.config import GPTConfig

_LOWEST = -3.4028234663852886e38  # en fp32


class GraphBuilder:
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

    def cast(self, x: str, kind: str, *, to: str) -> str:
        """Convertit x en un autre type, nommé comme dans `TensorProto` ; `to` y est un attribut."""
        helper, kinds = self._library.helper, self._library.TensorProto
        self.nodes.append(helper.make_node("Cast", [x], [to], name=to, to=getattr(kinds, kind)))
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

    def embed(self, ids: str, module: str, *, to: str) -> str:
        """Identifiants (B, T) → les lignes (B, T, D) du poids de `module`."""
        return self.add("Gather", f"{module}.weight", ids, to=to)

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


def build_nodes(graph: GraphBuilder, cfg: GPTConfig, *, cache: bool) -> None:
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

    tokens = graph.embed("input_ids", "tok_emb", to="token_rows")  # (B, T, D)
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


def _causal_bias(graph: GraphBuilder, positions: str, total: str, *, masked: bool) -> str:
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
    graph: GraphBuilder, x: str, layer: int, *, split: str, flat: str, bias: str, cache: bool
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


def _feed_forward(graph: GraphBuilder, x: str, layer: int) -> str:
    """Perceptron : x (N, D) → (N, D)."""
    name = f"trf_blocks.{layer}"
    normed = graph.normalize(x, f"{name}.norm2", to=f"{name}.normed2")
    wide = graph.linear(normed, f"{name}.ff.layers.0", to=f"{name}.wide")
    active = graph.activate(wide, to=f"{name}.active")
    return graph.linear(active, f"{name}.ff.layers.2", to=f"{name}.feed_forward")
