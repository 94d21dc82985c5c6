"""Un modèle et les moteurs qui en portent les poids, construits et vérifiés à la demande."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _ceilings import Ceilings, Footprint, bits, own, work
from _compiled import Compiled
from _gguf import GGUF_BITS
from _ik_llama import IkLlama
from _measure import Row, Values, absent, alternate, compare, french
from _onnx_peers import OnnxRuntime, OpenVINO
from _peers import CTranslate2, Engine, LlamaCpp, Ours, Transformers

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel

if TYPE_CHECKING:
    from gpt_architecture.kernels.decode.packed import PackedModel, PackingName

PEERS: dict[PackingName, tuple[str, ...]] = {
    "fp32": (
        *("GPTModel", "llama.cpp f32", "ik_llama.cpp f32", "CTranslate2 float32"),
        *("OpenVINO fp32", "onnxruntime fp32", "Transformers", "torch.compile fp32"),
    ),
    "int8": (
        *("llama.cpp q8_0", "ik_llama.cpp q8_0", "CTranslate2 int8"),
        *("OpenVINO int8", "onnxruntime int8", "torch.compile int8"),
    ),
    "int4": (
        *("llama.cpp q4_0", "llama.cpp q4_0 pur", "ik_llama.cpp q4_0", "ik_llama.cpp q4_0 pur"),
        *("OpenVINO int4", "onnxruntime int4"),
    ),
}
LONE = ("llama.cpp",)
"""Moteurs, au début de leur nom, qui ne lisent ici qu'un texte à la fois."""
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
        self,
        cfg: GPTConfig,
        folder: Path,
        *,
        threads: int,
        turns: int,
        retries: int,
        ik_llama: Path | None = None,
        peers: Sequence[str] = ("",),
    ) -> None:
        torch.manual_seed(123)
        logging.disable(logging.WARNING)  # les moteurs en disent beaucoup
        self.cfg, self.folder = cfg, folder
        self.turns, self._retries, self._peers = turns, retries, tuple(peers)
        self.model = GPTModel(cfg).eval().requires_grad_(False)
        self.engines: dict[str, Engine] = {}
        self.footprints: dict[str, Footprint] = {}
        self.ceilings = Ceilings()
        # Ce que lit chaque moteur : bits par poids du corps et de la tête, échelles comprises, et
        # octets d'une valeur de son cache.
        full, model = bits(cfg, 32, 32), self.model
        self._builders: dict[str, tuple[Callable[[], Engine], Footprint | None]] = {
            "GPTModel": (partial(Ours, model), full),
            "Transformers": (partial(Transformers, model), full),
        }
        for precision in PEERS:
            self._builders[ours(precision)] = (partial(packed_engine, model, precision), None)
        for kind, size in (("float32", 32), ("int8", 8)):
            build: Callable[[], Engine] = partial(CTranslate2, model, folder, kind, threads)
            self._builders[f"CTranslate2 {kind}"] = (build, bits(cfg, size, size))
        for name in GGUF_BITS:
            read = bits(cfg, *GGUF_BITS[name], cache=2)
            build = partial(LlamaCpp, model, folder, name, threads)
            self._builders[f"llama.cpp {name}"] = (build, read)
            build = partial(IkLlama, model, folder, name, threads, ik_llama)
            self._builders[f"ik_llama.cpp {name}"] = (build, read)
        for kind, body, head in (("fp32", 32, 32), ("int8", 8, 8), ("int4", 4.5, 8)):
            build = partial(OpenVINO, model, folder, kind, threads)
            self._builders[f"OpenVINO {kind}"] = (build, bits(cfg, body, head, cache=1))
            build = partial(OnnxRuntime, model, folder, kind, threads)
            read = bits(cfg, *((5, 5) if kind == "int4" else (body, head)))  # échelles en fp32
            self._builders[f"onnxruntime {kind}"] = (build, read)
            if kind != "int4":
                build = partial(Compiled, model, kind)
                self._builders[f"torch.compile {kind}"] = (build, bits(cfg, body, head))

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
            wanted = [name for name in PEERS[precision] if name.startswith(self._peers)]
            for name in (ours(precision), *wanted):
                if name not in self.engines and name in self._builders:
                    build, footprint = self._builders.pop(name)
                    try:
                        engine = build()
                    except ImportError as error:
                        print(absent(name, error))
                        continue
                    self.engines[name] = engine
                    self.footprints[name] = footprint or own_footprint(engine)
                    self._check(name, TOLERANCES[precision])
                if name in self.engines:
                    names.append(name)
        return names

    def alternate(self, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Voir `_measure.alternate`."""
        return alternate(measures, self.turns, retries=self._retries)

    def speeds(
        self,
        question: str,
        measures: Mapping[str, Callable[[], float]],
        *,
        rows: int,
        steps: int,
        tokens: int,
        past: int,
    ) -> list[Row]:
        """Alterne les candidats et les plafonds, imprime un tableau par précision.

        Args:
            question: titre, sans la précision.
            measures: la durée à mesurer, par candidat.
            rows: séquences lues ensemble.
            steps: passages mesurés.
            tokens: nouveaux tokens de chaque séquence, à chaque passage.
            past: tokens lus avant le premier passage mesuré.
        """
        seconds = self.alternate({**measures, **self.ceilings.measures()})
        print(f"\n{question} :")
        rates, found = self.ceilings.take(seconds), list[Row]()
        shape = {"steps": steps, "rows": rows, "tokens": tokens, "past": past}
        speeds: Values = {
            name: [rows * steps * tokens / value for value in values]
            for name, values in seconds.items()
        }
        for precision, peers in PEERS.items():
            if ours(precision) not in seconds:
                continue
            names = [name for name in (ours(precision), *peers) if name in seconds]
            shares = {}
            for name in names:
                whole = precision == "fp32"
                todo = work(self.cfg, self.footprints[name], **shape, whole=whole)
                shares[name] = rates.shares(todo, seconds[name])
            title = f"{question}, {precision}"
            found += compare(title, speeds, "tok/s", ours(precision), peers, shares=shares)
        return found

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


def own_footprint(engine: Any) -> Footprint:
    """Ce que lit notre moteur."""
    return own(engine.model)


def packed_engine(model: GPTModel, precision: PackingName) -> Engine:
    """Notre moteur à cette précision."""
    return Ours(packed(model, precision))


def packed(model: GPTModel, precision: PackingName) -> PackedModel:
    """Le modèle compacté que la génération emploie."""
    from gpt_architecture.kernels.decode.packed import pack

    return pack(model, precision)
