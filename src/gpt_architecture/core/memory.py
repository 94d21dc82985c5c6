"""Mémoire du processus : rendre au système ce qui ne sert plus."""

from __future__ import annotations

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # numéro de ce réglage dans malloc.h
_THRESHOLD = 1_500_000  # octets : juste sous les activations d'un lot de référence (512 × 768)


def return_freed_memory() -> bool:
    """Demande à la glibc de rendre aussitôt au système les blocs de 1,5 Mo et plus.

    Sans ce réglage, elle garde pour elle les activations et les gradients libérés, en morceaux
    qui ne se réemploient pas : la mémoire résidente d'un entraînement dépasse d'environ
    0,3 Go ce qui sert. Le prix est un peu de temps, celui de redemander les pages.

    Returns:
        Vrai si le réglage est pris ; faux hors de Linux et de la glibc, où rien ne change.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
