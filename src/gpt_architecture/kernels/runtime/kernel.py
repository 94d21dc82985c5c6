"""Écrire un noyau compilé, et le lancer sur les threads de PyTorch.

Numba a son propre groupe de threads : après chaque produit de matrices, ceux de PyTorch attendent
en tournant à vide et lui disputent les cœurs (mesuré : un pas jusqu'à trois fois plus long). Un
noyau est donc une fonction C que le moteur OpenMP de PyTorch exécute lui-même.

Elle reçoit un tableau d'entiers : compteur partagé, à sa place, nombre de lots, puis cinq mots par
argument (adresse ou valeur, et au plus quatre dimensions). Chaque thread prend les lots un à un.
Qui écrit un noyau n'en voit rien : il nomme ses arguments dans sa signature (voir
docs/architecture/noyaux.md).
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
from numba import carray, cfunc, types
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
                "première utilisation sur cette machine : les noyaux se compilent, une vingtaine "
                "de secondes"
            )

    def on_end(self, event: Any) -> None:
        """Rien à dire."""

    made = False


event.register("numba:run_pass", Announcement())  # type: ignore[no-untyped-call]

SLOT, HEADER = 5, 9
"""Mots d'un argument, et mots qui les précèdent : le compteur a sa ligne de cache, sans quoi
chaque lot pris ferait relire les arguments à tous les threads."""

UNFINISHED = 2
"""Mot où chaque thread ajoute 1 quand il entre dans le noyau, et l'ôte quand il le finit : Numba
n'arrête pas un noyau à qui la mémoire manque, il l'abandonne sans le dire à l'appelant."""

ARGUMENTS = 17
"""Arguments d'un noyau, au plus."""

# --- Ce qu'un noyau lit ----------------------------------------------------------------------


@intrinsic
def claim(typingctx: Any, lots: Any) -> Any:
    """Le prochain lot à faire ; au-delà du dernier, c'est fini."""
    del typingctx, lots

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        target = builder.bitcast(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", target, ir.Constant(word, 1), "acq_rel")

    return types.int64(types.voidptr), codegen


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """Adresse entière → pointeur."""
    del typingctx, address

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


def emitted(body: Any) -> Any:
    """Une fonction qu'un noyau appelle, écrite en IR de LLVM par `body(builder, *arguments)`.

    Ses arguments, et son résultat si `body` en annonce un, sont des entiers de 64 bits.
    """
    signature = inspect.signature(body)
    _, *names = signature.parameters.values()
    result = types.void if signature.return_annotation == "None" else types.int64

    def definition(_typingctx: Any, *_arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            found = body(builder, *arguments)
            return context.get_dummy_value() if found is None else found

        return result(*[types.int64] * len(names)), codegen

    context = inspect.Parameter("_typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    definition.__signature__ = inspect.Signature([context, *names])
    definition.__name__, definition.__doc__ = body.__name__, body.__doc__
    return intrinsic(definition)


@intrinsic
def word(typingctx: Any, lots: Any, rank: Any) -> Any:
    """Le mot de ce rang ; un tableau NumPy coûterait dix fois plus à compiler."""
    del typingctx, lots, rank

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        words = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [arguments[1]]))

    return types.int64(types.voidptr, types.int64), codegen


@intrinsic
def owe(typingctx: Any, lots: Any, amount: Any) -> Any:
    """Ajoute `amount` au mot UNFINISHED."""
    del typingctx, lots, amount

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        words = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        target = builder.gep(words, [ir.Constant(ir.IntType(64), UNFINISHED)])
        builder.atomic_rmw("add", target, arguments[1], "acq_rel")
        return context.get_dummy_value()

    return types.void(types.voidptr, types.int64), codegen


@intrinsic
def count(typingctx: Any, lots: Any) -> Any:
    """Nombre de lots."""
    del typingctx, lots

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        words = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [ir.Constant(ir.IntType(64), HEADER - 1)]))

    return types.int64(types.voidptr), codegen


