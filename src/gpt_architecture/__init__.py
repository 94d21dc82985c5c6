"""GPT-2 écrit de zéro en PyTorch : exact, lisible, du texte brut au modèle servi.

    from gpt_architecture import load

Les noms publics sont importés à la demande : `import gpt_architecture` ne charge pas PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_architecture.api import GPT, load
    from gpt_architecture.config import GPT_CONFIG_124M, GPTConfig, TrainingConfig
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.tokenizer import get_tokenizer
    from gpt_architecture.decoding.config import GenerationConfig
    from gpt_architecture.errors import GPTArchitectureError

__version__ = "0.1.0"

_HOMES = {
    "GPT": "api",
    "load": "api",
    "GPT_CONFIG_124M": "config",
    "GPTConfig": "config",
    "TrainingConfig": "config",
    "GPTModel": "core.model",
    "get_tokenizer": "data.tokenizer",
    "GenerationConfig": "decoding.config",
    "GPTArchitectureError": "errors",
}

__all__ = [
    "GPT",
    "GPT_CONFIG_124M",
    "GPTArchitectureError",
    "GPTConfig",
    "GPTModel",
    "GenerationConfig",
    "TrainingConfig",
    "get_tokenizer",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
