"""Les noyaux du pas dont les produits sont en bf16 : ceux de `kernels`, sur d'autres types.

Ce qu'un produit lit ou rend est bf16 ; normes, résidus, softmax, perte et sommes restent fp32. Une
activation n'est donc arrondie qu'une fois, par le noyau qui l'écrit.
"""

from __future__ import annotations

import numpy as np

from gpt_architecture.kernels.runtime.arithmetic import exp, rounded
from gpt_architecture.kernels.runtime.kernel import (
    HalfMatrix,
    Integer,
    Integers,
    Lots,
    Matrix,
    Real,
    Vector,
    kernel,
)
from gpt_architecture.kernels.train import kernels
from gpt_architecture.kernels.train.kernels import VOCAB_BLOCK

_F, _HALF = np.float32, "HalfMatrix"

layer_norm_ = kernel(kernels.layer_norm_.body, y=_HALF)
layer_norm_backward_ = kernel(kernels.layer_norm_backward_.body, dy=_HALF)
residual_ = kernel(kernels.residual_.body, branch=_HALF)
residual_backward_ = kernel(kernels.residual_backward_.body, dbranch=_HALF)
gelu_ = kernel(kernels.gelu_.body, pre=_HALF, out=_HALF)
gelu_backward_ = kernel(kernels.gelu_backward_.body, dout=_HALF, pre=_HALF)


@kernel
def head_gradient_(
    lots: Lots,
    logits: Matrix,
    lse: Vector,
    factor: Real,
    targets: Integers,
    first: Integer,
    out: HalfMatrix,
) -> None:
    """out (m, n) = factor · (exp(logits − lse) − 1 à la cible), par bloc de vocabulaire.

    `logits` (m, n) et `out` sont les lignes du vocabulaire qui commencent à `first`.
    """
    vocab, columns = logits.shape
    for block in lots:
        start, end = block * VOCAB_BLOCK, min(vocab, (block + 1) * VOCAB_BLOCK)
        for v in range(start, end):
            for j in range(columns):
                out[v, j] = rounded(out, exp(logits[v, j] - lse[j]) * factor)
        for j in range(columns):
            v = targets[j] - first
            if start <= v < end:
                out[v, j] = rounded(out, (exp(logits[v, j] - lse[j]) - _F(1.0)) * factor)
