"""Lancer un noyau compilé sur les fils de PyTorch.

Numba a son propre groupe de fils : après chaque produit de matrices, ceux de PyTorch attendent
en tournant à vide et lui disputent les cœurs (mesuré : un pas jusqu'à trois fois plus long). Un
noyau est donc une fonction C que le moteur OpenMP de PyTorch exécute lui-même.

Un noyau reçoit un tableau d'entiers : compteur partagé, à sa place, nombre de lots, puis cinq mots
par argument (adresse ou valeur, et au plus quatre dimensions). Chaque fil prend les lots un à un.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils, event
from numba.extending import intrinsic

from gpt_architecture.kernels.runtime.arithmetic import FAST

logger = logging.getLogger(__name__)


class Announcement(event.Listener):
    """Dit, une fois, que les noyaux se compilent : sans cela, le premier lancement paraît figé."""

    def on_start(self, event: Any) -> None:
        """Une compilation commence, faute de code gardé sur disque."""
        del event
        if not self.made:
            self.made = True
            logger.info(
                "première utilisation sur cette machine : les noyaux se compilent, une demi-minute"
            )

    def on_end(self, event: Any) -> None:
        """Rien à dire."""

    made = False


event.register("numba:run_pass", Announcement())  # type: ignore[no-untyped-call]

KERNEL = types.void(types.voidptr)
"""Signature d'un noyau."""


_PACKAGE = Path(__file__).parents[1]
_INLINED = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py")))
).hexdigest()[:12]


def kernel(body: Any) -> Any:
    """Compile un noyau ; le résultat est gardé sur disque d'un lancement à l'autre.

    Numba date ce cache du seul fichier du noyau : l'empreinte de toutes les sources de `kernels`,
    fonctions incluses et constantes figées comprises, est donc mise dans son nom.
    """
    body.__qualname__ = f"{body.__qualname__}_{_INLINED}"
    return cfunc(KERNEL, fastmath=FAST, cache=True, error_model="numpy")(body)


SLOT, HEADER = 5, 9
"""Mots d'un argument, et mots qui les précèdent : le compteur a sa ligne de cache, sans quoi
chaque lot pris ferait relire les arguments à tous les fils."""

_OPTIONS: dict[str, Any] = {"inline": "always", "cache": True}


@intrinsic
def _fetch_add(typingctx: Any, pointer: Any) -> Any:
    """Lit le premier mot et l'augmente de 1, d'un seul tenant."""
    del typingctx

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        target = builder.bitcast(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", target, ir.Constant(word, 1), "monotonic")

    return types.int64(types.voidptr), codegen


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """Adresse entière → pointeur."""
    del typingctx

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@njit(**_OPTIONS)
def words(data: Any) -> Any:
    """Les mots d'un noyau."""
    return carray(data, (HEADER + SLOT * 16,), np.int64)


@njit(**_OPTIONS)
def claim(data: Any) -> Any:
    """Le prochain lot à faire ; au-delà du dernier, c'est fini."""
    return _fetch_add(data)


@njit(**_OPTIONS)
def count(d: Any) -> Any:
    """Nombre de lots."""
    return d[HEADER - 1]


@njit(**_OPTIONS)
def address(d: Any, i: Any) -> Any:
    """Adresse d'un argument tenseur."""
    return d[HEADER + SLOT * i]


@njit(**_OPTIONS)
def extent(d: Any, i: Any, axis: Any) -> Any:
    """Taille d'un argument tenseur selon un axe."""
    return d[HEADER + SLOT * i + 1 + axis]


@njit(**_OPTIONS)
def integer(d: Any, i: Any) -> Any:
    """Argument entier."""
    return d[HEADER + SLOT * i]


@njit(**_OPTIONS)
def real(d: Any, i: Any) -> Any:
    """Argument fp32."""
    return np.int32(d[HEADER + SLOT * i]).view(np.float32)


@njit(**_OPTIONS)
def vector(d: Any, i: Any) -> Any:
    """Argument fp32 (n,)."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.float32)


@njit(**_OPTIONS)
def matrix(d: Any, i: Any) -> Any:
    """Argument fp32 (n, m)."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2]), np.float32)


@njit(**_OPTIONS)
def cube(d: Any, i: Any) -> Any:
    """Argument fp32 (n, m, p)."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2], d[k + 3]), np.float32)


@njit(**_OPTIONS)
def integers(d: Any, i: Any) -> Any:
    """Argument int64 (n,)."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.int64)


@njit(**_OPTIONS)
def shorts(d: Any, i: Any) -> Any:
    """Argument 16 bits signés (n, m)."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2]), np.int16)


@njit(**_OPTIONS)
def halves(d: Any, i: Any) -> Any:
    """Argument 16 bits (n,), lu comme uint16."""
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.uint16)


def table(items: int, *arguments: torch.Tensor | float) -> list[int]:
    """Les mots d'un noyau pour `items` lots.

    Args:
        arguments: tenseurs CPU contigus, entiers ou flottants (passés en fp32).
    """
    found = [0] * (HEADER - 1) + [items]
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            shape = argument.shape
            found += (argument.data_ptr(), *shape, *((0,) * (SLOT - 1 - len(shape))))
        else:
            found += (_word(argument), 0, 0, 0, 0)
    return found


def launch(kernel: Any, items: int, *arguments: torch.Tensor | float) -> None:
    """Exécute `kernel` sur `items` lots, avec autant de fils que PyTorch.

    Args:
        kernel: fonction compilée par `numba.cfunc(KERNEL)`.
        items: nombre de lots.
        arguments: voir `table`.
    """
    found = table(items, *arguments)
    data = (ctypes.c_int64 * len(found))(*found)
    runner, threads = openmp(), min(torch.get_num_threads(), items)
    if runner is None or threads <= 1:
        kernel.ctypes(ctypes.addressof(data))
    else:
        runner(kernel.address, ctypes.addressof(data), threads, 0)


def _word(value: float) -> int:
    if isinstance(value, int):
        return value
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


@lru_cache(maxsize=1)
def openmp() -> Any:
    """`GOMP_parallel` du moteur OpenMP de PyTorch ; None s'il n'en offre pas."""
    try:
        runner = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # Windows n'a pas de bibliothèque globale
        return None
    runner.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    runner.restype = None
    return runner
