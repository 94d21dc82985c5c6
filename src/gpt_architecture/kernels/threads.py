"""Lancer un noyau compilé sur les fils de PyTorch.

Numba a son propre groupe de fils : après chaque produit de matrices, ceux de PyTorch attendent
en tournant à vide et lui disputent les cœurs (mesuré : un pas jusqu'à trois fois plus long). Un
noyau est donc une fonction C que le moteur OpenMP de PyTorch exécute lui-même.

Un noyau reçoit un tableau d'entiers : compteur partagé, nombre de lots, puis cinq mots par
argument (adresse ou valeur, et au plus quatre dimensions). Chaque fil prend les lots un à un.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_architecture.kernels import arithmetic
from gpt_architecture.kernels.arithmetic import FAST

KERNEL = types.void(types.voidptr)
"""Signature d'un noyau."""


_INLINED = hashlib.sha256(
    b"".join(Path(path).read_bytes() for path in (__file__, arithmetic.__file__))
).hexdigest()[:12]


def kernel(body: Any) -> Any:
    """Compile un noyau ; le résultat est gardé sur disque d'un lancement à l'autre.

    Numba date ce cache du seul fichier du noyau : l'empreinte des fonctions qu'il inclut est donc
    mise dans son nom.
    """
    body.__qualname__ = f"{body.__qualname__}_{_INLINED}"
    return cfunc(KERNEL, fastmath=FAST, cache=True, error_model="numpy")(body)


SLOT = 5
_HEADER = 2
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
def _pointer(typingctx: Any, address: Any) -> Any:
    """Adresse entière → pointeur."""
    del typingctx

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@njit(**_OPTIONS)
def words(data: Any) -> Any:
    """Les mots d'un noyau."""
    return carray(data, (_HEADER + SLOT * 16,), np.int64)


@njit(**_OPTIONS)
def claim(data: Any) -> Any:
    """Le prochain lot à faire ; au-delà du dernier, c'est fini."""
    return _fetch_add(data)


@njit(**_OPTIONS)
def count(d: Any) -> Any:
    """Nombre de lots."""
    return d[1]


@njit(**_OPTIONS)
def integer(d: Any, i: Any) -> Any:
    """Argument entier."""
    return d[2 + 5 * i]


@njit(**_OPTIONS)
def real(d: Any, i: Any) -> Any:
    """Argument fp32."""
    return np.int32(d[2 + 5 * i]).view(np.float32)


@njit(**_OPTIONS)
def vector(d: Any, i: Any) -> Any:
    """Argument fp32 (n,)."""
    k = 2 + 5 * i
    return carray(_pointer(d[k]), (d[k + 1],), np.float32)


@njit(**_OPTIONS)
def matrix(d: Any, i: Any) -> Any:
    """Argument fp32 (n, m)."""
    k = 2 + 5 * i
    return carray(_pointer(d[k]), (d[k + 1], d[k + 2]), np.float32)


@njit(**_OPTIONS)
def cube(d: Any, i: Any) -> Any:
    """Argument fp32 (n, m, p)."""
    k = 2 + 5 * i
    return carray(_pointer(d[k]), (d[k + 1], d[k + 2], d[k + 3]), np.float32)


@njit(**_OPTIONS)
def integers(d: Any, i: Any) -> Any:
    """Argument int64 (n,)."""
    k = 2 + 5 * i
    return carray(_pointer(d[k]), (d[k + 1],), np.int64)


@njit(**_OPTIONS)
def halves(d: Any, i: Any) -> Any:
    """Argument 16 bits (n,), lu comme uint16."""
    k = 2 + 5 * i
    return carray(_pointer(d[k]), (d[k + 1],), np.uint16)


def launch(kernel: Any, items: int, *arguments: torch.Tensor | float) -> None:
    """Exécute `kernel` sur `items` lots, avec autant de fils que PyTorch.

    Args:
        kernel: fonction compilée par `numba.cfunc(KERNEL)`.
        items: nombre de lots.
        arguments: tenseurs CPU contigus, entiers ou flottants (passés en fp32).
    """
    table = [0, items]
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            shape = argument.shape
            table += (argument.data_ptr(), *shape, *((0,) * (SLOT - 1 - len(shape))))
        else:
            table += (_word(argument), 0, 0, 0, 0)
    data = (ctypes.c_int64 * len(table))(*table)
    runner, threads = _openmp(), min(torch.get_num_threads(), items)
    if runner is None or threads <= 1:
        kernel.ctypes(ctypes.addressof(data))
    else:
        runner(kernel.address, ctypes.addressof(data), threads, 0)


def _word(value: float) -> int:
    if isinstance(value, int):
        return value
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """`GOMP_parallel` du moteur OpenMP de PyTorch ; None s'il n'en offre pas."""
    try:
        runner = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # Windows n'a pas de bibliothèque globale
        return None
    runner.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    runner.restype = None
    return runner
