"""Nos quantificateurs « K » : les octets de llama.cpp, au bit près."""

import hashlib

import numpy as np
import pytest
from ggml_helpers import ggml_quantize, spread

from gpt_architecture.interop import kquants

gguf = pytest.importorskip("gguf", reason="le paquet gguf n'est pas installé")

KINDS = ("Q4_K", "Q5_K", "Q6_K")


def kind_of(name):
    return gguf.GGMLQuantizationType[name]


def sparse(matrix):
    """Un poids sur trente, les autres nuls."""
    return np.where(np.arange(matrix.size).reshape(matrix.shape) % 31 == 0, matrix, 0)


HARD = {
    "ordinaire": lambda x: 0.02 * x,
    "petits poids et quelques grands": lambda x: x**15 * 40,
    "positifs": abs,
    "négatifs": lambda x: -abs(x),
    "presque tous nuls": sparse,
    "nuls": lambda x: 0 * x,
    "constants par groupes": lambda x: np.repeat(x[:, ::32], 32, axis=1),
    "presque constants": lambda x: -1 + x * np.float32(2**-22),
    "sur une grille": lambda x: np.round(4 * x) / 4,
    "d'ordres de grandeur différents": lambda x: x * 10.0 ** -np.arange(0, 2 * len(x), 2)[:, None],
    "jusqu'à 60 000": lambda x: 60_000 * x,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", HARD)
def test_bytes_of_llama_cpp(kind, shape):
    matrix = np.asarray(HARD[shape](spread(24, 512)), dtype=np.float32)
    expected = ggml_quantize(matrix, kind_of(kind))
    np.testing.assert_array_equal(kquants.quantize(matrix, kind_of(kind)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_many_blocks(kind):
    """Plus de blocs qu'il n'en est traité ensemble, le dernier lot incomplet."""
    matrix = 0.02 * spread(700, 768, seed=3) ** 3
    expected = ggml_quantize(matrix, kind_of(kind))
    np.testing.assert_array_equal(kquants.quantize(matrix, kind_of(kind)), expected)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q5_0", "Q5_1"])
def test_the_other_types_are_those_of_gguf(kind):
    matrix = 0.02 * spread(24, 512)
    found = kquants.quantize(matrix, kind_of(kind)).view(np.uint8)
    np.testing.assert_array_equal(found, ggml_quantize(matrix, kind_of(kind)))


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("Q4_K", "7982f4f1d53852b5"), ("Q5_K", "af7598a782ad1076"), ("Q6_K", "3d14e17df1215f09")],
)
def test_the_same_bytes_without_llama_cpp(kind, digest):
    """L'empreinte de ce que llama.cpp a écrit : elle tient là où il n'est pas installé."""
    found = kquants.quantize(0.02 * spread(16, 512, seed=5), kind_of(kind))
    assert hashlib.sha256(found.tobytes()).hexdigest().startswith(digest)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 4), ("Q5_K", 5), ("Q6_K", 6)])
def test_what_is_read_again_is_near(kind, bits):
    """À un pas près de la grille d'un groupe qui irait de −1 à 1."""
    matrix = spread(16, 512)
    found = gguf.quants.dequantize(kquants.quantize(matrix, kind_of(kind)), kind_of(kind))
    assert found.shape == matrix.shape
    assert abs(found - matrix).max() < 2 / (2**bits - 1)
    assert abs(found - matrix).mean() > 0.1 / 2**bits


def test_a_sum_is_made_term_after_term():
    """Ce dont les octets dépendent : numpy somme l'axe 0 ligne après ligne, en fp32."""
    values = spread(32, 4097) * np.float32(1e3)
    total = np.zeros(4097, dtype=np.float32)
    for row in values:
        total = total + row
    np.testing.assert_array_equal(np.add.reduce(values, axis=0), total)
