"""Les matrices d'un modèle compacté : pleines, ou quantifiées par groupes.

Formes : N lignes, D largeur, n activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    dequantize,
    repack,
    rounded,
    scaled,
    unpack,
)
from gpt_architecture.core.machine import huge_zeros
from gpt_architecture.kernels.runtime.workspace import Arena, lines_of

STRIP_ROWS = 16
"""Lignes entrelacées d'une bande : une ligne de cache par colonne."""

CHUNK, STEP = 32, 4
"""Colonnes d'un tour et d'un pas d'une bande d'entiers ; un groupe est de tours entiers."""

_STEPS = CHUNK // STEP
_PANEL_ROWS = 4096
"""Lignes déquantifiées à la fois : le tampon reste petit."""

_PANEL_STRIPS = 64
"""Bandes rangées à la fois, de même."""


class DenseMatrix:
    """Une matrice fp32, telle quelle ; rien n'est copié si elle est déjà contiguë en fp32."""

    numbers: tuple[int, ...] = ()
    layout = (32, 1, 1, 1)

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

    def times(self, x: Tensor) -> Tensor:
        """x (n, D) · transposée → (n, N)."""
        return x @ self.weight.t()

    def tensors(self) -> tuple[Tensor, ...]:
        """Ce que lisent les noyaux : les poids."""
        return (self.weight,)


class GroupedMatrix:
    """Une matrice quantifiée, telle que son fichier la donne ; rien n'est copié."""

    def __init__(self, grouped: GroupedCodes) -> None:
        self.grouped = grouped
        self.layout = (grouped.bits, grouped.group_size, grouped.scales.size(1), 1)
        self.shape = (len(grouped.codes), grouped.width)
        self.nbytes = grouped.codes.nbytes + grouped.scales.nbytes

    def dense(self) -> Tensor:
        """Toute la matrice, en fp32."""
        return dequantize(self.grouped)

    def rows(self, index: Tensor) -> Tensor:
        """Lignes `index` (…), en fp32 : (…, D)."""
        return dequantize(self._part(index.reshape(-1))).reshape(*index.shape, self.shape[1])

    def times(self, x: Tensor) -> Tensor:
        """x (n, D), sur 8 bits, · transposée → (n, N)."""
        x, out = rounded(x, self.grouped.group_size), x.new_empty(len(x), self.shape[0])
        for start in range(0, self.shape[0], _PANEL_ROWS):
            rows = slice(start, min(start + _PANEL_ROWS, self.shape[0]))
            torch.mm(x, dequantize(self._part(rows)).t(), out=out[:, rows])
        return out

    def tensors(self) -> tuple[Tensor, ...]:
        """Les codes, puis leurs échelles."""
        return self.grouped.codes, self.grouped.scales

    def _part(self, rows: Tensor | slice) -> GroupedCodes:
        codes, scales = self.grouped.codes[rows], self.grouped.scales[rows]
        return replace(self.grouped, codes=codes, scales=scales)


