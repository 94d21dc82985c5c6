"""Les produits de matrices fp32, par la bibliothèque la plus rapide sur ce processeur.

PyTorch en a deux, MKL et oneDNN, et confie ses produits fp32 à MKL. MKL garde AVX-512 pour les
processeurs d'Intel : sur un AMD qui l'a, oneDNN fait deux fois plus d'opérations par seconde.
PyTorch ne la prend pour du fp32 que si on lui permet d'arrondir en bf16. Elle n'en fait rien sans
AMX : avec AMX elle est donc interdite, et partout c'est vérifié, un produit connu doit être exact.

Le choix se lit dans une table, par famille de processeur : il ne dépend d'aucune mesure faite en
cours de route, et une reprise calcule les mêmes bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch

from gpt_architecture.core.machine import Processor, Turn, after_fork, instructions, processor

_MKLDNN: Any = torch.backends.mkldnn  # ses réglages ne sont pas typés
_SIDE = 32
_FINE = 1 + 2**-12  # quatre bits de trop pour bf16

Library = Literal["MKL", "oneDNN"]
"""MKL : ce que PyTorch fait d'office."""


class Family(NamedTuple):
    """Des processeurs qui vont le plus vite par la même bibliothèque.

    Attributes:
        name: leur nom.
        vendor: celui que rend `cpuid`.
        family: leur famille.
        models: leurs modèles.
        needs: jeu d'instructions sans lequel la ligne ne vaut pas ; vide : aucun.
        library: la plus rapide.
        reason: la mesure qui la fonde, et sa date.
    """

    name: str
    vendor: str
    family: int
    models: range
    needs: str
    library: Library
    reason: str

    def has(self, found: Processor, features: Collection[str]) -> bool:
        """Vrai si c'est un processeur de cette famille."""
        known = (self.vendor, self.family) == (found.vendor, found.family)
        enabled = not self.needs or self.needs in features
        return known and found.model in self.models and enabled


_AMD, _INTEL, _ALL = "AuthenticAMD", "GenuineIntel", range(256)
_SAME = "en AVX2, oneDNN fait 0,99 à 1,18 fois MKL (simulé sur un Zen 5, 2026-11)"

FAMILIES = (
    Family(
        *("Zen 5", _AMD, 26, _ALL, "avx512_f", "oneDNN"),
        "oneDNN de 440 à 500 GFLOP/s, MKL 217 (2 cœurs, 2026-11) ; sur les produits du projet, de "
        "128 ou 512 lignes, 2,3 à 3,0 fois MKL ; d'une ligne, 0,5 à 1,2 fois",
    ),
    Family(
        *("Zen 4", _AMD, 25, range(0x10, 0x20), "avx512_f", "oneDNN"),
        "sur les produits du projet, de 128 ou 512 lignes, oneDNN de 175 à 217 GFLOP/s, 1,1 à 1,3 "
        "fois MKL, 1,5 à 2,1 fois sur la tête ; d'une ligne, 0,7 à 1,7 fois (2 cœurs, 2026-11)",
    ),
    Family(*("Zen 4", _AMD, 25, range(0x60, 0xB0), "avx512_f", "oneDNN"), "comme ci-dessus"),
    Family(*("Zen 3", _AMD, 25, _ALL, "", "MKL"), f"mesuré sans gain (2026-11) ; {_SAME}"),
    Family(*("Zen, Zen 2", _AMD, 23, _ALL, "", "MKL"), _SAME),
    Family(
        *("Skylake-X, Cascade Lake", _INTEL, 6, range(85, 86), "", "MKL"),
        "MKL 255 GFLOP/s (Cascade Lake, 2 cœurs, 2026-11)",
    ),
    Family(
        *("Ice Lake", _INTEL, 6, range(106, 109), "", "MKL"),
        "sur les produits du projet, de 512 lignes, MKL de 142 à 206 GFLOP/s, oneDNN de 81 à 113 "
        "(2 cœurs, 2026-11)",
    ),
    Family(
        *("Xeon à AMX", _INTEL, 6, range(167, 168), "amx_tile", "MKL"),
        "MKL de 222 à 298 GFLOP/s sur les produits des blocs (2 cœurs, 2026-11) ; oneDNN y "
        "arrondirait",
    ),
    Family(*("Intel", _INTEL, 6, _ALL, "", "MKL"), "MKL y emploie toutes les instructions"),
)
"""La première ligne qui convient décide."""

CAUTIOUS = Family(
    *("inconnu", "", 0, range(0), "", "MKL"),
    "le choix de PyTorch : un gain n'est pas promis, et l'exactitude est celle qu'il éprouve",
)
"""Ce qui vaut pour un processeur qu'aucune ligne ne décrit."""


def family_of(found: Processor, features: Collection[str]) -> Family:
    """La ligne de la table d'un processeur.

    Args:
        found: voir `core.machine.processor`.
        features: voir `core.machine.instructions`.
    """
    return next((family for family in FAMILIES if family.has(found, features)), CAUTIOUS)


@contextmanager
def fastest_matmul() -> Iterator[None]:
    """Le temps d'un calcul sur CPU, les produits fp32 vont à la bibliothèque la plus rapide.

    Le choix ne dépend que de la machine, jamais d'une mesure : une reprise calcule les mêmes bits.
    Le réglage vaut pour tout le processus ; il est rendu à la sortie.
    """
    if not prefers_onednn():
        yield
        return
    with _ONEDNN:
        yield


@lru_cache(maxsize=1)
def prefers_onednn() -> bool:
    """Vrai si oneDNN est la plus rapide ici, et exacte en fp32."""
    features = instructions()
    if family_of(processor(), features).library != "oneDNN":
        return False
    if any(name in features for name in _ROUNDING):
        return False
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (has_mkl and _MKLDNN.is_available()):
        return False
    with _ONEDNN:
        return is_exact()


_ROUNDING = ("amx_tile", "amx_bf16", "amx_fp16")
"""Instructions avec lesquelles oneDNN, à qui l'on permet bf16, arrondit."""


def is_exact() -> bool:
    """Vrai si un produit fp32 garde les bits que bf16 perdrait."""
    fine = torch.full((_SIDE, _SIDE), _FINE)
    return bool((fine @ torch.eye(_SIDE) == fine).all())


class _Setting:
    """oneDNN prend les produits fp32, tant qu'un calcul au moins, dans un thread, le demande."""

    def __init__(self) -> None:
        self._turn, self._users, self._before = Turn(), 0, ""

    def __enter__(self) -> None:
        setting = _MKLDNN.matmul
        with self._turn:
            if self._users == 0:
                self._before = setting.fp32_precision
                setting.fp32_precision = "bf16"
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._users -= 1
            if self._users == 0:
                _MKLDNN.matmul.fp32_precision = self._before

    def forget(self) -> None:
        """Dans l'enfant d'un fork, les calculs des autres threads sont restés dans le parent."""
        if self._users:
            self._users, _MKLDNN.matmul.fp32_precision = 0, self._before


_ONEDNN = _Setting()
after_fork(_ONEDNN.forget)
