"""Une suite de noyaux rejouée d'un seul appel, par une seule équipe de threads.

Un token demande une soixantaine de noyaux de quelques dizaines de microsecondes : les lancer un
à un depuis Python prendrait une part visible du temps. Le programme est un tableau d'entiers, une
ligne par noyau (voir `kernel.table`) ; entre deux passages, seuls les mots qui changent sont
récrits.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Sequence
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray
from numba.core import cgutils
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.kernels.runtime.crew import Crew
from gpt_architecture.kernels.runtime.kernel import (
    ARGUMENTS,
    HEADER,
    SLOT,
    UNFINISHED,
    Kernel,
    Lots,
    emitted,
    interrupted,
    kernel,
    openmp,
    pointer,
    table,
)

_LINE = 8  # mots d'une ligne de cache
_WORDS = -(-(HEADER + SLOT * ARGUMENTS) // _LINE) * _LINE
_INSIDE, _ITEMS = 1, HEADER - 1
_WORD = ir.IntType(64)

_PATIENCE = 1 << 11
"""Tours d'attente avant de rendre le cœur : assez pour le plus long lot, trop peu pour gêner."""

_CALL = 16
"""Mots d'un appel : le noyau ouvert, dans sa ligne de cache, puis ce que lit `team_`."""
_OPENED, _FIRST = 0, 8


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
def _add(builder: Any, place: Any, amount: Any) -> Any:
    """Ajoute au mot à cette adresse, et le rend ; ce qui précède est vu de qui le lit ensuite."""
    target = builder.inttoptr(place, _WORD.as_pointer())
    return builder.add(builder.atomic_rmw("add", target, amount, "acq_rel"), amount)


@emitted
def _raise(builder: Any, place: Any, value: Any) -> None:
    """Porte à `value` un mot que d'autres threads attendent, s'il n'y est pas déjà."""
    target = builder.inttoptr(place, _WORD.as_pointer())
    builder.atomic_rmw("max", target, value, "acq_rel")


@emitted
def _read(builder: Any, place: Any) -> Any:
    """Le mot à cette adresse, qu'un autre thread écrit ; le cœur se repose un instant avant."""
    if platform.machine() in ("x86_64", "AMD64"):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
    target = builder.inttoptr(place, _WORD.as_pointer())
    return builder.load_atomic(target, "acquire", 8)


@kernel
def team_(call: Lots) -> None:
    """Ce que fait chaque thread : tous les noyaux, dans l'ordre.

    Un noyau ne commence que lorsque le précédent est fini : ses lots sont tous pris, et aucun
    thread n'y est encore. Un thread que le système a mis de côté n'est donc attendu que s'il tient
    un lot ; sinon les autres avancent sans lui, et il les rejoint au noyau ouvert. Relancer une
    équipe à chaque noyau coûterait vingt fois plus.

    Mots, après le noyau ouvert : adresse de `sched_yield` (0 : aucune), nombre de noyaux, leurs
    adresses, celle de leurs tableaux, celle du noyau ouvert.
    """
    d = carray(call, (_CALL,), np.int64)
    rest, phases, tables, opened = d[_FIRST], d[_FIRST + 1], d[_FIRST + 3], d[_FIRST + 4]
    functions = carray(pointer(d[_FIRST + 2]), (phases,), np.int64)
    phase = _read(opened)
    while phase < phases:
        row = tables + 8 * _WORDS * phase
        _add(row + 8 * _INSIDE, 1)
        _call(functions[phase], row)
        if _add(row + 8 * _INSIDE, -1) == 0:
            _raise(opened, phase + 1)
        done, turns = phase, 0
        phase = _read(opened)
        while phase <= done:
            turns += 1
            if turns > _PATIENCE and rest != 0:
                _ask(rest)
            phase = _read(opened)


