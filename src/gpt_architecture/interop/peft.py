"""Écrit des adaptateurs comme PEFT les lit, pour Transformers et ceux qui servent ses modèles.

Le GPT-2 de Transformers tient Q, K et V dans une seule matrice, `c_attn` : leurs adaptateurs y
deviennent un seul, exactement, les A empilées et les B en blocs diagonaux. Son rang est la somme
des leurs ; sa force croît d'autant, et le facteur alpha / r ne change pas.

Formes : D largeur, r rang, k projections adaptées parmi Q, K et V.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import LoRAConfig, LoRATarget
from gpt_architecture.core.lora import PATHS
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.adapter_file import AdapterFile
from gpt_architecture.formats.tensor_files import save_safetensors
from gpt_architecture.storage import write_directory

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_BLOCK = re.compile(r"trf_blocks\.(\d{1,6})\.")
_FUSED: tuple[LoRATarget, ...] = ("query", "key", "value")
_C_ATTN = "attn.c_attn"
_MODULES: dict[LoRATarget, str] = {
    "output": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def export_peft(adapter: AdapterFile, dest: Path | str, *, force: bool = False) -> None:
    """Écrit le dossier qu'ouvre `PeftModel.from_pretrained(modèle, dest)`, ou rien.

    Args:
        adapter: les adaptateurs ; leur modèle de départ s'exporte à part, pour Transformers.
        dest: dossier à créer.
        force: remplace un dossier exporté auparavant.

    Raises:
        ModelFileError: une matrice manque, surprend, ou n'est pas de la bonne forme.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    tensors = peft_tensors(adapter.lora, adapter.tensors)
    text = json.dumps(peft_config(adapter.lora), indent=2)

    def fill(folder: Path) -> None:
        (folder / PEFT_CONFIG).write_text(text + "\n", encoding="utf-8")
        save_safetensors(folder / PEFT_WEIGHTS, tensors, {"format": "pt"})

    write_directory(Path(dest), fill, force=force)


def peft_config(lora: LoRAConfig) -> dict[str, Any]:
    """Le contenu d'`adapter_config.json` ; le rang annoncé est le plus grand."""
    fused = [target for target in lora.targets if target in _FUSED]
    others = [_MODULES[target] for target in lora.targets if target in _MODULES]
    times = max(1, len(fused))
    differ = others if times > 1 else []
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": times * lora.rank,
        "lora_alpha": times * lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [_C_ATTN] * bool(fused) + others,
        "rank_pattern": dict.fromkeys(differ, lora.rank),
        "alpha_pattern": dict.fromkeys(differ, lora.alpha),
        "fan_in_fan_out": True,  # Conv1D range ses poids (entrée, sortie)
        "bias": "none",
    }


def peft_tensors(lora: LoRAConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Les matrices sous les noms de PEFT.

    Raises:
        ModelFileError: une matrice manque, surprend, ou n'est pas de la bonne forme.
    """
    left = dict(tensors)
    blocks = sorted({int(found[1]) for name in left if (found := _BLOCK.match(name))})
    converted: dict[str, Tensor] = {}

    def take(block: int, target: LoRATarget) -> tuple[Tensor, Tensor]:
        stem = f"trf_blocks.{block}.{PATHS[target]}"
        a, b = (left.pop(f"{stem}.lora_{letter}", torch.empty(0)) for letter in "AB")
        if a.ndim != 2 or b.ndim != 2 or not len(a) == b.size(1) == lora.rank:
            raise _unfit(stem)
        return a, b

    def put(block: int, module: str, a: Tensor, b: Tensor) -> None:
        stem = f"base_model.model.transformer.h.{block}.{module}"
        for letter, tensor in (("A", a), ("B", b)):
            converted[f"{stem}.lora_{letter}.weight"] = tensor.to(torch.float32).contiguous()

    for block in blocks:
        pairs = {t: take(block, t) for t in lora.targets}
        fused = [target for target in _FUSED if target in pairs]
        if fused:
            width = len(pairs[fused[0]][1])  # D
            if any(len(pairs[t][1]) != width or pairs[t][0].size(1) != width for t in fused):
                raise _unfit(f"trf_blocks.{block}.att")
            whole = torch.zeros(3 * width, len(fused) * lora.rank)  # (3·D, k·r)
            for column, target in enumerate(fused):
                row = _FUSED.index(target)
                b = pairs[target][1]
                whole[row * width : (row + 1) * width, column * lora.rank :][:, : lora.rank] = b
            put(block, _C_ATTN, torch.cat([pairs[target][0] for target in fused]), whole)
        for target, module in _MODULES.items():
            if target in pairs:
                put(block, module, *pairs[target])
    if left or not converted:
        raise _unfit(min(left, default="rien"))
    return converted


def _unfit(name: str) -> ModelFileError:
    return ModelFileError(
        f"ces adaptateurs ne s'écrivent pas pour PEFT ({name[:80]})",
        expected="les matrices A et B de chaque couche visée, au rang annoncé",
        remedy="reprenez le fichier d'origine",
    )
