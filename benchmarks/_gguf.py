"""Les poids d'un GPTModel en GGUF, aux types que les bancs comparent, dont ceux à quatre bits.

Le quantificateur est celui de llama.cpp même.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import write_gguf

GGUF_SCHEMES = {
    "f32": ("F32", "F32"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_0": ("Q4_0", "Q6_K"),
    "q4_0 pur": ("Q4_0", "Q4_0"),
}
"""Formats du corps et de la tête ; « q4_0 » est celui que llama.cpp publie, tête sur 6 bits."""
_BITS = {"F32": 32.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q4_0": 4.5}
GGUF_BITS = {name: (_BITS[body], _BITS[head]) for name, (body, head) in GGUF_SCHEMES.items()}
"""Bits par poids du corps et de la tête, échelles comprises."""


def write_scheme(model: GPTModel, path: Path, scheme: str) -> None:
    """Écrit `path` au format donné par `GGUF_SCHEMES`.

    Raises:
        ImportError: gguf ou xllamacpp n'est pas installé.
    """
    state = model.state_dict()
    content = ModelFile(config=model.cfg, state_dict=state, tokenizer={"name": "gpt2"})
    body, head = GGUF_SCHEMES[scheme]
    write_gguf(content, path, body=body, head=head, quantize=_quantize)


def _quantize(weight: Any, kind: Any) -> Any:
    """Les octets (N, …) d'une matrice (N, D) fp32."""
    import gguf
    import xllamacpp

    rows, width = weight.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = np.empty((rows, width // block * size), dtype=np.uint8)
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
    written = quantize(kind, weight.ctypes.data, packed.ctypes.data, 0, rows, width, None)
    assert written == packed.size
    return packed
