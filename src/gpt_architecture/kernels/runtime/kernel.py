"""Écrire un noyau compilé, et le lancer sur les fils de PyTorch.

Numba a son propre groupe de fils : après chaque produit de matrices, ceux de PyTorch attendent
en tournant à vide et lui disputent les cœurs (mesuré : un pas jusqu'à trois fois plus long). Un
noyau est donc une fonction C que le moteur OpenMP de PyTorch exécute lui-même.

Elle reçoit un tableau d'entiers : compteur partagé, à sa place, nombre de lots, puis cinq mots par
argument (adresse ou valeur, et au plus quatre dimensions). Chaque fil prend les lots un à un. Qui
écrit un noyau n'en voit rien : il nomme ses arguments dans sa signature (voir docs/noyaux.md).
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import inspect
import logging
import struct
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

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

SLOT, HEADER = 5, 9
"""Mots d'un argument, et mots qui les précèdent : le compteur a sa ligne de cache, sans quoi
chaque lot pris ferait relire les arguments à tous les fils."""

ARGUMENTS = 16
"""Arguments d'un noyau, au plus."""

_OPTIONS: dict[str, Any] = {"inline": "always", "cache": True}

# --- Ce qu'un noyau lit ----------------------------------------------------------------------


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
def _words(lots: Any) -> Any:
    return carray(lots, (HEADER + SLOT * ARGUMENTS,), np.int64)


@njit(**_OPTIONS)
def claim(lots: Any) -> Any:
    """Le prochain lot à faire ; au-delà du dernier, c'est fini."""
    return _fetch_add(lots)


@njit(**_OPTIONS)
def count(lots: Any) -> Any:
    """Nombre de lots."""
    return _words(lots)[HEADER - 1]


@njit(**_OPTIONS)
def _integer(d: Any, i: Any) -> Any:
    return d[HEADER + SLOT * i]


@njit(**_OPTIONS)
def _real(d: Any, i: Any) -> Any:
    return np.int32(d[HEADER + SLOT * i]).view(np.float32)


@njit(**_OPTIONS)
def _vector(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.float32)


@njit(**_OPTIONS)
def _matrix(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2]), np.float32)


@njit(**_OPTIONS)
def _cube(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2], d[k + 3]), np.float32)


@njit(**_OPTIONS)
def _integers(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.int64)


@njit(**_OPTIONS)
def _shorts(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1], d[k + 2]), np.int16)


