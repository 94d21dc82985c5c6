"""L'arithmétique rapide sur processeur ; chaque noyau a PyTorch pour oracle.

- `decode/` : Le décodage compilé : les poids compactés, et un pas entier d'un seul appel.
- `runtime/` : Ce sur quoi tournent les noyaux : threads, programmes, IR, tampons.
- `train/` : L'étape d'entraînement fusionnée, écrite à la main.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import reason

NO_NUMBA = "numba manque (pip install numba)"

_FIXED = {"activation": GPTConfig.activation, "norm_eps": GPTConfig.norm_eps}
"""Ce qui est écrit dans les noyaux ; les largeurs y sont libres."""


def loading_obstacle(load: Callable[[], object]) -> str | None:
    """Pourquoi les noyaux qu'importe `load` ne se chargent pas ici ; None : ils y sont."""
    if importlib.util.find_spec("numba") is None:
        return NO_NUMBA
    try:
        load()
    except Exception as error:  # cache interdit, version refusée, bibliothèque abîmée…
        return f"les noyaux ne se compilent pas ici ({reason(error)})"
    return None


def shape_obstacle(cfg: GPTConfig) -> str | None:
    """Ce que les noyaux ne calculent pas d'un modèle de cette forme ; None : ils la calculent."""
    if cfg.head is not None:
        return "ses noyaux rendent des tokens, ce modèle une classe ou une valeur"
    return next(
        (
            f"ses noyaux n'ont que {name} = {_FIXED[name]}, ce modèle a {value}"
            for name, value in cfg.variants().items()
            if name in _FIXED
        ),
        None,
    )
