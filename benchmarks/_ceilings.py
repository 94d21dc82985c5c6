"""Les trois plafonds de la machine, mesurés entre les passages, et la borne qu'ils donnent.

Un moteur ne peut aller plus vite ni que la lecture de ses poids et de son cache, ni que ses
multiplications-additions : la borne d'un travail est le plus long des deux, à la vitesse mesurée
dans la même exécution. La part d'un candidat est la borne de ses octets à lui sur sa durée.

Formes : D largeur, L couches, V vocabulaire.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.machine import huge_zeros
from gpt_architecture.kernels.decode.packed import PackedModel
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

STREAM_ROWS, STREAM_WIDTH = 2**16, 2**12  # 1 Gio : bien plus que les caches
STREAM_READS = 20
SQUARE = 2048
_READING, _FLOATS, _INTEGERS = "lecture", "produits fp32", "produits d'entiers"


class ReadStream:
    """Lit un grand tableau avec tous les fils : la borne de tout décodage à un token.

    Un produit par un vecteur, ou une somme par ligne, en grandes pages : selon la machine, l'un lit
    deux ou trois fois plus vite que l'autre (MKL n'y emploie pas AVX-512 sur un AMD). Une lecture
    seule ne dure que quelques centièmes de seconde, et la première après une pause est cinq fois
    plus lente : la durée rendue est la médiane de plusieurs, par la plus rapide des deux.
    """

    def __init__(self) -> None:
        self._matrix = huge_zeros(STREAM_ROWS, STREAM_WIDTH).fill_(1.0)
        self._vector = torch.ones(STREAM_WIDTH)
        self._out = torch.empty(STREAM_ROWS)
        self.bytes = self._matrix.nbytes

    def __call__(self) -> float:
        """Secondes pour lire `bytes` octets."""
        return min(_median(self._product), _median(self._sum))

    def _product(self) -> None:
        torch.mv(self._matrix, self._vector, out=self._out)

    def _sum(self) -> None:
        torch.sum(self._matrix, 1, out=self._out)


class SquareProduct:
    """Un produit carré fp32, par la plus rapide des bibliothèques de PyTorch."""

    products = SQUARE**3

    def __init__(self) -> None:
        self._a, self._b, self._out = (torch.randn(SQUARE, SQUARE) for _ in range(3))

    def __call__(self) -> float:
        """Secondes pour `products` multiplications-additions."""
        usual = _median(self._multiply, 3)
        with fastest_matmul():
            return min(usual, _median(self._multiply, 3))

    def _multiply(self) -> None:
        torch.mm(self._a, self._b, out=self._out)


class _PyTorchIntegers:
    """Un produit carré d'octets de PyTorch : la borne là où nous n'écrivons pas l'instruction."""

    products = SQUARE**3

    def __init__(self) -> None:
        self._a, self._b = (
            torch.randint(-127, 128, (SQUARE, SQUARE), dtype=torch.int8) for _ in range(2)
        )

    def __call__(self) -> float:
        """Secondes pour `products` multiplications-additions."""
        return _median(lambda: torch._int_mm(self._a, self._b), 3)


def _integers() -> Callable[[], float]:
    try:
        from _integer_peak import HAS_X86, IntegerPeak
    except ImportError:  # sans numba
        return _PyTorchIntegers()
    return IntegerPeak() if HAS_X86 else _PyTorchIntegers()


