"""La machine : le périphérique, la mémoire du processus, ce que plusieurs threads se partagent.

Après un `fork`, l'enfant n'a plus qu'un thread. Un verrou que tenait un autre ne lui serait jamais
rendu, et le moteur OpenMP de PyTorch, s'il a calculé à plusieurs threads dans le parent, y
attendrait pour toujours ceux qui n'existent plus : l'enfant calcule donc à un seul thread, comme le
font déjà les processus d'un `DataLoader`.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import plural

_HUGE_PAGE = 2 << 20
_M_MMAP_THRESHOLD = -3  # numéro de ce réglage dans malloc.h
_THRESHOLD = 1_500_000  # octets : juste sous les activations d'un lot de référence (512 × 768)


def resolve_device(name: str = "auto") -> torch.device:
    """Périphérique demandé, ou le meilleur présent : cuda, puis mps, puis cpu.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigurationError: nom inconnu ou périphérique absent.
    """
    accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available = [*(kind for kind, found in accelerators.items() if found), "cpu"]
    if name == "auto":
        return torch.device(available[0])
    with suppress(RuntimeError):  # un nom que PyTorch ne connaît pas
        device = torch.device(name)
        counted = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
        if device.type in available and counted:
            return device
    raise ConfigurationError(
        f"périphérique {name!r} introuvable",
        expected=f"auto ou l'un des périphériques présents ({', '.join(available)})",
        remedy="changez `device`",
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Dans ce bloc, ce thread calcule seul.

    Un petit calcul partagé attend que l'autre thread ait un cœur : des millisecondes, si d'autres
    s'en servent, pour quelques microsecondes gagnées. Rien ne change pour les autres threads, ceux
    qui naissent entre-temps compris : `torch.set_num_threads` leur laisserait ce nombre.
    """
    threads = torch.get_num_threads()  # à sa première question, un thread reçoit le nombre commun
    choose = _thread_chooser()
    if threads == 1 or choose is None:
        yield
        return
    choose(1)
    try:
        yield
    finally:
        choose(threads)


@lru_cache(maxsize=1)
def _thread_chooser() -> Callable[[int], None] | None:
    """`omp_set_num_threads` de l'OpenMP de PyTorch : du seul thread appelant ; None : absent."""
    try:
        choose = ctypes.CDLL(None).omp_set_num_threads
    except (AttributeError, OSError, TypeError):  # Windows n'a pas de bibliothèque globale
        return None
    choose.argtypes, choose.restype = (ctypes.c_int,), None
    return cast(Callable[[int], None], choose)


def describe_device(device: torch.device) -> str:
    """Nom lisible : « cuda (NVIDIA A100) », « cpu (2 threads) »."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} {plural(threads, 'thread')})"
    return str(device)


class Processor(NamedTuple):
    """Ce que `cpuid` dit d'un processeur x86."""

    vendor: str
    family: int
    model: int


UNKNOWN_PROCESSOR = Processor("", 0, 0)
"""Un processeur qui n'est pas x86, ou que le système ne nomme pas."""


@lru_cache(maxsize=1)
def processor() -> Processor:
    """Le processeur de cette machine."""
    if sys.platform == "linux":
        with suppress(OSError):
            return read_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return read_processor(platform.processor())


@lru_cache(maxsize=1)
def instructions() -> frozenset[str]:
    """Les jeux d'instructions de ce processeur, aux noms de `torch.cpu.get_capabilities`.

    Lus une fois, ici seulement : ce qui en dépend ne change pas au cours d'un processus.
    """
    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)


def read_processor(text: str) -> Processor:
    """Le premier processeur que nomme un texte : celui de `/proc/cpuinfo`, ou de Windows.

    Args:
        text: des lignes « cpu family : 26 », ou « AMD64 Family 26 Model 2 …, AuthenticAMD ».
    """
    vendor = re.search(r"\b(AuthenticAMD|GenuineIntel|HygonGenuine|CentaurHauls)\b", text)
    family = re.search(r"\bfamily\s*:?\s*([0-9]+)", text, re.IGNORECASE)
    model = re.search(r"\bmodel\s*:?\s*([0-9]+)", text, re.IGNORECASE)
    if not (vendor and family and model):
        return UNKNOWN_PROCESSOR
    return Processor(vendor[1], int(family[1]), int(model[1]))


def peak_resident() -> int:
    """Mémoire résidente du processus au plus haut, en octets ; 0 si le système ne la dit pas.

    Linux compte dans `ru_maxrss` le plus haut de qui a lancé le processus : `VmHWM` ne le fait pas.
    """
    if noted := _noted_by_linux("VmHWM"):
        return noted
    try:
        import resource  # noqa: PLC0415 — absent de Windows
    except ImportError:
        return _peak_of_windows() if hasattr(ctypes, "WinDLL") else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident() -> int:
    """Mémoire résidente du processus à présent, en octets ; hors de Linux, son plus haut."""
    return _noted_by_linux("VmRSS") or peak_resident()


def _noted_by_linux(name: str) -> int:
    """Une mémoire, en octets, que tient le noyau de Linux ; 0 ailleurs."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(rf"^{name}:\s+([0-9]+) kB$", status, re.MULTILINE):
            return int(found[1]) * 1024
    return 0


class _Counters(ctypes.Structure):
    """`PROCESS_MEMORY_COUNTERS` de psapi.h."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        *((f"other_{rank}", ctypes.c_size_t) for rank in range(7)),
    )


def _peak_of_windows() -> int:
    """Le plus haut que Windows a noté."""
    kernel = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 — absent d'ici, dit mypy
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    read = kernel.K32GetProcessMemoryInfo(
        kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb
    )
    return counters.peak_working_set if read else 0


def huge_zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tenseur de zéros sur CPU, aligné, en grandes pages si elles existent.

    Le système les donne au premier accès, déjà à zéro : ce qui ne sert pas ne coûte rien.

    Raises:
        MemoryError: le système les refuse.
    """
    size = dtype.itemsize * math.prod(shape)
    if size < _HUGE_PAGE or sys.platform != "linux":
        return torch.zeros(shape, dtype=dtype, device="cpu")
    length = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    try:
        area = mmap.mmap(-1, length + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"can't allocate memory: {size} octets") from error
    start = -np.frombuffer(area, dtype=np.uint8).ctypes.data % _HUGE_PAGE
    with suppress(OSError, AttributeError):  # un noyau sans grandes pages
        area.madvise(mmap.MADV_HUGEPAGE, start, length)
    octets = np.frombuffer(area, dtype=np.uint8, count=size, offset=start)
    return torch.from_numpy(octets).view(dtype).view(shape)


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


class Turn:
    """Un thread à la fois ; les autres attendent. Réentrant, et neuf dans l'enfant d'un fork."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _TURNS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        """Une copie a son propre tour."""
        return Turn, ()

    def renew(self) -> None:
        """Oublie le thread qui le tient, s'il est resté dans le parent."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def after_fork(callback: Callable[[], None]) -> None:
    """Appelle `callback` dans tout enfant d'un `fork` à venir, avant qu'il ne calcule."""
    if hasattr(os, "register_at_fork"):  # Windows n'a pas de fork
        os.register_at_fork(after_in_child=callback)


_TURNS = WeakSet[Turn]()


def _in_child() -> None:
    for turn in list(_TURNS):
        turn.renew()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


after_fork(_in_child)
