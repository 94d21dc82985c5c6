"""Quantification des poids par groupes, à échelle seule.

Chaque ligne d'une matrice est découpée en groupes de poids voisins ; un groupe partage une
échelle s, et chaque poids w devient un petit entier q, avec w ≈ s · q. Les échelles sont gardées
en bf16 et les entiers sont choisis avec l'échelle arrondie : l'arrondi ne coûte donc rien.

* **8 bits** : s = max |w| / 127 ; q dans [−127, 127].
* **4 bits** : q dans [−8, 7] ; parmi quelques échelles voisines de (extrême du groupe) / −8, celle
  dont l'erreur quadratique est la plus petite.

Formes : N lignes, D largeur, G groupes par ligne, g poids par groupe ; une ligne est complétée par
des zéros jusqu'à G · g, multiple de UNIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
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
"""Parts de l'échelle pleine essayées sur 4 bits."""

_PANEL = 1 << 19  # poids traités à la fois : les tableaux provisoires restent dans le cache


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Comment quantifier une matrice.

    Attributes:
        name: `int8` ou `int4`.
        group_size: poids par échelle.

    Raises:
        ConfigurationError: un nom ou une taille hors de ceux permis.
    """

    name: SchemeName
    group_size: int = 32

    def __post_init__(self) -> None:
        check_choice("scheme", self.name, tuple(BITS))
        if self.group_size not in GROUP_SIZES:
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
        bits: 8 ou 4.
        width: D, largeur avant complément.
        codes: (N, G·g) int8 ; sur 4 bits (N, G·g/2) uint8 : par 64 poids, l'octet 2·l porte les
            poids l (bits bas) et 16 + l (bits hauts), l'octet 2·l + 1 les poids 32 + l et
            48 + l, chacun plus 8.
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


def scheme_of(module: str, scheme: Scheme) -> Scheme:
    """Le schéma d'une matrice : la tête et l'embedding gardent 8 bits sous un schéma à 4."""
    if module in ("tok_emb", "out_head"):
        return Scheme(name="int8", group_size=scheme.group_size)
    return scheme


def quantize(weight: Tensor, scheme: Scheme) -> GroupedCodes:
    """Quantifie une matrice (N, D).

    Raises:
        ModelFileError: un poids est infini ou NaN.
    """
    panel = max(1, _PANEL // weight.size(1))
    parts = [_quantize_panel(part.float(), scheme) for part in torch.split(weight, panel)]
    codes, scales = (torch.cat(each) for each in zip(*parts, strict=True))
    return GroupedCodes(bits=scheme.bits, width=weight.size(1), codes=codes, scales=scales)


def dequantize(weight: GroupedCodes) -> Tensor:
    """Les poids (N, D) fp32 que les codes représentent."""
    codes = weight.codes
    if weight.bits == 4:
        low, high = codes.view(len(codes), -1, 16, 2).unbind(-1)  # (N, blocs de 64, 16)
        codes = torch.cat((low & 15, low >> 4, high & 15, high >> 4), dim=2).to(torch.int8) - 8
    values = codes.reshape(len(codes), -1, weight.group_size).float()  # (N, G, g)
    values = values * weight.scales.float().unsqueeze(2)
    return values.flatten(1)[:, : weight.width]


def _quantize_panel(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    if not bool(weight.abs().amax().isfinite()):  # dix fois plus vite que d'interroger chacun
        raise ModelFileError(
            "un poids est infini ou NaN",
            expected="des poids finis",
            remedy="réentraînez le modèle ou reprenez le fichier d'origine",
        )
    rows, missing = len(weight), padded_width(weight.size(1)) - weight.size(1)
    groups = F.pad(weight, (0, missing)).view(rows, -1, scheme.group_size)  # (N, G, g)
    if scheme.bits == 8:
        scales = _round_up(groups.abs().amax(dim=2) / 127)
        codes = _nearest(groups, scales, -127, 127).to(torch.int8)
        return codes.flatten(1), scales.bfloat16()
    scales = _best_scales(groups)
    biased = (_nearest(groups, scales, -8, 7) + 8).to(torch.uint8)
    words = biased.view(rows, -1, 4, 16)  # (N, blocs de 64, quarts, 16)
    low, high = words[:, :, 0] | words[:, :, 1] << 4, words[:, :, 2] | words[:, :, 3] << 4
    return torch.stack((low, high), dim=-1).flatten(1), scales.bfloat16()


def _best_scales(groups: Tensor) -> Tensor:
    """Échelles (N, G), exactes en bf16, d'erreur quadratique la plus petite sur 4 bits."""
    place = groups.abs().argmax(dim=2, keepdim=True)
    extreme = groups.gather(2, place)  # (N, G, 1)
    peak = torch.where(extreme == 0, 1.0, extreme.abs())
    units = groups / peak  # dans [−1, 1] : les carrés ne débordent pas
    full = extreme.squeeze(2) / -8  # l'extrême tombe sur −8
    best, error = full.bfloat16().float(), torch.full_like(full, torch.inf)
    for share in _SHARES:
        scales = (full * share).bfloat16().float()
        steps = scales / peak.squeeze(2)
        found = _nearest(units, steps, -8, 7).mul_(steps.unsqueeze(2))
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
