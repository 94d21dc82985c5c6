"""Les quantificateurs de llama.cpp même, par xllamacpp : l'oracle des nôtres."""

import ctypes

import numpy as np
import pytest


def ggml_quantize(matrix, kind):
    """Les octets (N, …) d'une matrice (N, D) fp32, par `ggml_quantize_chunk`."""
    gguf = pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) n'est pas installé")
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    rows, width = matrix.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = np.empty((rows, width // block * size), dtype=np.uint8)
    quantize = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    given = (int(kind), matrix.ctypes.data, packed.ctypes.data, 0, rows, width, None)
    assert quantize(*given) == packed.size
    return packed


def spread(rows, width, *, seed=1):
    """Une matrice fp32 de valeurs entre −1 et 1, la même sur toute machine."""
    index = np.arange(rows * width, dtype=np.uint64) + np.uint64(seed * 7919)
    mixed = (index * np.uint64(2654435761)) % np.uint64(1 << 32)
    mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(1274126177) % np.uint64(1 << 32)
    values = mixed.astype(np.int64) - (1 << 31)
    return (values >> 8).astype(np.float32).reshape(rows, width) / np.float32(1 << 23)
