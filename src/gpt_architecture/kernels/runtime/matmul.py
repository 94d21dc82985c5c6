"""Les produits de matrices fp32, par la bibliothèque qui emploie toutes les instructions.

PyTorch confie ses produits fp32 à MKL, qui garde AVX-512 pour les processeurs d'Intel : sur un AMD
Zen 5, oneDNN, l'autre bibliothèque de PyTorch, en fait deux fois plus par seconde. PyTorch ne la
prend pour du fp32 que si on lui permet d'arrondir en bf16. Elle n'en fait rien sans AMX, qu'aucun
processeur d'AMD n'a, et c'est vérifié : un produit connu doit être exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from gpt_architecture.core.machine import Turn, after_fork

_MKLDNN: Any = torch.backends.mkldnn  # ses réglages ne sont pas typés
_SIDE = 32
_FINE = 1 + 2**-12  # quatre bits de trop pour bf16


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
    features = torch.cpu.get_capabilities()
    if not (str(features.get("cpu_name", "")).startswith("AMD") and features.get("avx512_f")):
        return False
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (has_mkl and _MKLDNN.is_available()):
        return False
    with _ONEDNN:
        return is_exact()


def is_exact() -> bool:
    """Vrai si un produit fp32 garde les bits que bf16 perdrait."""
    fine = torch.full((_SIDE, _SIDE), _FINE)
    return bool((fine @ torch.eye(_SIDE) == fine).all())


class _Setting:
    """oneDNN prend les produits fp32, tant qu'un calcul au moins, dans un fil, le demande."""

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
        """Dans l'enfant d'un fork, les calculs des autres fils sont restés dans le parent."""
        if self._users:
            self._users, _MKLDNN.matmul.fp32_precision = 0, self._before


_ONEDNN = _Setting()
after_fork(_ONEDNN.forget)
