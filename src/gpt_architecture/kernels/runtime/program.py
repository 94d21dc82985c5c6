"""Une suite de noyaux rejouée d'un seul appel, par une seule équipe de fils.

Un token demande une soixantaine de noyaux de quelques dizaines de microsecondes : les lancer un
à un depuis Python prendrait une part visible du temps. Le programme est un tableau d'entiers, une
ligne par noyau (voir `kernel.table`) ; entre deux passages, seuls les mots qui changent sont
récrits.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray
from numba.core import cgutils
from torch import Tensor

from gpt_architecture.kernels.runtime.kernel import (
    ARGUMENTS,
    HEADER,
    SLOT,
    Kernel,
    Lots,
    emitted,
    kernel,
    openmp,
    pointer,
    table,
)

_WORDS = HEADER + SLOT * ARGUMENTS
_ITEMS = HEADER - 1
_WORD = ir.IntType(64)

_PATIENCE = 1 << 11
"""Tours d'attente avant de rendre le cœur : assez pour le plus long lot, trop peu pour gêner."""

_CALL = 32
"""Mots d'un appel : deux compteurs, chacun dans sa ligne de cache, puis ce que lit `team_`."""
_ARRIVED, _OPENED, _FIRST = 0, 8, 16


@emitted
def _call(builder: Any, function: Any, data: Any) -> None:
    """Appelle le noyau à l'adresse `function`."""
    byte = cgutils.voidptr_t
    body = ir.FunctionType(ir.VoidType(), [byte])
    where = builder.inttoptr(data, byte)
    builder.call(builder.inttoptr(function, body.as_pointer()), [where])


@emitted
def _ask(builder: Any, function: Any) -> Any:
    """Le résultat d'une fonction C sans argument, qui rend un int."""
    kind = ir.FunctionType(ir.IntType(32), []).as_pointer()
    return builder.sext(builder.call(builder.inttoptr(function, kind), []), _WORD)


@emitted
def _arrive(builder: Any, place: Any) -> Any:
    """Augmente de 1 le mot à cette adresse, et le rend ; ce qui précède est vu de qui l'attend."""
    one = ir.Constant(_WORD, 1)
    target = builder.inttoptr(place, _WORD.as_pointer())
    return builder.add(builder.atomic_rmw("add", target, one, "acq_rel"), one)


@emitted
def _read(builder: Any, place: Any) -> Any:
    """Le mot à cette adresse, qu'un autre fil écrit ; le cœur se repose un instant avant."""
    if platform.machine() in ("x86_64", "AMD64"):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
    target = builder.inttoptr(place, _WORD.as_pointer())
    return builder.load_atomic(target, "acquire", 8)


@emitted
def _write(builder: Any, place: Any, value: Any) -> None:
    """Écrit un mot que d'autres fils attendent."""
    target = builder.inttoptr(place, _WORD.as_pointer())
    builder.store_atomic(value, target, "release", 8)


@kernel
def team_(call: Lots) -> None:
    """Ce que fait chaque fil : tous les noyaux, dans l'ordre, en attendant les autres entre deux.

    Un noyau ne commence que lorsque le précédent est fini partout. Les fils se retrouvent par un
    compteur qu'ils relisent : relancer une équipe à chaque noyau coûterait vingt fois plus.

    Mots, après les compteurs : adresses de `omp_get_num_threads` (0 : un seul fil) et de
    `sched_yield` (0 : aucune), nombre de noyaux, leurs adresses, celle de leurs tableaux, celle
    des compteurs.
    """
    d = carray(call, (_CALL,), np.int64)
    threads = _ask(d[_FIRST]) if d[_FIRST] != 0 else 1
    phases, tables, counters = d[_FIRST + 2], d[_FIRST + 4], d[_FIRST + 5]
    functions = carray(pointer(d[_FIRST + 3]), (phases,), np.int64)
    for i in range(phases):
        _call(functions[i], tables + 8 * _WORDS * i)
        if threads == 1:
            continue
        if _arrive(counters + 8 * _ARRIVED) == threads * (i + 1):
            _write(counters + 8 * _OPENED, i + 1)
            continue
        turns = 0
        while _read(counters + 8 * _OPENED) <= i:
            turns += 1
            if turns > _PATIENCE and d[_FIRST + 1] != 0:
                _ask(d[_FIRST + 1])


class Program:
    """Des noyaux et leurs arguments, dans l'ordre.

    Les tenseurs donnés sont gardés aussi longtemps que lui : les noyaux n'ont que leur adresse.
    """

    def __init__(self) -> None:
        self._kernels: list[Kernel] = []
        self._rows: list[list[int]] = []
        self._kept: list[tuple[Tensor | float, ...]] = []
        self._tables = np.zeros((0, _WORDS), np.int64)
        self._call = np.zeros(_CALL + 8, np.int64)

    def add(self, kernel: Kernel, items: int, *arguments: Tensor | float) -> int:
        """Ajoute un noyau ; rend son numéro. Voir `kernel.table`."""
        words = table(kernel, items, *arguments)
        self._kernels.append(kernel)
        self._rows.append(words + [0] * (_WORDS - len(words)))
        self._kept.append(arguments)
        return len(self._rows) - 1

    def seal(self) -> None:
        """Fixe le programme : il peut tourner."""
        self._tables = np.array(self._rows, np.int64)
        self._addresses = np.array([each.address for each in self._kernels], np.int64)
        skipped = -self._call.ctypes.data % 64 // 8  # les compteurs ouvrent une ligne de cache
        self._call = self._call[skipped : skipped + _CALL]
        self._call[_FIRST:][:6] = (
            _address("omp_get_num_threads"),
            _address("sched_yield"),
            len(self._tables),
            self._addresses.ctypes.data,
            self._tables.ctypes.data,
            self._call.ctypes.data,
        )

    def items(self, phase: int) -> int:
        """Nombre de lots du noyau `phase`."""
        return int(self._tables[phase, _ITEMS])

    def set_items_(self, phases: Sequence[int], items: int) -> None:
        """Change le nombre de lots des noyaux `phases`."""
        self._tables[phases, _ITEMS] = items

    def set_word_(self, phases: Sequence[int], argument: str, value: int) -> None:
        """Change l'entier, ou l'adresse, de l'argument nommé `argument` des noyaux `phases`."""
        words = [HEADER + SLOT * self._kernels[phase].slot(argument) for phase in phases]
        self._tables[phases, words] = value

    def run(self) -> None:
        """Exécute tout, avec autant de fils que PyTorch."""
        self._tables[:, 0] = 0
        self._call[:_FIRST] = 0
        runner, threads, data = openmp(), torch.get_num_threads(), self._call.ctypes.data
        if runner is None or threads == 1 or self._call[_FIRST] == 0:
            team_.compiled.ctypes(data)
        else:
            runner(team_.address, data, threads, 0)


def _address(name: str) -> int:
    """Adresse d'une fonction C du processus ; 0 si elle n'y est pas, ou si les fils sont seuls."""
    if openmp() is None:
        return 0
    try:
        return ctypes.cast(ctypes.CDLL(None)[name], ctypes.c_void_p).value or 0
    except AttributeError:
        return 0