class IntegerStrips:
    """Une matrice quantifiée, lignes entrelacées seize par seize (voir `integer_tiles`).

    Une bande va par tours de 32 colonnes, huit pas de quatre. Sur 8 bits, un pas est une ligne de
    cache : quatre octets de chacune des seize lignes de poids, non signés (q + 128). Sur 4 bits,
    une ligne de cache porte deux pas, dans les bits bas puis les bits hauts de ses octets. Sur 6,
    quatre telles lignes portent les bits bas d'un tour, et deux autres les bits hauts de quatre pas
    chacune. Les échelles (bandes, groupes, 16) sont à part. Des zéros complètent la dernière bande.

    Args:
        grouped: la matrice ; recopiée.
        arena: où la ranger ; None : n'importe où.

    Attributes:
        numbers: bits, poids d'un groupe.
        codes: (bandes, tours, bits, 16) int32, quatre octets par mot.
    """

    def __init__(self, grouped: GroupedCodes, arena: Arena | None = None) -> None:
        bits, (rows, groups) = grouped.bits, grouped.scales.shape
        count, chunks = -(-rows // STRIP_ROWS), grouped.padded // CHUNK
        self.numbers = (bits, grouped.group_size)
        self.layout = (*self.numbers, groups, STRIP_ROWS)
        self.shape = (rows, grouped.width)
        arena = arena or Arena(torch.empty(_words(grouped)))
        codes, scales = (
            arena.take(*shape)
            for shape in ((count, chunks, bits, STRIP_ROWS), (count, groups, STRIP_ROWS // 2))
        )
        assert codes is not None and scales is not None  # noqa: S101, PT018 — voir `_words`
        self.codes, self.scales = codes.view(torch.int32), scales.view(torch.bfloat16)
        padded = F.pad(grouped.scales, (0, 0, 0, count * STRIP_ROWS - rows))
        self.scales.copy_(padded.view(count, STRIP_ROWS, groups).transpose(1, 2))
        lines = self.codes.numpy().view(np.uint32)
        for start in range(0, count, _PANEL_STRIPS):
            stop = min(start + _PANEL_STRIPS, count)
            octets = unpack(grouped.codes[start * STRIP_ROWS : stop * STRIP_ROWS], bits)
            octets = np.pad(octets, ((0, (stop - start) * STRIP_ROWS - len(octets)), (0, 0)))
            words = octets.view(np.uint32).reshape(-1, STRIP_ROWS, chunks, _STEPS)
            _pack_steps_(lines[start:stop], words.transpose(0, 2, 3, 1), bits)
        self.nbytes = self.codes.nbytes + self.scales.nbytes

    @property
    def grouped(self) -> GroupedCodes:
        """La matrice, rangée comme dans un fichier."""
        bits, (rows, width) = self.numbers[0], self.shape
        codes, scales = self._read(torch.arange(rows))
        return GroupedCodes(bits=bits, width=width, codes=repack(codes, bits), scales=scales)

    def dense(self) -> Tensor:
        """Toute la matrice, en fp32."""
        return self.rows(torch.arange(self.shape[0]))

    def rows(self, index: Tensor) -> Tensor:
        """Lignes `index` (…), en fp32 : (…, D).

        Raises:
            IndexError: une ligne n'existe pas ; celles qui complètent la dernière bande non plus.
        """
        count = self.shape[0]
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
            raise IndexError(f"ligne {int(index.max())} d'une matrice qui en a {count}")
        found = scaled(*self._read(index.reshape(-1)), self.numbers[0])
        return found[:, : self.shape[1]].reshape(*index.shape, self.shape[1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Ce que lisent les noyaux : les codes, puis leurs échelles."""
        return self.codes, self.scales

    def _read(self, index: Tensor) -> tuple[NDArray[np.uint8], Tensor]:
        """Codes dépliés et échelles de lignes."""
        strip, row = index // STRIP_ROWS, index % STRIP_ROWS
        lines = self.codes.numpy().view(np.uint32)[strip.numpy(), :, :, row.numpy()]
        return _unpack_steps(lines, self.numbers[0]), self.scales[strip, :, row]


def _pack_steps_(lines: NDArray[np.uint32], words: NDArray[np.uint32], bits: int) -> None:
    """lines (bandes, tours, bits, 16) = huit pas (bandes, tours, 8, 16) d'un code par octet."""
    if bits == 8:
        lines[:] = words
        return
    low = words & 0x0F0F0F0F
    lines[:, :, :4] = low[:, :, 0::2] | low[:, :, 1::2] << 4
    if bits == 6:
        a, b, c, d = ((words[:, :, q::4] >> 4 & 0x03030303) << 2 * q for q in range(4))
        lines[:, :, 4:] = a | b | c | d


def _unpack_steps(lines: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """L'inverse, pour une ligne de chaque bande : (n, tours, bits) → (n, 32 · tours)."""
    steps = np.empty((*lines.shape[:2], _STEPS), np.uint32)
    for step in range(_STEPS):
        if bits == 8:
            steps[:, :, step] = lines[:, :, step]
            continue
        steps[:, :, step] = lines[:, :, step // 2] >> 4 * (step % 2) & 0x0F0F0F0F
        if bits == 6:
            high = lines[:, :, 4 + step // 4] >> 2 * (step % 4) & 0x03030303
            steps[:, :, step] |= high << 4
    return steps.view(np.uint8).reshape(len(lines), -1)


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
        self.strips = huge_zeros(count, width, STRIP_ROWS)
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


PackedMatrix = DenseMatrix | GroupedMatrix | IntegerStrips
"""Une matrice (N, D) d'un modèle compacté : ses lignes, ses octets, ses poids en fp32.

`layout` dit comment `embed_rows_` la lit : bits, poids d'un groupe, groupes, lignes d'une bande.
"""

TorchMatrix = DenseMatrix | GroupedMatrix
"""Une matrice (N, D) que PyTorch sait multiplier."""

KernelMatrix = DenseMatrix | IntegerStrips | StripMatrix
"""Une matrice (N, D) que les noyaux savent lire."""


def gather(matrices: Mapping[str, DenseMatrix]) -> dict[str, DenseMatrix]:
    """Recopie des matrices l'une après l'autre dans une zone de grandes pages.

    Lire des poids en pages de 4 Kio, projetés depuis un fichier ou non, coûte un cinquième du
    débit de la mémoire (mesuré) : la machine cherche l'adresse de chaque page et cesse d'anticiper
    à chacune. Une matrice présente sous deux noms n'est recopiée qu'une fois.
    """
    distinct = dict.fromkeys(matrices.values())
    arena = Arena(huge_zeros(sum(lines_of(each.weight.numel()) for each in distinct)))
    moved: dict[DenseMatrix, DenseMatrix] = {}
    for matrix in distinct:
        place = arena.take(*matrix.shape)
        assert place is not None  # noqa: S101 — la zone est à leur mesure
        moved[matrix] = DenseMatrix(place.copy_(matrix.weight))
    return {name: moved[matrix] for name, matrix in matrices.items()}


def in_strips(matrices: Mapping[str, GroupedCodes]) -> dict[str, IntegerStrips]:
    """Range des matrices d'entiers en bandes, dans une zone de grandes pages (voir `gather`)."""
    arena = Arena(huge_zeros(sum(map(_words, matrices.values()))))
    return {name: IntegerStrips(each, arena) for name, each in matrices.items()}


def _words(grouped: GroupedCodes) -> int:
    """Place des bandes d'une matrice, en mots de 4 octets."""
    rows, groups = grouped.scales.shape
    count = -(-rows // STRIP_ROWS) * STRIP_ROWS
    codes = count * grouped.padded * grouped.bits // 32
    return lines_of(codes) + lines_of(count * groups // 2)
