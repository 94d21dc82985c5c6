"""Écrit un GPTModel en GGUF, pour que llama.cpp calcule avec les mêmes poids.

Ne sert qu'aux bancs : les invites y sont données en identifiants, si bien que le fichier
porte le vocabulaire mais une seule fusion, sans usage.
"""

from __future__ import annotations

import base64
import ctypes
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.core.model import GPTModel

GGUF_SCHEMES = {
    "f32": ("F32", "F32"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_0": ("Q4_0", "Q6_K"),
    "q4_0 pur": ("Q4_0", "Q4_0"),
}
"""Formats du corps et de la tête ; « q4_0 » est celui que llama.cpp publie, tête sur 6 bits."""


def block_tensors(block: nn.Module) -> dict[str, Tensor]:
    """Les tenseurs d'un bloc, projections q, k, v réunies ; les biais absents valent zéro."""
    state: dict[str, Tensor] = block.state_dict()
    zeros = torch.zeros_like(state["att.out_proj.bias"])
    projections = ("att.W_query", "att.W_key", "att.W_value")
    return {
        "norm1.weight": state["norm1.scale"],
        "norm1.bias": state["norm1.shift"],
        "qkv.weight": torch.cat([state[f"{each}.weight"] for each in projections]),  # (3·D, D)
        "qkv.bias": torch.cat([state.get(f"{each}.bias", zeros) for each in projections]),
        "out.weight": state["att.out_proj.weight"],
        "out.bias": state["att.out_proj.bias"],
        "norm2.weight": state["norm2.scale"],
        "norm2.bias": state["norm2.shift"],
        "up.weight": state["ff.layers.0.weight"],
        "up.bias": state["ff.layers.0.bias"],
        "down.weight": state["ff.layers.2.weight"],
        "down.bias": state["ff.layers.2.bias"],
    }


GGUF_NAMES = {
    "norm1": "attn_norm",
    "qkv": "attn_qkv",
    "out": "attn_output",
    "norm2": "ffn_norm",
    "up": "ffn_up",
    "down": "ffn_down",
}


def gguf_tensors(model: GPTModel) -> dict[str, Tensor]:
    """Tous les tenseurs, sous leurs noms GGUF."""
    tensors = {
        "token_embd.weight": model.tok_emb.weight,
        "position_embd.weight": model.pos_emb.weight,
        "output_norm.weight": model.final_norm.scale,
        "output_norm.bias": model.final_norm.shift,
        "output.weight": model.out_head.weight,
    }
    for index, block in enumerate(model.trf_blocks):
        for name, tensor in block_tensors(block).items():
            kind, _, part = name.partition(".")
            tensors[f"blk.{index}.{GGUF_NAMES[kind]}.{part}"] = tensor
    return tensors


def write_gguf(model: GPTModel, path: Path, scheme: str) -> None:
    """Écrit `path` au format donné par `GGUF_SCHEMES` ; positions, normes et biais restent fp32.

    Raises:
        ImportError: gguf ou xllamacpp n'est pas installé.
    """
    import gguf

    cfg = model.cfg
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(cfg.context_length)
    writer.add_embedding_length(cfg.emb_dim)
    writer.add_feed_forward_length(4 * cfg.emb_dim)
    writer.add_block_count(cfg.n_layers)
    writer.add_head_count(cfg.n_heads)
    writer.add_layer_norm_eps(1e-5)
    _add_vocabulary(writer, cfg.vocab_size)
    body, head = GGUF_SCHEMES[scheme]
    for name, tensor in gguf_tensors(model).items():
        data = tensor.detach().contiguous()
        kind = gguf.GGMLQuantizationType[head if name == "output.weight" else body]
        if data.dim() == 1 or name == "position_embd.weight" or kind.name == "F32":
            writer.add_tensor(name, data.numpy())
        else:
            writer.add_tensor(name, _quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantize(weight: Tensor, kind: Any) -> Any:
    """Les octets (N, …) d'une matrice (N, D) fp32, par le quantificateur de llama.cpp même."""
    import gguf
    import xllamacpp

    rows, width = weight.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = torch.empty(rows, width // block * size, dtype=torch.uint8)
    quantize = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    written = quantize(kind, weight.data_ptr(), packed.data_ptr(), 0, rows, width, None)
    assert written == packed.numel()
    return packed.numpy()


def _add_vocabulary(writer: object, size: int) -> None:
    """Le vocabulaire de GPT-2, chaque octet écrit par son caractère."""
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    ranks = resources.files("gpt_architecture.data").joinpath("assets/gpt2.tiktoken").read_text()
    letters = _byte_letters()
    tokens = [
        "".join(letters[byte] for byte in base64.b64decode(line.split()[0]))
        for line in ranks.splitlines()[: size - 1]
    ]
    kinds = [gguf.TokenType.NORMAL] * (size - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, "<|endoftext|>"])
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(size - 1)
    writer.add_eos_token_id(size - 1)


def _byte_letters() -> dict[int, str]:
    """L'alphabet des BPE par octets (Radford et al., 2019) : un caractère visible par octet."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    return letters | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}