class _Place(NamedTuple):
    address: int
    rows: int
    width: int


Lots = Any
Integer = Any
Real = Any
Vector = Any
Matrix = Any
Cube = Any
Integers = Any
Counts = Any
Halves = Any
HalfMatrix = Any
Place = Any
"""Les arguments d'un noyau, tels que sa signature les nomme ; le premier est toujours `Lots`.

`Integer` et `Real` sont des nombres (int64, fp32) ; `Vector`, `Matrix`, `Cube` des tenseurs fp32 à
une, deux ou trois dimensions ; `Integers` (n,) int64, `Counts` (n, m) int32, `Halves` (n,) et
`HalfMatrix` (n, m) bf16 lu comme uint16. D'un `Place` (rows, width), de tout type, le noyau ne
prend que `address`.
"""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Comment un noyau lit un argument, et ce que l'appelant doit donner.

    Attributes:
        dims: dimensions du tenseur ; 0 : un nombre.
        dtype: type du tenseur ; None : tous, et le noyau n'en lit que la place.
        name: type NumPy sous lequel le noyau le lit.
        number: type du nombre.
    """

    dims: int = 0
    dtype: torch.dtype | None = None
    name: str = ""
    number: type[float] | type[int] = int

    def accepts(self, argument: torch.Tensor | float) -> bool:
        """Vrai si le noyau peut lire cet argument."""
        if isinstance(argument, torch.Tensor):
            known = self.dtype in (None, argument.dtype) and argument.is_contiguous()
            return known and self.dims > 0 and argument.dim() == self.dims
        return self.dims == 0 and isinstance(argument, self.number)

    def reading(self, lots: str, k: int) -> str:
        """L'expression, dans le noyau, de l'argument dont les mots commencent au rang `k`."""
        first, *sizes = (f"__word({lots}, {k + i})" for i in range(self.dims + 1))
        if self.dims == 0:
            return first if self.number is int else f"__np.int32({first}).view(__np.float32)"
        if self.dtype is None:
            return f"__Place({first}, {', '.join(sizes)})"
        return f"__carray(__pointer({first}), ({', '.join(sizes)},), __np.{self.name})"


_KINDS = {
    "Integer": _Kind(),
    "Real": _Kind(number=float),
    "Vector": _Kind(dims=1, dtype=torch.float32, name="float32"),
    "Matrix": _Kind(dims=2, dtype=torch.float32, name="float32"),
    "Cube": _Kind(dims=3, dtype=torch.float32, name="float32"),
    "Integers": _Kind(dims=1, dtype=torch.int64, name="int64"),
    "Counts": _Kind(dims=2, dtype=torch.int32, name="int32"),
    "Halves": _Kind(dims=1, dtype=torch.bfloat16, name="uint16"),
    "HalfMatrix": _Kind(dims=2, dtype=torch.bfloat16, name="uint16"),
    "Place": _Kind(dims=2),
}

# --- Compiler --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Un noyau compilé.

    Attributes:
        name: son nom.
        arguments: leurs noms et leurs sortes, dans l'ordre.
        compiled: la fonction C, telle que Numba la rend : elle la garde en vie.
        body: la fonction Python.
    """

    name: str
    arguments: dict[str, str]
    compiled: Any
    body: Any

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


def kernel(body: Any, **kinds: str) -> Kernel:
    """Compile un noyau ; le résultat est gardé sur disque d'un lancement à l'autre.

    Numba date ce cache du seul fichier du noyau : l'empreinte de toutes les sources de `kernels`,
    fonctions incluses et constantes figées comprises, est donc mise dans son nom.

    Args:
        body: la fonction.
        kinds: la sorte de chaque argument qui n'est pas celle que dit la signature.
    """
    function, arguments = _reading_arguments(body, kinds)
    function.__qualname__ = "_".join([body.__name__, *map("-".join, kinds.items()), SOURCES])
    compiled = cfunc(types.void(types.voidptr), fastmath=FAST, cache=True, error_model="numpy")(
        function
    )
    return Kernel(name=body.__name__, arguments=arguments, compiled=compiled, body=body)


