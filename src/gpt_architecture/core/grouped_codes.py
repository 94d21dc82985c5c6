"""Quantification par groupes, à échelle seule : des poids, et des activations qu'ils multiplient.

Chaque ligne d'une matrice est découpée en groupes de poids voisins ; un groupe partage une
échelle s, et chaque poids w devient un petit entier q, avec w ≈ s · q. Les échelles sont gardées
en bf16 et les entiers sont choisis avec l'échelle arrondie : l'arrondi ne coûte donc rien.

* **8 bits** : s = max |w| / 127 ; q dans [−127, 127].
* **6 bits** et **4 bits** : q dans [−32, 31] ou [−8, 7] ; parmi quelques échelles voisines de
  (extrême du groupe) / −32 ou −8, celle dont l'erreur quadratique est la plus petite.

Formes : N lignes, D largeur, G groupes par ligne, g poids par groupe ; une ligne est complétée par
des zéros jusqu'à G · g, multiple de UNIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_choice
from gpt_architecture.errors import ConfigurationError, ModelFileError

SchemeName = Literal["int8", "int4"]
"""Nom d'un schéma de quantification."""

BITS: dict[str, int] = {"int8": 8, "int4": 4}
UNIT = 128
"""Une ligne est complétée par des zéros jusqu'à un multiple de cette largeur."""

GROUP_SIZES = (32, 64, 128)
"""Tailles de groupe permises."""

_SHARES = torch.linspace(0.72, 1.04, 9).tolist()
"""Parts de l'échelle pleine essayées sous 8 bits."""

_LEAST_PEAK = 1e-35
"""Au-dessous, un groupe d'activations est nul : 127 / max déborderait."""

_PANEL = 1 << 19  # poids traités à la fois : les tableaux provisoires restent dans le cache


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Comment quantifier une matrice.

    Attributes:
        name: `int8` ou `int4`.
        group_size: poids par échelle.
        head_bits: bits de la tête et de l'embedding, 8 ou 6, qui perdent plus que les blocs à être
            arrondis ; None : 8 sous `int8`, 6 sous `int4`.

    Raises:
        ConfigurationError: un nom ou une taille hors de ceux permis.
    """

    name: SchemeName
    group_size: int = 32
    head_bits: int | None = None

    def __post_init__(self) -> None:
        check_choice("scheme", self.name, tuple(BITS))
        if self.head_bits is None:
            object.__setattr__(self, "head_bits", 8 if self.name == "int8" else 6)
        elif type(self.head_bits) is not int or self.head_bits not in (6, 8):
            raise ConfigurationError.wrong("head_bits", self.head_bits, expected="6 ou 8")
        if type(self.group_size) is not int or self.group_size not in GROUP_SIZES:
            raise ConfigurationError.wrong(
                "group_size",
                self.group_size,
                expected=f"l'un de {', '.join(map(str, GROUP_SIZES))}",
            )

    @property
    def bits(self) -> int:
        """Bits par poids, échelles non comptées."""
        return BITS[self.name]


@dataclass(frozen=True, kw_only=True)
class GroupedCodes:
    """Une matrice quantifiée.

    Attributes:
        bits: 8, 6 ou 4.
        width: D, largeur avant complément.
        codes: (N, G·g) int8 ; sur 4 bits (N, G·g/2) uint8 : par 64 poids, l'octet 2·l porte les
            poids l (bits bas) et 16 + l (bits hauts), l'octet 2·l + 1 les poids 32 + l et
            48 + l, chacun plus 8 ; sur 6 bits (N, 3·G·g/4) uint8 : par 64 poids, chacun plus 32,
            les quatre bits bas de même, puis seize octets, l'octet l portant les deux bits hauts
            des poids l, 16 + l, 32 + l et 48 + l, des bits bas aux bits hauts.
        scales: (N, G) bf16.
    """

    bits: int
    width: int
    codes: Tensor
    scales: Tensor

    @property
    def padded(self) -> int:
        """Largeur complétée, G·g."""
        return self.codes.size(1) * 8 // self.bits

    @property
    def group_size(self) -> int:
        """Poids d'un groupe, g."""
        return self.padded // self.scales.size(1)


