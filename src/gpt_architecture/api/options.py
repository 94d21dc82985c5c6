"""Les réglages qu'un appel nomme : un nom inconnu est refusé, le plus proche proposé."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from gpt_architecture.errors import ConfigurationError, nearest

P = ParamSpec("P")
R = TypeVar("R")


def named_options(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse, d'une phrase, un réglage que `function` n'a pas ; Python le dirait en anglais."""
    known = list(signature(function).parameters)

    @wraps(function)
    def call(*args: P.args, **settings: P.kwargs) -> R:
        for name in settings:
            if name not in known:
                raise ConfigurationError(
                    f"réglage inconnu : {name}",
                    expected=f"un réglage de {function.__name__}",
                    remedy=nearest(name, known) or f"voyez help({function.__name__})",
                )
        return function(*args, **settings)

    return call


def listed(value: str | object | Sequence[object] | None) -> list[str]:
    """Un texte ou un chemin seul, ou une suite d'entre eux, en une liste de textes."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value]
    return [str(value)]


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse une valeur hors d'une liste.

    Raises:
        ConfigurationError: la plus proche est proposée.
    """
    if value not in choices:
        raise ConfigurationError.wrong(
            f"`{name}`",
            value,
            expected=" ou ".join(choices),
            remedy=nearest(str(value), choices),
        )
