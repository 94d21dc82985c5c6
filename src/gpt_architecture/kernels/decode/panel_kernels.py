"""Ce qui entoure les produits de PyTorch, au-delà d'un pas compilé : décodage et GELU.

Formes : N lignes de poids, n activations, D largeur, F largeur du perceptron.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_architecture.kernels.decode.dot_tiles import UNIT, decode_row
from gpt_architecture.kernels.decode.grouped_codes import GroupedCodes
from gpt_architecture.kernels.decode.linear_kernels import gelu
from gpt_architecture.kernels.runtime.kernel import (
    address,
    claim,
    count,
    extent,
    integer,
    kernel,
    launch,
    matrix,
    vector,
    words,
)

_ROWS = 16
"""Lignes d'un lot."""


@kernel
def decode_rows_(data: Any) -> None:
    """out (N, D complété) = poids fp32. Arguments : codes, échelles, out, bits, groupe."""
    d = words(data)
    out, bits, group = matrix(d, 2), integer(d, 3), integer(d, 4)
    rows, units = out.shape[0], out.shape[1] // UNIT
    stride, scale_stride = extent(d, 0, 1), 2 * extent(d, 1, 1)
    item = claim(data)
    while item < count(d):
        for n in range(item * _ROWS, min(rows, (item + 1) * _ROWS)):
            codes, scales = address(d, 0) + stride * n, address(d, 1) + scale_stride * n
            decode_row(bits, group, codes, scales, units, address(d, 2) + 4 * UNIT * units * n)
        item = claim(data)


@kernel
def bias_gelu_(data: Any) -> None:
    """x (n, F) = gelu(x + biais), sur place. Arguments : x, biais."""
    d = words(data)
    x, bias = matrix(d, 0), vector(d, 1)
    rows, width = x.shape
    item = claim(data)
    while item < count(d):
        for n in range(item * _ROWS, min(rows, (item + 1) * _ROWS)):
            for j in range(width):
                x[n, j] = gelu(x[n, j] + bias[j])
        item = claim(data)


def decode(weight: GroupedCodes) -> Tensor:
    """Les poids (N, D) fp32 que les codes représentent ; voir `grouped_codes.dequantize`."""
    rows = len(weight.codes)
    out = torch.empty(rows, weight.padded)
    arguments = (weight.codes, weight.scales, out, weight.bits, weight.group_size)
    launch(decode_rows_, -(-rows // _ROWS), *arguments)
    return out[:, : weight.width]


def activate(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + biais), écrit à la place de x (n, F) contigu."""
    launch(bias_gelu_, -(-len(x) // _ROWS), x, bias)
    return x