def padded_width(width: int) -> int:
    """Largeur d'une ligne une fois complétée."""
    return -(-width // UNIT) * UNIT


def is_matrix(name: str) -> bool:
    """Vrai si ce poids du `state_dict` est l'une des matrices compactées."""
    return name.endswith(".weight") and name != "pos_emb.weight"


def bits_of(module: str, scheme: Scheme) -> int:
    """Bits d'une matrice, celle de `X.weight` pour `module` X."""
    head = scheme.head_bits if module in ("tok_emb", "out_head") else None
    return head or scheme.bits


def quantize(weight: Tensor, scheme: Scheme, *, bits: int | None = None) -> GroupedCodes:
    """Quantifie une matrice (N, D).

    Args:
        bits: bits par poids ; None : ceux du schéma (voir `bits_of`).

    Raises:
        ModelFileError: un poids est infini ou NaN.
    """
    panel, bits = max(1, _PANEL // weight.size(1)), bits or scheme.bits
    parts = [
        _quantize_panel(part.float(), bits, scheme.group_size)
        for part in torch.split(weight, panel)
    ]
    codes, scales = (torch.cat(each) for each in zip(*parts, strict=True))
    return GroupedCodes(bits=bits, width=weight.size(1), codes=codes, scales=scales)


def dequantize(weight: GroupedCodes) -> Tensor:
    """Les poids (N, D) fp32 que les codes représentent."""
    return scaled(unpack(weight.codes, weight.bits), weight.scales, weight.bits)[:, : weight.width]


def scaled(codes: NDArray[np.uint8], scales: Tensor, bits: int) -> Tensor:
    """Les poids fp32 (N, G·g) de codes dépliés (voir `unpack`) et de leurs échelles (N, G)."""
    values = codes.reshape(*scales.shape, -1).astype(np.float32)  # (N, G, g)
    values -= np.float32(1 << (bits - 1))
    values *= scales.float().numpy()[:, :, None]
    return torch.from_numpy(values.reshape(len(values), -1))


def rounded(x: Tensor, group_size: int) -> Tensor:
    """Les activations x (n, D) qu'un produit emploie : 8 bits, une échelle par groupe de chacune.

    L'échelle est max |x| / 127 du groupe ; un NaN ou un infini en fait un groupe de NaN.
    """
    groups = F.pad(x, (0, -x.size(1) % group_size)).view(len(x), -1, group_size)
    peaks = groups.abs().amax(dim=2, keepdim=True)
    scales = torch.where(peaks.isfinite(), peaks * (1 / 127), torch.nan)
    # `127 / peaks` multiplierait par l'inverse : pas le même arrondi.
    factors = torch.where(peaks > _LEAST_PEAK, torch.full_like(peaks, 127.0) / peaks, 0.0)
    codes = (groups * factors + 0.5).floor_()
    return (codes * scales).flatten(1)[:, : x.size(1)]


def unpack(codes: Tensor, bits: int) -> NDArray[np.uint8]:
    """Codes d'un `GroupedCodes` → (N, G·g), un poids décalé de 2^(bits − 1) par octet.

    Par NumPy : un appel y coûte le cinquième de ceux de PyTorch, et l'embedding d'un token est une
    ligne à déplier.
    """
    found = codes.numpy()
    if bits == 8:
        return found.view(np.uint8) ^ np.uint8(128)
    blocks = found.reshape(len(found), -1, 8 * bits)  # (N, blocs de 64 poids, octets)
    low = blocks[:, :, :32].reshape(len(found), -1, 16, 2)
    out = np.empty((*blocks.shape[:2], 4, 16), np.uint8)
    for q in range(4):
        out[:, :, q] = low[:, :, :, q // 2] >> 4 * (q % 2) & 15
        if bits == 6:
            out[:, :, q] |= (blocks[:, :, 32:] >> 2 * q & 3) << 4
    return out.reshape(len(found), -1)


def repack(codes: NDArray[np.uint8], bits: int) -> Tensor:
    """L'inverse d'`unpack`."""
    if bits == 8:
        return torch.from_numpy(codes ^ np.uint8(128)).view(torch.int8)
    quarters = codes.reshape(len(codes), -1, 4, 16)  # (N, blocs de 64, quarts, 16)
    out = np.empty((*quarters.shape[:2], 8 * bits), np.uint8)
    for half in range(2):
        low, high = quarters[:, :, 2 * half], quarters[:, :, 2 * half + 1]
        out[:, :, half:32:2] = low & 15 | (high & 15) << 4
    if bits == 6:
        a, b, c, d = (quarters[:, :, q] >> 4 << 2 * q for q in range(4))
        out[:, :, 32:] = a | b | c | d
    return torch.from_numpy(out.reshape(len(codes), -1))


def _quantize_panel(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    if not bool(weight.abs().amax().isfinite()):  # dix fois plus vite que d'interroger chacun
        raise ModelFileError(
            "un poids est infini ou NaN",
            expected="des poids finis",
            remedy="réentraînez le modèle ou reprenez le fichier d'origine",
        )
    rows, missing = len(weight), padded_width(weight.size(1)) - weight.size(1)
    groups = F.pad(weight, (0, missing)).view(rows, -1, group_size)  # (N, G, g)
    half = 1 << (bits - 1)
    if bits == 8:
        scales, least = _round_up(groups.abs().amax(dim=2) / 127), -127
    else:
        scales, least = _best_scales(groups, half), -half
    codes = (_nearest(groups, scales, least, half - 1) + half).to(torch.uint8)
    return repack(codes.flatten(1).numpy(), bits), scales.bfloat16()


def _best_scales(groups: Tensor, half: int) -> Tensor:
    """Échelles (N, G), exactes en bf16, d'erreur quadratique la plus petite sur [−half, half[."""
    place = groups.abs().argmax(dim=2, keepdim=True)
    extreme = groups.gather(2, place)  # (N, G, 1)
    peak = torch.where(extreme == 0, 1.0, extreme.abs())
    units = groups / peak  # dans [−1, 1] : les carrés ne débordent pas
    full = extreme.squeeze(2) / -half  # l'extrême tombe sur −half
    best, error = full.bfloat16().float(), torch.full_like(full, torch.inf)
    for share in _SHARES:
        scales = (full * share).bfloat16().float()
        steps = scales / peak.squeeze(2)
        found = _nearest(units, steps, -half, half - 1).mul_(steps.unsqueeze(2))
        found = found.sub_(units).square_().sum(dim=2)
        best = torch.where(found < error, scales, best)
        error = torch.minimum(found, error)
    return best


def _nearest(groups: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """Entiers (N, G, g), en fp32, les plus proches de groups / scales ; zéro si l'échelle l'est."""
    divisors = torch.where(scales == 0, 1.0, scales)
    return (groups / divisors.unsqueeze(2)).round_().clamp_(low, high)


def _round_up(scales: Tensor) -> Tensor:
    """Le plus petit bf16 au moins égal, pour des nombres positifs ; reste en fp32."""
    bits = scales.contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)
