"""Choix du périphérique de calcul."""

from __future__ import annotations

import torch

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import plural


def resolve_device(name: str = "auto") -> torch.device:
    """Périphérique demandé, ou le meilleur présent : cuda, puis mps, puis cpu.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigurationError: nom inconnu ou périphérique absent.
    """
    available = _available()
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    present = device is not None and device.type in available
    if present and device is not None and device.type == "cuda":
        present = (device.index or 0) < torch.cuda.device_count()
    if device is None or not present:
        raise ConfigurationError(
            f"périphérique {name!r} introuvable",
            expected=f"auto ou l'un des périphériques présents ({', '.join(available)})",
            remedy="changez `device`",
        )
    return device


def describe_device(device: torch.device) -> str:
    """Nom lisible : « cuda (NVIDIA A100) », « cpu (2 fils) »."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} {plural(threads, 'fil')})"
    return str(device)


def _available() -> list[str]:
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]
