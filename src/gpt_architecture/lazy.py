"""Des noms importés quand on les demande : un paquet qui les offre ne charge rien d'avance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_demand(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Le `__getattr__` d'un paquet dont chaque nom vient d'un de ses modules.

    Args:
        package: le paquet.
        names: module, depuis ce paquet → les noms qu'on y prend, séparés par des blancs.
    """
    homes = {name: module for module, found in names.items() for name in found.split()}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
