"""L'arithmétique rapide sur processeur ; chaque noyau a PyTorch pour oracle.

- `decode/` : Le décodage compilé : les poids compactés, et un pas entier d'un seul appel.
- `runtime/` : Ce sur quoi tournent les noyaux : fils, programmes, IR, tampons.
- `train/` : Le pas d'entraînement fusionné, écrit à la main.
"""

from __future__ import annotations

import importlib
import importlib.util

from gpt_architecture.errors import reason

NO_NUMBA = "numba manque (pip install numba)"


def loading_obstacle(module: str) -> str | None:
    """Pourquoi les noyaux de `kernels.<module>` ne se chargent pas ici ; None : ils y sont."""
    if importlib.util.find_spec("numba") is None:
        return NO_NUMBA
    try:
        importlib.import_module(f"{__name__}.{module}")
    except Exception as error:  # cache interdit, version refusée, bibliothèque abîmée…
        return f"les noyaux ne se compilent pas ici ({reason(error)})"
    return None
