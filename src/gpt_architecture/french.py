"""Ce qu'une personne lit : nombres, tailles, durées et accords, écrits en français.

Une quantité se lit : « 50 257 tokens ». Une valeur qui se tape ou se copie, option, borne d'une
option ou identifiant, reste telle quelle : « --vocab-size 50257 ».
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_NO_BREAK = "\u00a0"  # espace insécable


def decimal(value: float, digits: int = 2) -> str:
    """« 3,14 » ; « ∞ » pour l'infini."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−").replace(".", ",")


def thousands(count: int, space: str = _NO_BREAK) -> str:
    """« 50 257 », l'espace étant insécable : pour une page ou un tableau."""
    return f"{count:,}".replace(",", space)


def french_number(number: int) -> str:
    """« 50 257 », l'espace étant ordinaire : pour une phrase au terminal."""
    return thousands(number, " ")


def short(value: float) -> str:
    """Trois chiffres au plus, sans zéro inutile : « 0,5 », « 2 »."""
    return f"{value:.3g}".replace(".", ",")


def plural(count: int, noun: str) -> str:
    """Le nom, accordé, et ce qui s'accorde avec lui : « token », « tokens acceptés »."""
    return " ".join(f"{word}s" for word in noun.split()) if count > 1 else noun


def counted(count: int, noun: str) -> str:
    """Le nombre et son nom, accordé : « 1 époque », « 1 024 tokens »."""
    return f"{french_number(count)} {plural(count, noun)}"


def either(words: Iterable[str]) -> str:
    """Des mots au choix : « a, b ou c »."""
    *first, last = words
    return " ou ".join([*filter(None, [", ".join(first)]), last])


def percent(share: float, digits: int = 1) -> str:
    """« 12,3 % » ; une part non nulle n'est jamais écrite 0, ni une part incomplète 100."""
    smallest = 0.1**digits / 100
    if 0 < share < smallest:
        return f"<{_NO_BREAK}{decimal(100 * smallest, digits)}{_NO_BREAK}%"
    if 1 - smallest < share < 1:
        return f">{_NO_BREAK}{decimal(100 * (1 - smallest), digits)}{_NO_BREAK}%"
    return f"{decimal(100 * share, digits)}{_NO_BREAK}%"


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


def french_duration(seconds: float) -> str:
    """« 45 s », « 4 min 10 s », « 2 h 05 min »."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def french_size(size: int) -> str:
    """Taille en octets, unités binaires : « 621,8 Mio »."""
    for power, unit in ((3, "Gio"), (2, "Mio"), (1, "Kio")):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}".replace(".", ",")
    return f"{size} octets"