def _median(work: Callable[[], object], times: int = STREAM_READS) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Ce qu'un passage doit faire : octets à lire, multiplications-additions fp32 et entières."""

    bytes: float = 0.0
    floats: float = 0.0
    integers: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Octets et multiplications-additions par seconde, un relevé par passage."""

    bytes: Sequence[float]
    floats: Sequence[float]
    integers: Sequence[float]

    def bounds(self, work: Work) -> list[float]:
        """Durée (s) au-dessous de laquelle ce travail ne peut descendre, à chaque passage."""
        return [
            max(work.bytes / read, work.floats / real + work.integers / integer)
            for read, real, integer in zip(self.bytes, self.floats, self.integers, strict=True)
        ]

    def shares(self, work: Work, seconds: Sequence[float]) -> list[float]:
        """Part de la borne, passage par passage."""
        return [bound / value for bound, value in zip(self.bounds(work), seconds, strict=True)]


class Ceilings:
    """Les plafonds, à mesurer comme des candidats de plus."""

    def __init__(self) -> None:
        self._stream, self._square, self._integers = ReadStream(), SquareProduct(), _integers()

    def measures(self) -> dict[str, Callable[[], float]]:
        """À ajouter aux candidats qu'on alterne."""
        return {_READING: self._stream, _FLOATS: self._square, _INTEGERS: self._integers}

    def take(self, seconds: dict[str, list[float]]) -> Rates:
        """Retire des durées celles des plafonds, les imprime, et rend les vitesses."""
        amounts = (
            (_READING, self._stream.bytes, "Go/s"),
            (_FLOATS, self._square.products, "milliards par seconde"),
            (_INTEGERS, self._integers.products, "milliards par seconde"),  # type: ignore[attr-defined]
        )
        found = []
        for name, amount, unit in amounts:
            found.append([amount / value for value in seconds.pop(name)])
            low, middle, high = (pick(found[-1]) / 1e9 for pick in (min, statistics.median, max))
            print(f"  plafond, {name} : {middle:.0f} {unit} ({low:.0f}–{high:.0f})")
        return Rates(bytes=found[0], floats=found[1], integers=found[2])


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Ce qu'un moteur lit à chaque passage : octets de ses poids, octets d'une valeur du cache."""

    weights: float
    cache: float = 4.0


def bits(cfg: GPTConfig, body: float, head: float, cache: float = 4.0) -> Footprint:
    """Celui d'un moteur dont les matrices ont `body` bits par poids et la tête `head`.

    Échelles comprises ; biais et normes sont en fp32, et l'embedding n'est lu que par ligne.
    """
    blocks = cfg.n_layers * 12 * cfg.emb_dim**2
    vectors = cfg.n_layers * 13 * cfg.emb_dim + 2 * cfg.emb_dim
    octets = (blocks * body + cfg.vocab_size * cfg.emb_dim * head) / 8 + 4 * vectors
    return Footprint(weights=octets, cache=cache)


def own(model: PackedModel) -> Footprint:
    """Le nôtre : tout ce que porte le modèle compacté, moins ce qui n'est lu que par ligne."""
    rows = model.vectors["pos_emb.weight"].nbytes
    if not model.cfg.tie_weights:
        rows += model.matrices["tok_emb"].nbytes
    return Footprint(weights=float(model.nbytes - rows))


def work(
    cfg: GPTConfig, each: Footprint, *, steps: int, rows: int, tokens: int, past: int, whole: bool
) -> Work:
    """Le travail de `steps` passages de `rows` séquences, de `tokens` nouveaux tokens chacune.

    Args:
        cfg: forme du modèle.
        each: ce que lit le moteur.
        steps: passages, chacun après le précédent.
        rows: séquences lues ensemble.
        tokens: nouveaux tokens de chacune, à chaque passage ; la tête ne sert qu'au dernier.
        past: tokens déjà dans le cache au premier passage.
        whole: les poids se multiplient en fp32 ; sinon, en entiers.
    """
    seen = steps * (past + (steps - 1) * tokens / 2)  # du cache, tous passages réunis
    pairs = seen * tokens + steps * tokens * (tokens + 1) / 2  # (requête, clé vue)
    attention = rows * 2.0 * cfg.n_layers * cfg.emb_dim * pairs
    matrices = (
        steps
        * rows
        * (tokens * cfg.n_layers * 12.0 * cfg.emb_dim**2 + cfg.vocab_size * cfg.emb_dim)
    )
    cache = rows * 2.0 * cfg.n_layers * cfg.emb_dim * seen * each.cache
    return Work(
        bytes=steps * each.weights + cache,
        floats=attention + matrices * whole,
        integers=matrices * (not whole),
    )
