"""Les adaptateurs servis sans être fondus : ce qu'ils coûtent à un pas, par rapport au modèle seul.

Questions : un pas de huit textes à quatre adaptateurs, combien de temps de plus que les mêmes huit
textes au modèle seul, ou au modèle où un adaptateur est fondu ? Un texte seul ? La lecture d'une
invite ? En fp32, sur 8 et sur 4 bits.

    python benchmarks/adapters.py [--quick] [--json FICHIER] [--only QUESTION …] [--rank N]
        [--turns N] [--threads N]

Un GPT-2 124M aux poids tirés au hasard ; chaque adaptateur porte sur les six matrices de chaque
bloc. Les candidats alternent dans un même processus, par le passage du service (`read_uniform`).
Le rapport est la durée du modèle seul sur celle avec adaptateurs : à 1, ils ne coûtent rien. Avec
`--threads 1`, la durée est le temps de processeur, que des voisins troublent moins.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from _machine import announce
from _measure import Row, alternate, compare, write_rows

from gpt_architecture.config import GPT_CONFIG_124M, GPTConfig, LoRAConfig, LoRATarget
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.lora import adapter_shapes
from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.adapter_file import AdapterFile
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.kernels.decode.packed import PACKINGS, PackedModel, PackingName, pack

PAST = 64  # tokens déjà lus
SHAPES = {"huit textes": (8, 1), "un texte": (1, 1), "une invite de 32": (1, 32)}
"""Question → textes, tokens que chacun lit."""
PLAIN, MIXED, ONE, MERGED = "modèle seul", "4 adaptateurs", "1 adaptateur", "modèle fondu"


def main() -> None:
    """Mesure, imprime, écrit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, metavar="FICHIER", help="écrit les lignes")
    parser.add_argument("--only", nargs="+", choices=PACKINGS, default=PACKINGS)
    parser.add_argument("--rank", type=int, default=16, help="rang des adaptateurs")
    parser.add_argument("--turns", type=int, default=9, help="passages alternés")
    parser.add_argument("--threads", type=int, help="threads du calcul")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    announce()
    torch.manual_seed(0)
    cfg = GPTConfig.coerce(GPT_CONFIG_124M)
    model = GPTModel(cfg).eval().requires_grad_(False)
    files = [a_file(cfg, options.rank, seed) for seed in range(4)]
    adapters = [each.beside(cfg, None) for each in files]
    merged = files[0].merged(ModelFile(config=cfg, state_dict=model.state_dict(), tokenizer={}))
    rows: list[Row] = []
    asked: Sequence[PackingName] = ("int8",) if options.quick else options.only
    for packing in asked:
        rows += ask(packing, model, merged.build().eval(), adapters, options)
    write_rows(options.json, rows)


def a_file(cfg: GPTConfig, rank: int, seed: int) -> AdapterFile:
    """Un adaptateur au hasard, des six matrices."""
    lora = LoRAConfig(rank=rank, alpha=float(rank), targets=get_args(LoRATarget))
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (d, e) in adapter_shapes(cfg, lora).items():
        tensors[f"{path}.lora_A"] = torch.randn(rank, d, generator=draws) * 0.02
        tensors[f"{path}.lora_B"] = torch.randn(e, rank, generator=draws) * 0.02
    return AdapterFile(lora=lora, base_sha256=None, tensors=tensors)


def ask(
    packing: PackingName,
    model: GPTModel,
    merged: GPTModel,
    adapters: Sequence[Adapter],
    options: argparse.Namespace,
) -> list[Row]:
    """Les lignes d'une précision."""
    plain, fused = pack(model, packing), pack(merged, packing)
    rows: list[Row] = []
    for question, (texts, tokens) in SHAPES.items():
        mixed = [adapters[i % len(adapters)] for i in range(texts)]
        measures: dict[str, Callable[[], float]] = {
            PLAIN: partial(seconds, plain, [None] * texts, tokens),
            MERGED: partial(seconds, fused, [None] * texts, tokens),
            ONE: partial(seconds, plain, [adapters[0]] * texts, tokens),
        }
        if texts > 1:
            measures[MIXED] = partial(seconds, plain, mixed, tokens)
        retries = 0 if torch.get_num_threads() == 1 else 2
        values = alternate(measures, 3 if options.quick else options.turns, retries=retries)
        shown = {name: [1e3 * each for each in found] for name, found in values.items()}
        title = f"{question}, {packing}, rang {options.rank}"
        for name in (MIXED, ONE):
            if name in shown:
                rows += compare(title, shown, "ms", name, (PLAIN, MERGED), lower=True)
    return rows


def seconds(packed: PackedModel, adapters: Sequence[Adapter | None], tokens: int) -> float:
    """Durée d'un passage, de lignes qui ont déjà lu PAST tokens ; la meilleure de plusieurs."""
    cache = packed.new_cache(len(adapters), PAST + tokens)
    cache.adapters[:] = adapters
    parts, best = [[7] * tokens] * len(adapters), float("inf")
    wanted = range(len(adapters)) if tokens == 1 else [tokens - 1]
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    with torch.inference_mode():
        for _ in range(3 if tokens > 1 else 12):
            cache.reset()
            cache.advance_(PAST)
            start = clock()
            packed.read_uniform(parts, cache, wanted=wanted)
            best = min(best, clock() - start)
    return best


if __name__ == "__main__":
    main()
