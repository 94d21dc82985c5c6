"""Des adaptateurs employés sans être fondus : à chaque ligne d'un lot le sien, ou aucun.

Plusieurs affinages d'un modèle en partagent ainsi les poids, et un même passage les sert (S-LoRA,
Sheng et al., 2023). La sortie d'une matrice W devient W·x + s·B·A·x (voir `lora`), où A, B et le
facteur s sont ceux de la ligne ; une ligne du cache sait le sien (`KVCache.adapters`).

Formes : L lignes, T tokens, D entrée, E sortie d'une matrice, r rang.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, TypeVar
from weakref import WeakSet

from torch import Tensor, nn

_numbers = count(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """Un adaptateur prêt à servir.

    Attributes:
        layers: par nom de module, A (r, D) et s·Bᵀ (r, E), contigus, en fp32, sur le périphérique
            du modèle.
        sha256: l'empreinte de ce qu'il ajoute.
        number: le sien : aucun autre de ce processus ne l'a eu ni ne l'aura.
    """

    layers: Mapping[str, tuple[Tensor, Tensor]]
    sha256: str
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def rank(self) -> int:
        """Le plus grand rang de ses matrices."""
        return max((len(a) for a, _ in self.layers.values()), default=0)

    @property
    def nbytes(self) -> int:
        """Octets de ses matrices."""
        return sum(each.nbytes for pair in self.layers.values() for each in pair)


def add_adapters_(out: Tensor, x: Tensor, path: str, rows: Sequence[Adapter | None]) -> None:
    """out (L, T, E) += s·B·A·x, x (L, T, D), chaque ligne avec son adaptateur.

    Args:
        path: nom de la matrice.
        rows: l'adaptateur de chaque ligne ; None : le modèle seul. Vide : aucune n'en a.
    """
    for adapter in dict.fromkeys(rows):
        pair = None if adapter is None else adapter.layers.get(path)
        if pair is not None:
            a, b = pair
            chosen = [row for row, each in enumerate(rows) if each is adapter]
            out[chosen] += (x[chosen].to(a.dtype) @ a.t() @ b).to(out.dtype)


Network = TypeVar("Network", bound=nn.Module)


def with_adapter(model: Network, adapter: Adapter) -> Network:
    """Le même réseau, aux mêmes poids en mémoire, dont tout ce qu'il lit passe par un adaptateur.

    Pour regarder dans un affinage sans le fondre. Le modèle donné n'est ni modifié ni instrumenté.
    """
    shared = {id(each): each for each in chain(model.parameters(), model.buffers())}
    found = deepcopy(model, shared)

    def adding(path: str) -> Any:
        def add(_layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            add_adapters_(out, args[0], path, [adapter] * len(out))

        return add

    for path in adapter.layers:
        found.get_submodule(path).register_forward_hook(adding(path))
    return found


_following = WeakSet[nn.Module]()


def follow_adapters_(model: nn.Module) -> None:
    """Fait suivre à un `GPTModel` les adaptateurs des lignes du cache qu'il reçoit.

    De l'extérieur, sans toucher à ses poids : un passage sans cache, ou dont aucune ligne n'a
    d'adaptateur, est le même au bit près. Sans effet la seconde fois.
    """
    if model in _following:
        return
    _following.add(model)
    current = threading.local()  # le studio lit le même modèle d'un autre thread

    def choose(_model: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        cache: Any = args[1] if len(args) > 1 else options.get("cache")
        rows = [] if cache is None else cache.adapters
        current.rows = list(rows) if any(rows) else []

    def adding(path: str) -> Any:
        def add(_layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if rows := getattr(current, "rows", None):
                add_adapters_(out, args[0], path, rows)

        return add

    model.register_forward_pre_hook(choose, with_kwargs=True)
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(adding(path))
