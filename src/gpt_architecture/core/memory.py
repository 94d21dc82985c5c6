"""Mémoire du processus : rendre au système ce qui ne sert plus."""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from pathlib import Path

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


def drop_library_code(name: str) -> int:
    """Rend au système les pages de code d'une bibliothèque qui ne sert plus qu'à l'occasion.

    Ces pages sont relues depuis le disque si l'on y revient : rien n'est perdu. Les zones où la
    bibliothèque a écrit ne sont pas touchées.

    Args:
        name: fin du nom de son fichier, par exemple `libllvmlite.so`.

    Returns:
        Octets des zones concernées ; 0 hors de Linux.
    """
    if sys.platform != "linux":
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    total = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        bounds, permissions, *_, path = line.split(maxsplit=5)
        if not path.endswith(name) or permissions != "r-xp":
            continue
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        if advise(start, end - start, mmap.MADV_DONTNEED) == 0:
            total += end - start
    return total
