"""Ce qu'un fichier GGUF écrit d'un GPT-2, et comment : noms, découpages, type de chaque tenseur.

Une recette dit le type de chaque matrice. Ce sont celles de llama.cpp (`src/llama-quant.cpp`, sans
matrice d'importance) : en q4_K_M et q5_K_M, la moitié des projections q, k et v et des
`ffn_down`, celles des premiers et des derniers blocs et une sur trois des autres, ont plus de
bits ; la tête en a six ou huit. Une ligne que des blocs de 256 ne divisent pas en prend de 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizers.gpt2 import PatternName
from gpt_architecture.errors import MissingDependencyError

GGUFType = Literal["f32", "f16", "q8_0", "q4_0", "q4_K_M", "q5_K_M", "q6_K"]
"""Type des matrices ; positions, normes et biais restent en fp32, comme chez llama.cpp."""

PRE_TOKENIZERS: dict[PatternName, str] = {"gpt2": "gpt-2", "moderne": "dbrx"}
"""Motif de découpage → nom que llama.cpp lui donne.

« llama-bpe » a le motif de « dbrx », mais ajoute un token de début et passe outre les fusions.
"""

SIZES = {
    "context_length": "gpt2.context_length",
    "emb_dim": "gpt2.embedding_length",
    "n_heads": "gpt2.attention.head_count",
    "n_layers": "gpt2.block_count",
    "inner_dim": "gpt2.feed_forward_length",
}
"""Tailles d'ici → clés d'un fichier GGUF."""

EPSILON = "gpt2.attention.layer_norm_epsilon"
EMBEDDING, POSITIONS, HEAD = "token_embd.weight", "position_embd.weight", "output.weight"

OUTER_NAMES = {
    "tok_emb.weight": EMBEDDING,
    "pos_emb.weight": POSITIONS,
    "final_norm.scale": "output_norm.weight",
    "final_norm.shift": "output_norm.bias",
}
"""Nos noms hors des blocs → ceux de GGUF."""

BLOCK_NAMES = {
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
"""Nos noms dans un bloc → ceux de GGUF, qui réunit q, k et v dans `attn_qkv`."""

QKV = tuple(f"att.W_{part}" for part in ("query", "key", "value"))

_K_BLOCK = 256
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Ce que devient un type à blocs de 256 sur une ligne qu'ils ne divisent pas."""

_FINER = ("attn_qkv.weight", "ffn_down.weight")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Le type GGML de chaque matrice.

    Attributes:
        body: celui des matrices.
        head: celui de la tête ; c'est aussi celui de l'embedding des tokens quand il en sert.
        finer: celui des projections et des `ffn_down` qui ont plus de bits ; None : aucune.
        file_type: nom du fichier dans `gguf.LlamaFileType` ; None : il n'en a pas.
    """

    body: str
    head: str
    finer: str | None = None
    file_type: str | None = None

    def kind(self, name: str, width: int, config: GPTConfig) -> str:
        """Le type du tenseur `name`, dont une ligne a `width` valeurs."""
        if name == POSITIONS or "norm" in name or name.endswith(".bias"):
            return "F32"
        kind = self.body
        if name == (EMBEDDING if config.tie_weights else HEAD):
            kind = self.head
        elif self.finer is not None and name.endswith(_FINER):
            layer = int(name.split(".")[1])
            kind = self.finer if _needs_more_bits(layer, config.n_layers) else kind
        return _NARROW.get(kind, kind) if width % _K_BLOCK else kind


RECIPES: dict[GGUFType, Recipe] = {
    "f32": Recipe(body="F32", head="F32", file_type="ALL_F32"),
    "f16": Recipe(body="F16", head="F16", file_type="MOSTLY_F16"),
    "q8_0": Recipe(body="Q8_0", head="Q8_0", file_type="MOSTLY_Q8_0"),
    "q4_0": Recipe(body="Q4_0", head="Q6_K", file_type="MOSTLY_Q4_0"),
    "q4_K_M": Recipe(body="Q4_K", head="Q6_K", finer="Q6_K", file_type="MOSTLY_Q4_K_M"),
    "q5_K_M": Recipe(body="Q5_K", head="Q6_K", finer="Q6_K", file_type="MOSTLY_Q5_K_M"),
    "q6_K": Recipe(body="Q6_K", head="Q6_K", file_type="MOSTLY_Q6_K"),
}


def _needs_more_bits(layer: int, n_layers: int) -> bool:
    """Le premier huitième des blocs, le dernier, et un bloc sur trois entre les deux."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def gguf_library(purpose: Literal["lire", "écrire"]) -> Any:
    """Le paquet gguf.

    Raises:
        MissingDependencyError: il manque.
    """
    try:
        import gguf  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("gguf", purpose=f"{purpose} un fichier de llama.cpp") from None
    return gguf
