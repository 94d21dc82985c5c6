"""Des adaptateurs pour les tests : tirés au hasard, fondus, ou dans un fichier."""

import torch

from gpt_architecture.config import LoRAConfig
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.lora import adapter_shapes
from gpt_architecture.formats.adapter_file import AdapterFile, weights_sha256
from gpt_architecture.formats.model_file import ModelFile

EVERYWHERE = ("query", "key", "value", "output", "up", "down")


def an_adapter(model, seed, *, rank=3, targets=EVERYWHERE, size=0.3, **changes):
    """Des adaptateurs de `model`, dont ni A ni B n'est nulle."""
    lora = LoRAConfig(rank=rank, alpha=2.0 * rank, targets=targets)
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (d, e) in adapter_shapes(model.cfg, lora).items():
        tensors[f"{path}.lora_A"] = torch.randn(rank, d, generator=draws) * size
        tensors[f"{path}.lora_B"] = torch.randn(e, rank, generator=draws) * size
    return AdapterFile(
        **{
            "lora": lora,
            "base_sha256": weights_sha256(content_of(model)),
            "tensors": tensors,
        }
        | changes
    )


def content_of(model, tokenizer=None):
    """Le contenu du fichier d'un modèle."""
    return ModelFile(
        config=model.cfg, state_dict=model.state_dict(), tokenizer=tokenizer or {"name": "gpt2"}
    )


def merged(model, file):
    """`model`, où des adaptateurs sont fondus."""
    return file.merged(content_of(model)).build().eval()


def beside(model, file) -> Adapter:
    """Les mêmes, prêts à servir sans être fondus."""
    return file.beside(model.cfg, weights_sha256(content_of(model)))
