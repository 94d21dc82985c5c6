"""Initialisation des poids de GPT-2 (Radford et al., 2019).

Le mode livre garde l'initialisation par défaut de PyTorch et n'a rien à faire ici.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

STD = 0.02
"""Écart-type des matrices et des embeddings de GPT-2."""


class WithoutDraws(TorchFunctionMode):
    """Contexte où aucun poids n'est tiré : pour ceux qui vont être remplacés.

    Sur le périphérique meta aussi, un tirage coûterait : le premier y charge, en plus de deux
    secondes, les décompositions de PyTorch et son compilateur.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Passe l'appel, sauf un tirage."""
        del types
        named = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


_DRAWS = (
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_),
)


@torch.no_grad()
def initialize_gpt2_(model: nn.Module, n_layers: int) -> None:
    """Initialise `model` sur place, dans l'ordre de ses modules.

    Matrices et embeddings ~ N(0 ; 0,02), biais nuls ; les projections qui reviennent sur
    le flux résiduel (`att.out_proj` et `ff.layers.2`) ~ N(0 ; 0,02 / √(2·n_layers)), pour
    que sa variance ne croisse pas avec la profondeur.
    """
    residual_std = STD / math.sqrt(2 * n_layers)
    done: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        if id(module.weight) not in done:  # la tête liée n'est tirée qu'une fois
            is_residual = name.endswith(("att.out_proj", "ff.layers.2"))
            module.weight.normal_(mean=0.0, std=residual_std if is_residual else STD)
            done.add(id(module.weight))
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