class Words:
    """Des entiers que Python écrit entre deux passages, et que les noyaux lisent."""

    def __init__(self, size: int) -> None:
        self.tensor = torch.zeros(size, dtype=torch.int64)
        self._words = (ctypes.c_int64 * size).from_address(self.tensor.data_ptr())

    def write(self, values: Sequence[int]) -> None:
        """Écrit les premiers."""
        self._words[: len(values)] = values  # type: ignore[call-overload] # une suite suffit


class Program:
    """Des noyaux et leurs arguments, dans l'ordre.

    Les tenseurs donnés sont gardés aussi longtemps que lui : les noyaux n'ont que leur adresse.
    """

    def __init__(self) -> None:
        self._kernels: list[Kernel] = []
        self._rows: list[list[int]] = []
        self._kept: list[tuple[Tensor | float, ...]] = []
        self._tables = np.zeros((0, _WORDS), np.int64)
        self._call = np.zeros(_CALL, np.int64)
        self._crew = Crew(1)

    def add(self, kernel: Kernel, items: int, *arguments: Tensor | float) -> int:
        """Ajoute un noyau ; rend son numéro. Voir `kernel.table`."""
        words = table(kernel, items, *arguments)
        self._kernels.append(kernel)
        self._rows.append(words + [0] * (_WORDS - len(words)))
        self._kept.append(arguments)
        return len(self._rows) - 1

    def seal(self) -> None:
        """Fixe le programme : il peut tourner."""
        self._tables, self._call = _aligned(len(self._rows), _WORDS), _aligned(_CALL)
        self._tables[:] = self._rows
        self._addresses = np.array([each.address for each in self._kernels], np.int64)
        self._data = self._call.ctypes.data
        self._call[_FIRST:][:5] = (
            _address("sched_yield"),
            len(self._tables),
            self._addresses.ctypes.data,
            self._tables.ctypes.data,
            self._data,
        )

    def items(self, phase: int) -> int:
        """Nombre de lots du noyau `phase`."""
        return int(self._tables[phase, _ITEMS])

    def set_items_(self, phases: Sequence[int], items: int) -> None:
        """Change le nombre de lots des noyaux `phases`."""
        self._tables[phases, _ITEMS] = items

    def set_word_(self, phases: Sequence[int], argument: str, value: int) -> None:
        """Change l'entier, ou l'adresse, de l'argument nommé `argument` des noyaux `phases`."""
        for phase in phases:
            self._tables[phase, HEADER + SLOT * self._kernels[phase].slot(argument)] = value

    def run(self) -> None:
        """Exécute tout, avec autant de threads que PyTorch, ou moins s'ils manquent de cœurs.

        Raises:
            MemoryError: la mémoire a manqué à un noyau ; le passage est à refaire.
        """
        self._run()
        if (unfinished := self._tables[:, UNFINISHED]).any():
            raise interrupted(self._kernels[int(unfinished.argmax())])

    def _run(self) -> None:
        self._tables[:, : UNFINISHED + 1] = 0
        self._call[_OPENED] = 0
        runner, threads, data = openmp(), torch.get_num_threads(), self._data
        if threads != self._crew.most:
            self._crew = Crew(threads)
        if runner is None or threads == 1:
            team_.compiled.ctypes(data)
            return
        start, busy = perf_counter(), process_time()
        if self._crew.size == 1:
            team_.compiled.ctypes(data)
        else:
            runner(team_.address, data, self._crew.size, 0)
        self._crew.note(perf_counter() - start, process_time() - busy)


def _aligned(*shape: int) -> NDArray[np.int64]:
    """Un tableau de zéros qui commence une ligne de cache."""
    found = np.zeros(math.prod(shape) + _LINE, np.int64)
    skipped = -found.ctypes.data % (8 * _LINE) // 8
    return found[skipped : skipped + math.prod(shape)].reshape(shape)


def _address(name: str) -> int:
    """Adresse d'une fonction C du processus ; 0 si elle manque, ou si les threads sont seuls."""
    if openmp() is None:
        return 0
    try:
        return ctypes.cast(ctypes.CDLL(None)[name], ctypes.c_void_p).value or 0
    except AttributeError:
        return 0
