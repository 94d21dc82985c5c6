"""Le pas d'entraînement de llm.c : son `train_gpt2.c`, compilé à la demande depuis ses sources."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel

SHIM = """
#define TESTING
#include "train_gpt2.c"
static GPT2 model;
void open_model(const char *path) { gpt2_build_from_checkpoint(&model, path); }
float step(int *x, int *y, int rows, int count, float lr, float decay, int t) {
    gpt2_forward(&model, x, y, rows, count);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    gpt2_update(&model, lr, 0.9f, 0.999f, 1e-8f, decay, t);
    return model.mean_loss;
}
"""
FLAGS = ("-Ofast", "-march=native", "-fopenmp", "-fPIC", "-w")  # ceux de son Makefile
MAGIC, VERSION, HEADER = 20240326, 3, 256
_ORDER = (
    *("norm1.scale", "norm1.shift", "qkv.weight", "qkv.bias"),
    *("att.out_proj.weight", "att.out_proj.bias", "norm2.scale", "norm2.shift"),
    *("ff.layers.0.weight", "ff.layers.0.bias", "ff.layers.2.weight", "ff.layers.2.bias"),
)


class LlmC:
    """Un pas de llm.c sur un modèle de même forme, tête liée ; rend la perte.

    Raises:
        ImportError: `train_gpt2.c` manque.
        AssertionError: sa première perte n'est pas celle de GPTModel.
    """

    def __init__(
        self, source: Path, folder: Path, cfg: GPTConfig, *, lr: float, weight_decay: float
    ) -> None:
        if not (source / "train_gpt2.c").is_file():
            raise ImportError(f"pas de train_gpt2.c dans {source}")
        tied = GPTConfig.from_dict(
            {**cfg.to_dict(), "tie_weights": True, "qkv_bias": True, "drop_rate": 0.0}
        )
        self._model: GPTModel | None = GPTModel(tied)
        _write(self._model, folder / "gpt2.bin")
        self._library = _build(source, folder)
        self._library.open_model(str(folder / "gpt2.bin").encode())
        self._settings, self._steps = (lr, weight_decay), 0

    def __call__(self, x: Tensor, y: Tensor) -> float:
        """x et y (B, T) → la perte."""
        self._steps += 1
        rows, count = x.shape
        inputs, targets = (np.ascontiguousarray(each.numpy(), np.int32) for each in (x, y))
        loss: float = self._library.step(
            inputs.ctypes.data, targets.ctypes.data, rows, count, *self._settings, self._steps
        )
        if self._model is not None:
            with torch.no_grad():
                expected = F.cross_entropy(self._model(x).flatten(0, 1), y.flatten()).item()
            assert abs(loss - expected) < 1e-3, f"llm.c : perte {loss}, GPTModel {expected}"
            self._model = None
        return loss


def _build(source: Path, folder: Path) -> ctypes.CDLL:
    # Lié sans -Ofast, qui changerait l'arithmétique de tout le processus (nombres dénormaux).
    unit, library = folder / "llm_c.o", folder / "llm_c.so"
    command = ["gcc", *FLAGS, f"-I{source}", "-x", "c", "-", "-c", "-o", str(unit)]
    subprocess.run(command, input=SHIM, text=True, check=True)
    subprocess.run(["gcc", "-shared", "-fopenmp", "-o", str(library), str(unit), "-lm"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.step.restype = ctypes.c_float
    loaded.step.argtypes = [
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        *(ctypes.c_float, ctypes.c_float, ctypes.c_int),
    ]
    return loaded


@torch.no_grad()
def _write(model: GPTModel, path: Path) -> None:
    """Le format de llm.c : un en-tête de 256 entiers, puis les poids, sorte par sorte."""
    cfg, state = model.cfg, model.state_dict()
    header = np.zeros(HEADER, np.int32)
    header[:8] = [
        *(MAGIC, VERSION, cfg.context_length, cfg.vocab_size, cfg.n_layers, cfg.n_heads),
        *(cfg.emb_dim, cfg.vocab_size),
    ]
    for layer in range(cfg.n_layers):
        name = f"trf_blocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [state[f"{name}.att.W_{each}.{kind}"] for each in ("query", "key", "value")]
            state[f"{name}.qkv.{kind}"] = torch.cat(parts)
    names = ["tok_emb.weight", "pos_emb.weight"]
    names += [f"trf_blocks.{n}.{kind}" for kind in _ORDER for n in range(cfg.n_layers)]
    with path.open("wb") as file:
        file.write(header.tobytes())
        for name in [*names, "final_norm.scale", "final_norm.shift"]:
            file.write(state[name].contiguous().numpy().tobytes())