def _reading_arguments(
    body: FunctionType, kinds: dict[str, str]
) -> tuple[FunctionType, dict[str, str]]:
    """`body`, dont tous les arguments sauf le premier sont lus dans ses mots, et leurs sortes.

    Une fonction C lancée par OpenMP ne reçoit qu'un pointeur : chaque argument de la signature
    devient une affectation au début du corps, et `for lot in lots` une boucle sur `claim`. Fichier
    et lignes restent ceux de la source.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    lots, *others = function.args.args
    arguments = {each.arg: ast.unparse(each.annotation or each) for each in others} | kinds
    reads = [
        f"{name} = {_KINDS[kind].reading(lots.arg, HEADER + SLOT * i)}"
        for i, (name, kind) in enumerate(arguments.items())
    ]
    _ClaimingLots(lots.arg).visit(function)
    function.body[:0] = _placed_at(function, "\n".join([f"__owe({lots.arg}, 1)", *reads]))
    function.body += _placed_at(function.body[-1], f"__owe({lots.arg}, -1)")
    function.args.args, function.decorator_list = [lots], []
    ast.increment_lineno(tree, body.__code__.co_firstlineno - 1)
    module = compile(tree, body.__code__.co_filename, "exec")
    code = next(each for each in module.co_consts if isinstance(each, CodeType))
    return FunctionType(code, {**body.__globals__, **_IN_KERNELS}, body.__name__), arguments


class _ClaimingLots(ast.NodeTransformer):
    """Fait de `for lot in lots` une boucle qui prend les lots un à un, tous threads confondus."""

    def __init__(self, lots: str) -> None:
        self._lots = lots

    def visit_For(self, node: ast.For) -> ast.stmt:
        """Remplace la boucle sur les lots ; laisse les autres."""
        if not (isinstance(node.iter, ast.Name) and node.iter.id == self._lots):
            return node
        item, lots = ast.unparse(node.target), self._lots
        source = f"while True:\n {item} = __claim({lots})\n if {item} >= __count({lots}): break"
        (loop,) = _placed_at(node, source)
        assert isinstance(loop, ast.While)  # noqa: S101 — la source est écrite au-dessus
        loop.body += node.body
        return loop


def _placed_at(node: ast.stmt, source: str) -> list[ast.stmt]:
    """Les instructions de `source`, à la ligne de `node`."""
    found = ast.parse(source).body
    for each in (each for statement in found for each in ast.walk(statement)):
        ast.copy_location(each, node)
    return found


_IN_KERNELS = {
    "__Place": _Place,
    "__carray": carray,
    "__claim": claim,
    "__count": count,
    "__np": np,
    "__owe": owe,
    "__pointer": pointer,
    "__word": word,
}
"""Ce qu'emploient les instructions ajoutées à un noyau."""

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
    """Exécute `kernel` sur `items` lots, avec autant de threads que PyTorch ; voir `table`.

    Raises:
        MemoryError: la mémoire a manqué ; ce qu'il devait écrire est inachevé.
    """
    found = table(kernel, items, *arguments)
    data = (ctypes.c_int64 * len(found))(*found)
    runner, threads = openmp(), min(torch.get_num_threads(), items)
    if runner is None or threads <= 1:
        kernel.compiled.ctypes(ctypes.addressof(data))
    else:
        runner(kernel.address, ctypes.addressof(data), threads, 0)
    if data[UNFINISHED]:
        raise interrupted(kernel)


def interrupted(kernel: Kernel) -> MemoryError:
    """L'erreur d'un noyau qu'un thread au moins n'a pas fini."""
    return MemoryError(f"la mémoire a manqué pendant le calcul ({kernel.name.strip('_')})")


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
