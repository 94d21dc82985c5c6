"""Les poids d'un GPTModel en GGUF, aux types que les bancs comparent, dont ceux à quatre bits."""

from __future__ import annotations

from pathlib import Path

from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import write_gguf
from gpt_architecture.interop.gguf_layout import Recipe

GGUF_SCHEMES = {
    "f32": ("F32", "F32"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_0": ("Q4_0", "Q6_K"),
    "q4_0 pur": ("Q4_0", "Q4_0"),
}
"""Formats du corps et de la tête ; « q4_0 » est celui que llama.cpp publie, tête sur 6 bits."""
_BITS = {"F32": 32.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q4_0": 4.5}
GGUF_BITS = {name: (_BITS[body], _BITS[head]) for name, (body, head) in GGUF_SCHEMES.items()}
"""Bits par poids du corps et de la tête, échelles comprises."""


def write_scheme(model: GPTModel, path: Path, scheme: str) -> None:
    """Écrit `path` au format donné par `GGUF_SCHEMES`.

    Raises:
        MissingDependencyError: gguf n'est pas installé.
    """
    state = model.state_dict()
    content = ModelFile(config=model.cfg, state_dict=state, tokenizer={"name": "gpt2"})
    body, head = GGUF_SCHEMES[scheme]
    write_gguf(content, path, Recipe(body=body, head=head))
