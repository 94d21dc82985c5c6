"""Un modèle et les moteurs qui en portent les poids, construits et vérifiés à la demande."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from _gguf import GGUF_SCHEMES
from _measure import alternate, french
from _peers import CTranslate2, Engine, LlamaCpp, Ours, Transformers

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import CausalLM, GPTModel

if TYPE_CHECKING:
    from gpt_architecture.kernels.decode.packed import PackingName

PEERS: dict[PackingName, tuple[str, ...]] = {
    "fp32": ("GPTModel", "llama.cpp f32", "CTranslate2 float32", "Transformers"),
    "int8": ("llama.cpp q8_0", "CTranslate2 int8"),
    "int4": ("llama.cpp q4_0", "llama.cpp q4_0 pur"),
}
TOLERANCES = {"fp32": 0.02, "int8": 1.0, "int4": 2.0}
"""Recul permis d'un token choisi sur le meilleur de GPTModel, en écarts types des logits ; un
token pris au hasard serait à 4."""
CHECKED = 32  # tokens comparés à ceux de GPTModel


def ours(precision: PackingName) -> str:
    """Nom de notre candidat."""
    return f"ce projet, {precision}"


class Bench:
    """Le modèle, les moteurs qui en portent les poids, et de quoi les mesurer."""

    def __init__(
        self, cfg: GPTConfig, folder: Path, *, threads: int, turns: int, retries: int
    ) -> None:
        torch.manual_seed(123)
        self.cfg, self.folder = cfg, folder
        self.turns, self._retries = turns, retries
        self.model = GPTModel(cfg).eval().requires_grad_(False)
        self.engines: dict[str, Engine] = {}
        build: dict[str, Callable[[], Engine]] = {
            "GPTModel": partial(Ours, self.model),
            "Transformers": partial(Transformers, self.model),
        }
        build |= {ours(each): partial(packed_engine, self.model, each) for each in PEERS}
        for kind in ("float32", "int8"):
            build[f"CTranslate2 {kind}"] = partial(CTranslate2, self.model, folder, kind, threads)
        for name in GGUF_SCHEMES:
            build[f"llama.cpp {name}"] = partial(LlamaCpp, self.model, folder, name, threads)
        self._builders = build

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        """Des identifiants au hasard, toujours les mêmes."""
        generator = torch.Generator().manual_seed(seed)
        found: list[int] = torch.randint(
            self.cfg.vocab_size - 1, (length,), generator=generator
        ).tolist()
        return found

    def prepare(self, *precisions: PackingName) -> list[str]:
        """Construit et vérifie les moteurs de ces précisions ; rend les noms des présents."""
        names = []
        for precision in precisions:
            for name in (ours(precision), *PEERS[precision]):
                if name not in self.engines and name in self._builders:
                    try:
                        self.engines[name] = self._builders.pop(name)()
                    except ImportError as error:
                        message = f"pair absent : {name} ({error})"
                        print(f"{message} ; pip install -r requirements-bench.txt")
                        continue
                    self._check(name, TOLERANCES[precision])
                if name in self.engines:
                    names.append(name)
        return names

    def alternate(self, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Voir `_measure.alternate`."""
        return alternate(measures, self.turns, retries=self._retries)

    def seconds(self, name: str, prompts: list[list[int]], count: int) -> float:
        """Durée d'une génération par ce moteur."""
        return self.engines[name].decode(prompts, count).seconds

    @torch.inference_mode()
    def _check(self, name: str, tolerance: float) -> None:
        """Vérifie que le moteur porte bien le même modèle."""
        prompt = self.prompt(16)
        (tokens,) = self.engines[name].decode([prompt], CHECKED).tokens
        logits = self.model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]  # (count, V)
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        behind = float(((logits.amax(1) - chosen) / logits.std(1)).max())
        same = sum(int(a) == b for a, b in zip(logits.argmax(1), tokens, strict=True))
        print(
            f"vérifié : {name:<24} {same:>2}/{len(tokens)} tokens de GPTModel, "
            f"recul au plus {french(behind, 3)} σ",
            flush=True,
        )
        assert behind <= tolerance, f"{name} ne calcule pas le même modèle"


def packed_engine(model: GPTModel, precision: PackingName) -> Engine:
    """Notre moteur à cette précision."""
    return Ours(packed(model, precision))


def packed(model: GPTModel, precision: PackingName) -> CausalLM:
    """Le modèle compacté que la génération emploie."""
    from gpt_architecture.kernels.decode.packed import pack

    return pack(model, precision)
