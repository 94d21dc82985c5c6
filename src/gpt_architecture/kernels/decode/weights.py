"""Les matrices d'un modèle compacté : pleines, ou quantifiées par groupes.

Formes : N lignes, D largeur, n activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.core.grouped_codes import GroupedCodes, dequantize
from gpt_architecture.kernels.runtime.workspace import huge_empty

STRIP_ROWS = 16
"""Lignes entrelacées d'une bande : une ligne de cache par colonne."""

_PANEL_ROWS = 4096
"""Lignes déquantifiées à la fois : le tampon reste petit."""


Decoder = Callable[[GroupedCodes], Tensor]
"""Codes → poids fp32."""


class DenseMatrix:
    """Une matrice fp32, telle quelle ; rien n'est copié si elle est déjà contiguë en fp32."""

    numbers: tuple[int, ...] = ()

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().float().contiguous()
        self.shape = (weight.size(0), weight.size(1))
        self.nbytes = self.weight.nbytes

    def dense(self) -> Tensor:
        """Toute la matrice, en fp32."""
        return self.weight

    def rows(self, index: Tensor) -> Tensor:
        """Lignes `index` (…), en fp32 : (…, D)."""
        return self.weight[index]

    def times(self, x: Tensor, decode: Decoder) -> Tensor:
        """x (n, D) · transposée → (n, N)."""
        del decode
        return x @ self.weight.t()

    def tensors(self) -> tuple[Tensor, ...]:
        """Ce que lisent les noyaux : les poids."""
        return (self.weight,)

    def with_tensors(self, weight: Tensor) -> DenseMatrix:
        """La même matrice, dont les poids ont changé de place."""
        return DenseMatrix(weight)


class GroupedMatrix:
    """Une matrice quantifiée ; `numbers` : bits et poids d'un groupe."""

    def __init__(self, grouped: GroupedCodes) -> None:
        self.grouped = grouped
        self.numbers = (grouped.bits, grouped.group_size)
        self.shape = (len(grouped.codes), grouped.width)
        self.nbytes = grouped.codes.nbytes + grouped.scales.nbytes

    def dense(self) -> Tensor:
        """Toute la matrice, en fp32."""
        return dequantize(self.grouped)

    def rows(self, index: Tensor) -> Tensor:
        """Lignes `index` (…), en fp32 : (…, D)."""
        flat = index.reshape(-1)
        found = dequantize(self._part(flat)) if self.grouped.bits == 4 else self._octets(flat)
        return found.reshape(*index.shape, self.shape[1])

    def times(self, x: Tensor, decode: Decoder) -> Tensor:
        """x (n, D) · transposée → (n, N) ; `decode` rend les poids fp32 d'un panneau."""
        out = x.new_empty(len(x), self.shape[0])
        for start in range(0, self.shape[0], _PANEL_ROWS):
            rows = slice(start, min(start + _PANEL_ROWS, self.shape[0]))
            torch.mm(x, decode(self._part(rows)).t(), out=out[:, rows])
        return out

    def tensors(self) -> tuple[Tensor, ...]:
        """Ce que lisent les noyaux : les codes, puis leurs échelles."""
        return self.grouped.codes, self.grouped.scales

    def with_tensors(self, codes: Tensor, scales: Tensor) -> GroupedMatrix:
        """La même matrice, dont codes et échelles ont changé de place."""
        return GroupedMatrix(replace(self.grouped, codes=codes, scales=scales))

    def _octets(self, index: Tensor) -> Tensor:
        """`dequantize` de quelques lignes sur 8 bits, par NumPy : cinq fois moins d'appels."""
        chosen, grouped = index.numpy(), self.grouped
        codes = grouped.codes.numpy()[chosen].reshape(len(chosen), -1, grouped.group_size)
        high = grouped.scales.view(torch.int16).numpy()[chosen].view(np.uint16).astype(np.uint32)
        scales = (high << 16).view(np.float32)  # bf16 : la moitié haute de fp32
        values = codes.astype(np.float32) * scales[:, :, None]
        return torch.from_numpy(values.reshape(len(chosen), -1)[:, : grouped.width])

    def _part(self, rows: Tensor | slice) -> GroupedCodes:
        codes, scales = self.tensors()
        return replace(self.grouped, codes=codes[rows], scales=scales[rows])


class StripMatrix:
    """Une matrice fp32, lignes entrelacées seize par seize (voir `float_tiles.strip_tile`).

    Args:
        weight: (N, D) ; recopiée.
    """

    numbers: tuple[int, ...] = ()

    def __init__(self, weight: Tensor) -> None:
        rows, width = weight.shape
        self.shape = (rows, width)
        count = -(-rows // STRIP_ROWS)
        self.strips = huge_empty(count, width, STRIP_ROWS)
        whole = rows // STRIP_ROWS
        self.strips[:whole] = (
            weight[: whole * STRIP_ROWS].view(whole, STRIP_ROWS, width).transpose(1, 2)
        )
        if whole < count:
            rest = weight[whole * STRIP_ROWS :]
            self.strips[whole].zero_()[:, : len(rest)] = rest.t()

    def tensors(self) -> tuple[Tensor, ...]:
        """Ce que lisent les noyaux : les bandes."""
        return (self.strips,)


PackedMatrix = DenseMatrix | GroupedMatrix
"""Une matrice (N, D) que le décodage sait lire."""

KernelMatrix = PackedMatrix | StripMatrix
"""Une matrice (N, D) que les noyaux savent lire."""


def gather(matrices: Mapping[str, PackedMatrix]) -> dict[str, PackedMatrix]:
    """Recopie des matrices l'une après l'autre dans une zone de grandes pages.

    Lire des poids en pages de 4 Kio, projetés depuis un fichier ou non, coûte un cinquième du
    débit de la mémoire (mesuré) : la machine cherche l'adresse de chaque page et cesse d'anticiper
    à chacune. Une matrice présente sous deux noms n'est recopiée qu'une fois.
    """
    distinct = dict.fromkeys(matrices.values())
    sizes = [_lines(tensor) for matrix in distinct for tensor in matrix.tensors()]
    area, start = huge_empty(sum(sizes)), 0
    moved: dict[PackedMatrix, PackedMatrix] = {}
    for matrix in distinct:
        places = []
        for tensor in matrix.tensors():
            stop = start + _lines(tensor)
            place = area[start:stop].view(tensor.dtype)[: tensor.numel()].view(tensor.shape)
            places.append(place.copy_(tensor))
            start = stop
        moved[matrix] = matrix.with_tensors(*places)
    return {name: moved[matrix] for name, matrix in matrices.items()}


def _lines(tensor: Tensor) -> int:
    """Place d'un tenseur, en valeurs de 4 octets, arrondie à une ligne de cache."""
    return -(-tensor.nbytes // 64) * 16
