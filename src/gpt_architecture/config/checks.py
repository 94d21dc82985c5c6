"""Vérifications que partagent les dataclasses de configuration."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress

from gpt_architecture.errors import ConfigurationError


def check_int(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Vérifie un entier borné.

    Raises:
        ConfigurationError: `value` n'est pas un entier, ou sort des bornes.
    """
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if is_int and value >= minimum and (maximum is None or value <= maximum):  # type: ignore[operator]
        return
    upper = "" if maximum is None else f" et ≤ {maximum}"
    raise ConfigurationError.wrong(name, value, expected=f"un entier ≥ {minimum}{upper}")


def check_float(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> None:
    """Vérifie un nombre fini et borné (`minimum` et `maximum` inclus, `above` et `below` exclus).

    Raises:
        ConfigurationError: `value` n'est pas un nombre fini, ou sort des bornes.
    """
    x = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # un entier qu'aucun flottant n'approche
            x = float(value)
    if (
        math.isfinite(x)
        and (minimum is None or x >= minimum)
        and (above is None or x > above)
        and (maximum is None or x <= maximum)
        and (below is None or x < below)
    ):
        return
    bounds = (("≥", minimum), (">", above), ("≤", maximum), ("<", below))
    limits = " et ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    raise ConfigurationError.wrong(name, value, expected=f"un nombre {limits}".strip())


def check_bool(name: str, value: object) -> None:
    """Vérifie un booléen.

    Raises:
        ConfigurationError: `value` n'en est pas un.
    """
    if not isinstance(value, bool):
        raise ConfigurationError.wrong(
            name, value, expected="un booléen", remedy=f"donnez True ou False à {name}"
        )


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Vérifie un nom parmi d'autres.

    Raises:
        ConfigurationError: `value` n'est pas dans `choices`.
    """
    if value not in choices:
        raise ConfigurationError.wrong(name, value, expected=f"l'un de {', '.join(choices)}")
