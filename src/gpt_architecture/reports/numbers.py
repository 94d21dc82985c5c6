"""Des nombres tels qu'on les lit en français : virgule décimale, espaces insécables."""

from __future__ import annotations

import math

_SPACE = "\u00a0"  # insécable


def decimal(value: float, digits: int = 2) -> str:
    """« 3,14 » ; « ∞ » pour l'infini."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−").replace(".", ",")


def thousands(count: int) -> str:
    """« 50 257 »."""
    return f"{count:,}".replace(",", _SPACE)


def percent(share: float, digits: int = 1) -> str:
    """« 12,3 % » ; une part non nulle n'est jamais écrite 0, ni une part incomplète 100."""
    smallest = 0.1**digits / 100
    if 0 < share < smallest:
        return f"<{_SPACE}{decimal(100 * smallest, digits)}{_SPACE}%"
    if 1 - smallest < share < 1:
        return f">{_SPACE}{decimal(100 * (1 - smallest), digits)}{_SPACE}%"
    return f"{decimal(100 * share, digits)}{_SPACE}%"


def rate(value: float) -> str:
    """Un débit, sans décimale à partir de 10 : « 4,7 », « 118 »."""
    return decimal(value, 1) if value < 10 else thousands(round(value))


def significant(value: float) -> str:
    """Trois chiffres utiles : « 4,27 », « 118 », « 24 500 », « 1,2·10⁹ »."""
    if math.isinf(value):
        return decimal(value)
    if abs(value) >= 1e7:
        mantissa, exponent = f"{value:.1e}".split("e")
        power = str(int(exponent)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{decimal(float(mantissa), 1)}·10{power}"
    if abs(value) >= 100:
        return thousands(round(value))
    return decimal(value, 2 if abs(value) < 10 else 1)
