"""Nombres à la française."""

import math

import pytest

from gpt_architecture.french import (
    decimal,
    french_duration,
    french_number,
    french_size,
    percent,
    plural,
    rate,
    short,
    significant,
    thousands,
)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (decimal(3.14159), "3,14"),
        (decimal(-0.5, 1), "−0,5"),
        (decimal(math.inf), "∞"),
        (decimal(-math.inf), "−∞"),
        (thousands(50257), "50 257"),
        (thousands(7), "7"),
        (percent(0.1234), "12,3 %"),
        (percent(0.0), "0,0 %"),
        (percent(1.0), "100,0 %"),
        (percent(1e-9), "< 0,1 %"),
        (percent(0.99999), "> 99,9 %"),
        (percent(0.5, 0), "50 %"),
        (percent(0.001, 0), "< 1 %"),
        (rate(4.68), "4,7"),
        (rate(118.4), "118"),
        (significant(4.2689), "4,27"),
        (significant(42.689), "42,7"),
        (significant(118.4), "118"),
        (significant(24512.0), "24 512"),
        (significant(1.234e9), "1,2·10⁹"),
        (significant(math.inf), "∞"),
    ],
)
def test_shown(shown, expected):
    assert shown.replace("\u00a0", " ") == expected


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0,5"), (2.0, "2"), (1.2345, "1,23"), (0.0, "0"), (100, "100")]
)
def test_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "token"), (1, "token"), (2, "tokens"), (50, "tokens")]
)
def test_plural(count, text):
    assert plural(count, "token") == text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (french_number(163009536), "163 009 536"),
        (french_duration(45), "45 s"),
        (french_duration(250), "4 min 10 s"),
        (french_duration(7500), "2 h 05 min"),
        (french_size(621_800_000), "593,0 Mio"),
        (french_size(12), "12 octets"),
    ],
)
def test_terminal(shown, expected):
    assert shown == expected