@njit(**_OPTIONS)
def _halves(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return carray(pointer(d[k]), (d[k + 1],), np.uint16)


class _Place(NamedTuple):
    address: int
    rows: int
    width: int


@njit(**_OPTIONS)
def _place(d: Any, i: Any) -> Any:
    k = HEADER + SLOT * i
    return _Place(d[k], d[k + 1], d[k + 2])


Lots = Any
Integer = Any
Real = Any
Vector = Any
Matrix = Any
Cube = Any
Integers = Any
Shorts = Any
Halves = Any
Place = Any
"""Les arguments d'un noyau, tels que sa signature les nomme ; le premier est toujours `Lots`.

`Integer` et `Real` sont des nombres (int64, fp32) ; `Vector`, `Matrix`, `Cube` des tenseurs fp32 à
une, deux ou trois dimensions ; `Integers` (n,) int64, `Shorts` (n, m) int16, `Halves` (n,) bf16 lu
comme uint16. D'un `Place` (rows, width), de tout type, le noyau ne prend que `address`.
"""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Comment un noyau lit un argument, et ce que l'appelant doit donner.

    Attributes:
        read: (mots, rang) → la valeur, dans le noyau.
        dims: dimensions du tenseur ; None : un nombre.
        dtypes: types permis du tenseur ; vide : tous.
        number: type du nombre ; None : un tenseur.
    """

    read: Any
    dims: int | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    number: type[float] | type[int] | None = None

    def accepts(self, argument: torch.Tensor | float) -> bool:
        """Vrai si le noyau peut lire cet argument."""
        if isinstance(argument, torch.Tensor):
            known = not self.dtypes or argument.dtype in self.dtypes
            return known and argument.dim() == self.dims and argument.is_contiguous()
        return self.number is not None and isinstance(argument, self.number)


_KINDS = {
    "Integer": _Kind(read=_integer, number=int),
    "Real": _Kind(read=_real, number=float),
    "Vector": _Kind(read=_vector, dims=1, dtypes=(torch.float32,)),
    "Matrix": _Kind(read=_matrix, dims=2, dtypes=(torch.float32,)),
    "Cube": _Kind(read=_cube, dims=3, dtypes=(torch.float32,)),
    "Integers": _Kind(read=_integers, dims=1, dtypes=(torch.int64,)),
    "Shorts": _Kind(read=_shorts, dims=2, dtypes=(torch.int16,)),
    "Halves": _Kind(read=_halves, dims=1, dtypes=(torch.bfloat16,)),
    "Place": _Kind(read=_place, dims=2),
}

# --- Compiler --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Un noyau compilé.

    Attributes:
        name: son nom.
        arguments: leurs noms et leurs sortes, dans l'ordre.
        compiled: la fonction C, telle que Numba la rend : elle la garde en vie.
    """

    name: str
    arguments: dict[str, str]
    compiled: Any

    @property
    def address(self) -> int:
        """Adresse de la fonction C."""
        address: int = self.compiled.address
        return address

    def slot(self, name: str) -> int:
        """Rang de l'argument `name`."""
        return list(self.arguments).index(name)


def digest(folder: Path | str) -> str:
    """Empreinte des sources d'un dossier : un mot changé quelque part en donne une autre."""
    folder = Path(folder)
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()[:12]


SOURCES = digest(Path(__file__).parents[1])
"""Ce dont le code compilé dépend : toutes les sources de `kernels`."""


def kernel(body: Any) -> Kernel:
    """Compile un noyau ; le résultat est gardé sur disque d'un lancement à l'autre.

    Numba date ce cache du seul fichier du noyau : l'empreinte de toutes les sources de `kernels`,
    fonctions incluses et constantes figées comprises, est donc mise dans son nom.
    """
    function, arguments = _reading_arguments(body)
    function.__qualname__ = f"{body.__name__}_{SOURCES}"
    compiled = cfunc(types.void(types.voidptr), fastmath=FAST, cache=True, error_model="numpy")(
        function
    )
    return Kernel(name=body.__name__, arguments=arguments, compiled=compiled)


def _reading_arguments(body: FunctionType) -> tuple[FunctionType, dict[str, str]]:
    """`body`, dont tous les arguments sauf le premier sont lus dans ses mots, et leurs sortes.

    Une fonction C lancée par OpenMP ne reçoit qu'un pointeur : chaque argument de la signature
    devient une affectation au début du corps. Fichier et lignes restent ceux de la source.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    lots, *others = function.args.args
    arguments = {each.arg: ast.unparse(each.annotation or each) for each in others}
    reads = [f"__words = __Lots({lots.arg})"]
    reads += [
        f"{name} = __{kind}(__words, {i})" for i, (name, kind) in enumerate(arguments.items())
    ]
    prologue = ast.parse("\n".join(reads)).body
    for node in (node for statement in prologue for node in ast.walk(statement)):
        ast.copy_location(node, function)
    function.body[:0] = prologue
    function.args.args, function.decorator_list = [lots], []
    ast.increment_lineno(tree, body.__code__.co_firstlineno - 1)
    module = compile(tree, body.__code__.co_filename, "exec")
    code = next(each for each in module.co_consts if isinstance(each, CodeType))
    readers = {f"__{name}": kind.read for name, kind in _KINDS.items()}
    names = {**body.__globals__, **readers, "__Lots": _words}
    return FunctionType(code, names, body.__name__), arguments


# --- Lancer ----------------------------------------------------------------------------------


def table(kernel: Kernel, items: int, *arguments: torch.Tensor | float) -> list[int]:
    """Les mots d'un noyau pour `items` lots.

    Args:
        arguments: tenseurs CPU contigus, entiers ou flottants, dans l'ordre de sa signature.

    Raises:
        TypeError: un argument manque, est de trop, ou n'est pas de la sorte annoncée : le noyau
            lirait hors de ses tableaux.
    """
    if len(arguments) != len(kernel.arguments):
        raise TypeError(f"{kernel.name} : {len(arguments)} arguments pour {[*kernel.arguments]}")
    found = [0] * (HEADER - 1) + [items]
    for argument, (name, kind) in zip(arguments, kernel.arguments.items(), strict=True):
        if not _KINDS[kind].accepts(argument):
            raise TypeError(f"{kernel.name} : {name} n'est pas un {kind} contigu ({argument!r})")
        if isinstance(argument, torch.Tensor):
            shape = argument.shape
            found += (argument.data_ptr(), *shape, *((0,) * (SLOT - 1 - len(shape))))
        else:
            word = argument if isinstance(argument, int) else _bits(argument)
            found += (word, 0, 0, 0, 0)
    return found


def launch(kernel: Kernel, items: int, *arguments: torch.Tensor | float) -> None:
    """Exécute `kernel` sur `items` lots, avec autant de fils que PyTorch ; voir `table`."""
    found = table(kernel, items, *arguments)
    data = (ctypes.c_int64 * len(found))(*found)
    runner, threads = openmp(), min(torch.get_num_threads(), items)
    if runner is None or threads <= 1:
        kernel.compiled.ctypes(ctypes.addressof(data))
    else:
        runner(kernel.address, ctypes.addressof(data), threads, 0)


def _bits(value: float) -> int:
    """Les 32 bits d'un fp32, lus comme un entier signé."""
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
