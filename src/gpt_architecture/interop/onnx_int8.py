"""Le même graphe ONNX, ses matrices et leurs activations sur 8 bits, en opérateurs standard.

Chaque sortie d'une matrice a son échelle, max |w| / 127, et chaque token la sienne, calculée en
chemin : ses activations ne dépendent ni du lot, ni de ce qui est déjà dans le cache. Les produits
sont de vrais produits d'entiers (`MatMulInteger`), poids et activations écrits sans signe, décalés
de 128 : les processeurs sans VNNI satureraient à multiplier des entiers signés. Positions, normes
et biais restent en fp32.

Formes : N tokens du lot, D largeur, V vocabulaire, B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import is_matrix
from gpt_architecture.errors import ModelFileError
from gpt_architecture.interop.onnx_graph import GraphBuilder

_TOP, _OFFSET = 127.0, 128
_LEAST_PEAK = 1e-30  # une ligne nulle a des codes nuls, non des NaN


def integer_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Les poids tels que le graphe les lit.

    Args:
        weights: poids fp32, par nom.

    Returns:
        De chaque matrice X.weight (sortie, entrée), `X.codes` (entrée, sortie) uint8 et `X.scales`
        (sortie,) fp32, où w = (code − 128) · échelle ; les autres poids tels quels.

    Raises:
        ModelFileError: un poids est infini ou NaN.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not is_matrix(name):
            found[name] = weight
            continue
        peaks = weight.float().abs().amax(dim=1).clamp(min=_LEAST_PEAK)  # (sortie,)
        if not bool(peaks.isfinite().all()):
            raise ModelFileError(
                f"{name} a un poids infini ou NaN",
                expected="des poids finis",
                remedy="exportez en f32, ou reprenez un modèle sain",
            )
        scales = peaks / _TOP
        codes = (weight.float() / scales[:, None]).round_().clamp_(-_TOP, _TOP) + _OFFSET
        module = name.removesuffix(".weight")
        found[f"{module}.codes"] = codes.to(torch.uint8).T.contiguous()
        found[f"{module}.scales"] = scales
    return found


class IntegerGraphBuilder(GraphBuilder):
    """Les nœuds du graphe ; voir `GraphBuilder`."""

    def __init__(self, library: Any, cfg: GPTConfig, weights: Mapping[str, Sequence[int]]) -> None:
        super().__init__(library, cfg, weights)
        self._coded: dict[str, tuple[str, str]] = {}
        proto = library.TensorProto
        offset = library.helper.make_tensor("offset_code", proto.UINT8, [], [_OFFSET])
        self.constants.append(offset)
        self.constant("offset", float(_OFFSET), integer=False)
        self.constant("top_code", _TOP, integer=False)
        self.constant("least_peak", _LEAST_PEAK, integer=False)
        self.constant("last_axis", [-1])

    def linear(self, x: str, module: str, *, to: str) -> str:
        """x (N, entrée) → (N, sortie), par un produit d'entiers, puis les deux échelles."""
        codes, scales = self._codes(x)
        inputs = (codes, f"{module}.codes", "offset_code", "offset_code")
        total = self.add("MatMulInteger", *inputs, to=f"{to}.total")  # (N, sortie) int32
        real = self.cast(total, "FLOAT", to=f"{to}.real")
        rows = self.add("Mul", real, scales, to=f"{to}.rows")
        bias = f"{module}.bias"
        if bias not in self._weights:
            return self.add("Mul", rows, f"{module}.scales", to=to)
        product = self.add("Mul", rows, f"{module}.scales", to=f"{to}.product")
        return self.add("Add", product, bias, to=to)

    def embed(self, ids: str, module: str, *, to: str) -> str:
        """Identifiants (B, T) → lignes (B, T, D), de codes (D, V) que la tête de sortie partage."""
        picked = self.add("Gather", f"{module}.codes", ids, to=f"{to}.codes", axis=1)  # (D, B, T)
        turned = self.add("Transpose", picked, to=f"{to}.turned", perm=[1, 2, 0])
        real = self.cast(turned, "FLOAT", to=f"{to}.real")
        centred = self.add("Sub", real, "offset", to=f"{to}.centred")
        scales = self.add("Gather", f"{module}.scales", ids, to=f"{to}.scales")  # (B, T)
        wide = self.add("Unsqueeze", scales, "last_axis", to=f"{to}.wide_scales")
        return self.add("Mul", centred, wide, to=to)

    def _codes(self, x: str) -> tuple[str, str]:
        """Codes uint8 de x (N, entrée), et échelle (N, 1) de chaque ligne ; faits une fois."""
        if x not in self._coded:
            size = self.add("Abs", x, to=f"{x}.size")
            peak = self.add("ReduceMax", size, "last_axis", to=f"{x}.peak", keepdims=1)
            above = self.add("Max", peak, "least_peak", to=f"{x}.above")
            scale = self.add("Div", above, "top_code", to=f"{x}.scale")
            ratio = self.add("Div", x, scale, to=f"{x}.ratio")
            nearest = self.add("Round", ratio, to=f"{x}.nearest")  # le pair à mi-chemin
            shifted = self.add("Add", nearest, "offset", to=f"{x}.shifted")
            self._coded[x] = self.cast(shifted, "UINT8", to=f"{x}.codes"), scale
        return self._coded[x]
