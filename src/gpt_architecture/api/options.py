"""Les réglages qu'un appel nomme : un nom inconnu, une valeur d'un autre genre sont refusés."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from gpt_architecture.errors import ConfigurationError, nearest

P = ParamSpec("P")
R = TypeVar("R")

_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_SAID: dict[Any, str] = {
    str: "un texte",
    Path: "un chemin",
    bool: "True ou False",
    int: "un entier",
    float: "un nombre",
    types.NoneType: "None",
    Sequence: "une suite",
    tuple: "un tuple",
    Mapping: "un dictionnaire",
    Callable: "une fonction",
}


Elsewhere = Callable[[str, Mapping[str, Any]], str | None]
"""(nom inconnu, réglages donnés) → le remède, si ce nom se dit autrement en Python."""


def checked_options(
    function: Callable[P, R], *, elsewhere: Elsewhere = lambda _name, _settings: None
) -> Callable[P, R]:
    """Refuse, d'une phrase, ce que Python dirait en anglais, ou bien plus tard.

    Un réglage que `function` n'a pas : le plus proche est proposé, à moins qu'`elsewhere` ne dise
    comment il s'écrit. Une valeur qui n'est pas du genre annoté : un texte, un chemin, un nombre…
    Un genre que son module n'importe pas vraiment (`TYPE_CHECKING`) n'est pas vérifié ici.
    """
    called, hints = signature(function), dict[str, Any]()
    is_open = any(each.kind is Parameter.VAR_KEYWORD for each in called.parameters.values())

    @wraps(function)
    def call(*args: P.args, **settings: P.kwargs) -> R:
        for name in settings:
            if name not in called.parameters and not is_open:
                raise ConfigurationError(
                    f"réglage inconnu : {name}",
                    expected=f"un réglage de {function.__name__}",
                    remedy=elsewhere(name, settings)
                    or nearest(name, called.parameters)
                    or f"voyez help({function.__name__})",
                )
        try:
            given = called.bind(*args, **settings).arguments
        except TypeError:  # il en manque un : Python le nomme
            return function(*args, **settings)
        if not hints:
            hints.update(_hints(function))
        for name, value in given.items():
            if not _fits(value, hints.get(name, Any)):
                _refuse(name, value, hints[name])
        return function(*args, **settings)

    return call


def checked_with(elsewhere: Elsewhere) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`checked_options`, qui sait dire comment s'écrivent ici d'autres noms."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return checked_options(function, elsewhere=elsewhere)

    return decorate


def _refuse(name: str, value: object, hint: Any) -> None:
    choices = [
        each for part in _parts(hint) if get_origin(part) is Literal for each in get_args(part)
    ]
    raise ConfigurationError.wrong(
        f"`{name}`",
        value,
        expected=_said(hint),
        remedy=nearest(value, choices) if isinstance(value, str) else None,
    )


class _Names(dict[str, Any]):
    """Les noms d'un module ; celui qu'il n'a pas est d'un genre quelconque."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Le genre annoté de chaque paramètre."""
    known = _Names(vars(sys.modules[function.__module__]))
    return {
        name: eval(each.annotation, {}, known)  # noqa: S307 — une annotation de ce paquet
        for name, each in signature(function).parameters.items()
        if each.kind not in _OPEN and each.annotation is not Parameter.empty
    }


def _parts(hint: Any) -> tuple[Any, ...]:
    """Les genres d'une union, ou ce genre seul."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: object, hint: Any) -> bool:
    """Vrai si une valeur est de ce genre."""
    return any(_fits_one(value, each) for each in _parts(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    kind = origin or hint
    if kind in (Any, object) or isinstance(hint, TypeVar):
        return True
    if kind is Literal or kind is None:
        return value in (inner or (None,))
    if kind in (int, float) and isinstance(value, bool):
        return False
    if not _is_a(value, kind):
        return False
    if kind is tuple and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    # Un texte seul est une suite de textes, que la fonction comprend ou refuse.
    return kind not in (Sequence, tuple) or all(_fits(each, inner[0]) for each in value)


def _is_a(value: object, kind: Any) -> bool:
    if kind is Callable:
        return callable(value)
    if getattr(kind, "_is_protocol", False):  # un tokenizer est ce qui en a les méthodes
        return all(hasattr(value, name) for name in vars(kind) if not name.startswith("_"))
    return isinstance(value, (int, float) if kind is float else kind)


def _said(hint: Any) -> str:
    """Ce genre, en français."""
    words = list[str]()
    for each in _parts(hint):
        origin, inner = get_origin(each), get_args(each)
        if origin is Literal:
            word = "l'un de " + ", ".join(map(str, inner))
        elif origin in (Sequence, tuple):
            kinds = [_said(kind) for kind in inner if kind is not Ellipsis]
            word = f"{_SAID[origin]} ({', '.join(kinds)})"
        else:
            kind = origin or each
            word = _SAID.get(kind) or str(getattr(kind, "__name__", kind))
        words.append(word)
    return " ou ".join(dict.fromkeys(words))


def listed(value: str | object | Sequence[object] | None) -> list[str]:
    """Un texte ou un chemin seul, ou une suite d'entre eux, en une liste de textes."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value]
    return [str(value)]
