"""Ce que tout banc dit d'abord : le processeur, ses instructions, ses cœurs, PyTorch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import gpt_architecture  # noqa: F401 — règle l'attente des threads, que PyTorch lit à son chargement

# isort: split
import torch

_SETS = {
    "avx2": "avx2",
    "avx512": "avx512_f",
    "avx512-vnni": "avx512_vnni",
    "avx-vnni": "avx_vnni",
    "avx512-bf16": "avx512_bf16",
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    "sve": "sve",
    "dotprod": "dotprod",
    "i8mm": "i8mm",
}
"""Jeux d'instructions dont dépend la vitesse, et leur nom dans `torch.cpu.get_capabilities`."""


def instructions() -> list[str]:
    """Ceux de `_SETS` que cette machine a."""
    features = torch.cpu.get_capabilities()
    return [name for name, key in _SETS.items() if features.get(key)]


def processor() -> str:
    """Nom du processeur, et sa famille telle que LLVM la nomme : un hyperviseur tait la sienne."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    try:
        from llvmlite import binding
    except ImportError:
        return name
    return f"{name} ({binding.get_host_cpu_name()})"


def cores() -> int:
    """Cœurs permis à ce processus."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """La machine en une ligne : l'entête d'un banc, la colonne d'un tableau."""
    return (
        f"{processor()}, {' '.join(instructions())}, {cores()} cœurs, PyTorch {torch.__version__}"
    )


def announce() -> None:
    """Imprime `machine()`, et les fils de PyTorch."""
    print(f"Machine : {machine()} ; {torch.get_num_threads()} fils.", flush=True)
