"""Une suite de noyaux rejouée d'un seul appel, sans revenir à Python entre deux.

Un token demande une soixantaine de noyaux de quelques dizaines de microsecondes : les lancer un
à un depuis Python prendrait une part visible du temps. Le programme est un tableau d'entiers, une
ligne par noyau (voir `threads.table`) ; entre deux passages, seuls les mots qui changent sont
récrits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from gpt_architecture.kernels.threads import HEADER, SLOT, kernel, openmp, pointer, table

ARGUMENTS = 14
"""Arguments d'un noyau de programme, au plus."""

_WORDS = HEADER + SLOT * ARGUMENTS
_ITEMS = HEADER - 1


@intrinsic
def _run(typingctx: Any, runner: Any, function: Any, data: Any, threads: Any) -> Any:
    """Appelle `function(data)` : par `runner` (GOMP_parallel) à plusieurs fils, ou directement."""
    del typingctx, runner, function, data, threads

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        runner, function, data, threads = arguments
        byte, word = cgutils.voidptr_t, ir.IntType(32)
        body = ir.FunctionType(ir.VoidType(), [byte])
        team = ir.FunctionType(ir.VoidType(), [byte, byte, word, word])
        where = builder.inttoptr(data, byte)
        several = builder.icmp_signed(">", threads, ir.Constant(threads.type, 1))
        with builder.if_else(several) as (parallel, alone):
            with parallel:
                builder.call(
                    builder.inttoptr(runner, team.as_pointer()),
                    [
                        builder.inttoptr(function, byte),
                        where,
                        builder.trunc(threads, word),
                        ir.Constant(word, 0),
                    ],
                )
            with alone:
                builder.call(builder.inttoptr(function, body.as_pointer()), [where])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@kernel
def run_(data: Any) -> None:
    """Passe les noyaux dans l'ordre ; un noyau d'un seul lot est exécuté sans réveiller personne.

    Mots : lanceur, fils, nombre de noyaux, puis leurs adresses et celle du tableau.
    """
    d = carray(data, (5,), np.int64)
    functions = carray(pointer(d[3]), (d[2],), np.int64)
    tables = carray(pointer(d[4]), (d[2], _WORDS), np.int64)
    for i in range(d[2]):
        tables[i, 0] = 0
        threads = d[1] if tables[i, _ITEMS] > 1 else 1
        _run(d[0], functions[i], d[4] + 8 * _WORDS * i, threads)


class Program:
    """Des noyaux et leurs arguments, dans l'ordre.

    Les tenseurs donnés sont gardés aussi longtemps que lui : les noyaux n'ont que leur adresse.
    """

    def __init__(self) -> None:
        self._functions: list[int] = []
        self._rows: list[list[int]] = []
        self._kept: list[tuple[Tensor | float, ...]] = []
        self._tables = np.zeros((0, _WORDS), np.int64)
        self._call = np.zeros(5, np.int64)

    def add(self, kernel: Any, items: int, *arguments: Tensor | float) -> int:
        """Ajoute un noyau ; rend son numéro. Voir `threads.table`."""
        words = table(items, *arguments)
        self._functions.append(kernel.address)
        self._rows.append(words + [0] * (_WORDS - len(words)))
        self._kept.append(arguments)
        return len(self._rows) - 1

    def seal(self) -> None:
        """Fixe le programme : il peut tourner."""
        self._tables = np.array(self._rows, np.int64)
        self._addresses = np.array(self._functions, np.int64)
        runner = openmp()
        self._runner = 0 if runner is None else ctypes.cast(runner, ctypes.c_void_p).value or 0

    def items(self, phase: int) -> int:
        """Nombre de lots du noyau `phase`."""
        return int(self._tables[phase, _ITEMS])

    def set_items_(self, phases: Sequence[int], items: int) -> None:
        """Change le nombre de lots des noyaux `phases`."""
        self._tables[phases, _ITEMS] = items

    def set_word_(self, phases: Sequence[int], argument: int, value: int) -> None:
        """Change l'entier, ou l'adresse, de l'argument numéro `argument` des noyaux `phases`."""
        self._tables[phases, HEADER + SLOT * argument] = value

    def run(self) -> None:
        """Exécute tout, avec autant de fils que PyTorch."""
        self._call[:] = (
            self._runner,
            torch.get_num_threads() if self._runner else 1,
            len(self._tables),
            self._addresses.ctypes.data,
            self._tables.ctypes.data,
        )
        run_.ctypes(self._call.ctypes.data)
