"""Quantification par groupes : bornes, cas limites, choix de l'échelle."""

import pytest
import torch

from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    bits_of,
    dequantize,
    quantize,
)
from gpt_architecture.errors import ConfigurationError, ModelFileError

EVERY = [(name, size) for name in ("int8", "int4") for size in (32, 64, 128)]


def round_trip(weight, name, group_size=32):
    return dequantize(quantize(weight, Scheme(name=name, group_size=group_size)))


@pytest.mark.parametrize(("name", "group_size"), EVERY)
@pytest.mark.parametrize("width", [1, 31, 32, 100, 256])
def test_round_trip_is_within_half_a_step(name, group_size, width):
    """|w − ŵ| ≤ une demi-échelle sur 8 bits ; sur 4, la coupe des extrêmes s'y ajoute."""
    torch.manual_seed(0)
    weight = torch.randn(7, width)
    grouped = quantize(weight, Scheme(name=name, group_size=group_size))
    assert grouped.group_size == group_size
    error = (weight - dequantize(grouped)).abs()
    scales = grouped.scales.float().abs().repeat_interleave(group_size, dim=1)[:, :width]
    assert (error <= scales * (0.5001 if name == "int8" else 3.0)).all()


@pytest.mark.parametrize(("name", "group_size"), EVERY)
def test_zeros_and_constants(name, group_size):
    """Un groupe nul reste nul ; un groupe constant est rendu à l'arrondi de l'échelle près."""
    weight = torch.zeros(3, 128)
    assert torch.equal(round_trip(weight, name, group_size), weight)
    weight[1] = 0.3
    weight[2] = -0.3
    torch.testing.assert_close(round_trip(weight, name, group_size), weight, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e30, 3e38])
def test_extremes(name, size):
    """Du plus petit nombre au plus grand : des poids finis, du bon signe, de la bonne taille."""
    weight = torch.tensor([[1.0, -1.0, 0.0, 0.5] * 8]) * size
    found = round_trip(weight, name)
    assert found.isfinite().all()
    assert (found.sign() * weight.sign() >= 0).all()
    assert (found - weight).abs().max() <= 0.2 * size + 1e-40


def test_one_outlier_does_not_spoil_the_other_groups():
    torch.manual_seed(0)
    weight = torch.randn(1, 64)
    alone = round_trip(weight, "int4")
    weight[0, 40] = 1000.0
    assert torch.equal(round_trip(weight, "int4")[:, :32], alone[:, :32])


def test_four_bit_search_beats_the_plain_scale():
    """L'échelle choisie n'est jamais pire que (extrême / −8), et mieux en moyenne."""
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    groups = weight.unflatten(1, (-1, 32))
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
    step = (extreme / -8).bfloat16().float()
    plain = ((groups / step).round().clamp(-8, 7) * step).flatten(1)
    found = round_trip(weight, "int4")
    assert ((found - weight) ** 2).mean() < ((plain - weight) ** 2).mean()


def test_layout_of_four_bits():
    """Par 64 poids : l'octet 2·l porte les poids l et 16 + l, le suivant 32 + l et 48 + l."""
    values = torch.arange(64).remainder(16).float() - 8
    grouped = quantize(values.unsqueeze(0), Scheme(name="int4"))
    assert grouped.scales[0, :2].tolist() == [1.0, 1.0]
    codes = grouped.codes[0, :32].int()
    assert (codes & 15).tolist() == [i // 2 for i in range(32)]
    assert (codes >> 4).tolist() == [i // 2 for i in range(32)]


def test_layout_of_six_bits():
    """Par 64 poids : les bits bas comme sur 4 bits, puis deux bits hauts de quatre par octet."""
    values = torch.arange(64).float() - 32
    values[:32] = values[:32].flip(0)  # l'extrême du premier groupe est en tête
    values[0] = -32.0
    grouped = quantize(values.unsqueeze(0), Scheme(name="int4"), bits=6)
    codes, step = grouped.codes[0, :48].int(), grouped.scales[0, :2].float().repeat_interleave(32)
    biased = ((values / step).round().clamp(-32, 31) + 32).int()
    low, high = biased & 15, biased >> 4
    assert codes[0:32:2].tolist() == (low[:16] | low[16:32] << 4).tolist()
    assert codes[1:32:2].tolist() == (low[32:48] | low[48:] << 4).tolist()
    quarters = high.view(4, 16)
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    assert codes[32:].tolist() == packed.tolist()
    assert torch.equal(dequantize(grouped)[0], (biased - 32) * step)


@pytest.mark.parametrize("bits", [6, 8])
def test_the_head_has_its_own_bits(bits):
    scheme = Scheme(name="int4", head_bits=bits)
    assert (bits_of("out_head", scheme), bits_of("tok_emb", scheme)) == (bits, bits)
    assert bits_of("trf_blocks.0.ff.layers.0", scheme) == 4
    assert Scheme(name="int4").head_bits == 6
    assert Scheme(name="int8").head_bits == 8


@pytest.mark.parametrize("bits", [7, 4, 6.0, True, "6"])
def test_other_bits_of_a_head_are_refused(bits):
    with pytest.raises(ConfigurationError, match="head_bits"):
        Scheme(name="int4", head_bits=bits)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_not_a_number(name, bad):
    weight = torch.zeros(2, 40)
    weight[1, 39] = bad
    with pytest.raises(ModelFileError, match="infini ou NaN"):
        quantize(weight, Scheme(name=name))


@pytest.mark.parametrize(
    ("name", "group_size"),
    [("int2", 32), ("int8", 48), ("int8", 0), ("int4", True), ("int4", "32"), ("int8", 32.0)],
)
def test_scheme_is_checked(name, group_size):
    with pytest.raises(ConfigurationError):
        Scheme(name=name, group_size=group_size)


def test_dequantize_by_hand():
    """Quatre suites de seize codes, une échelle pour deux."""
    low = torch.arange(16, dtype=torch.uint8)
    parts = low, 15 - low, torch.full_like(low, 8), torch.full_like(low, 9)
    codes = torch.stack((parts[0] | parts[1] << 4, parts[2] | parts[3] << 4), dim=1).view(1, 32)
    scales = torch.tensor([[2.0, -0.5]], dtype=torch.bfloat16)
    found = dequantize(GroupedCodes(bits=4, width=64, codes=codes, scales=scales))
    ramp = [2.0 * (i - 8) for i in range(16)] + [2.0 * (7 - i) for i in range(16)]
    assert found[0].tolist() == ramp + [0.0] * 16 + [-0.5] * 16
