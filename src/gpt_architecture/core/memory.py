"""Mémoire du processus : rendre au système ce qui ne sert plus."""

from __future__ import annotations

import ctypes
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


_MADV_PAGEOUT = 21  # numéro de ce conseil dans mman.h, depuis Linux 5.4


def release_library_pages() -> bool:
    """Rend au système les pages de bibliothèques que les imports ont lues et qui ne servent plus.

    Elles viennent de fichiers : celles qui resserviront seront relues du cache du disque. Une page
    qu'un autre processus tient aussi reste en place.

    Returns:
        Vrai si le système a entendu ; faux hors de Linux, où rien ne change.
    """
    if sys.platform != "linux":
        return False
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    heard = False
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        if "w" in rights or not path or (not path[0].endswith(".so") and ".so." not in path[0]):
            continue
        start, end = (int(bound, 16) for bound in span.split("-"))
        heard |= advise(start, end - start, _MADV_PAGEOUT) == 0
    return heard
