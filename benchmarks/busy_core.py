"""Ce qu'un voisin qui occupe un cœur coûte au décodage, et comment les lots se partagent.

Questions : quand un autre programme tourne sans fin sur un cœur, combien de fois un token est-il
plus long, à un fil, à tous les fils, et quand leur nombre s'adapte ? Et, pour des machines qu'on
n'a pas, jusqu'à 16 fils, les lots de chaque produit occupent-ils tous les fils jusqu'au bout ?
Le modèle est au hasard : seules ses durées comptent.

    python benchmarks/busy_core.py [--packing int8] [--tokens N] [--turns N] [--quick] [--lots]
        [--json FICHIER]
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _machine import announce
from _measure import REST, Row, compare, french, lone_row, write_rows

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.decode.forms import FORMS
from gpt_architecture.kernels.decode.packed import PACKINGS, PackedModel, pack
from gpt_architecture.kernels.runtime.crew import Crew

PAST = 64  # tokens déjà dans le cache
SETTLING = 300  # passages sans mesure après chaque changement : le nombre de fils s'adapte
LOT_ROWS = 3
"""Ce que coûte de commencer un lot, en lignes de 768 poids : 0,3 µs au plus (Zen 5, un fil)."""


@contextmanager
def neighbour() -> Iterator[None]:
    """Un programme qui tourne sans fin sur le dernier cœur."""
    pin = "import os; os.sched_setaffinity(0, {os.cpu_count() - 1})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", pin])
    time.sleep(3 * REST)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def token_time(model: PackedModel, count: int) -> float:
    """Durée moyenne (ms) de `count` passages d'un token, toujours après le même passé."""
    cache, token = model.new_cache(1), torch.tensor([[7]])
    model(torch.arange(PAST)[None], cache)
    found = []
    for _ in range(count):
        start = time.perf_counter()
        model(token, cache)
        found.append(1e3 * (time.perf_counter() - start))
        cache.rewind_([PAST])
    return statistics.fmean(found)


def busy_rows(model: PackedModel, name: str, tokens: int, turns: int) -> list[Row]:
    """Mesure chaque équipe, au calme et avec un voisin, en alternance ; deux lignes par équipe."""
    most = torch.get_num_threads()
    fixed = patch.object(Crew, "note", lambda *_: None)
    crews: dict[str, tuple[int, AbstractContextManager[Any]]] = {
        "un fil": (1, nullcontext()),
        "tous les fils": (most, fixed),
        "adaptés": (most, nullcontext()),
    }
    found: dict[str, list[float]] = {}
    for turn in range(2 * turns):
        busy = turn % 2 == 1
        with neighbour() if busy else nullcontext():
            for crew, (threads, setting) in crews.items():
                torch.set_num_threads(1)  # l'équipe est refaite, au complet
                token_time(model, 1)
                torch.set_num_threads(threads)
                with setting:
                    token_time(model, SETTLING if crew == "adaptés" else 2)
                    case = f"{crew}, {'un cœur pris' if busy else 'au calme'}"
                    found.setdefault(case, []).append(token_time(model, tokens))
    torch.set_num_threads(most)
    ours = "adaptés, un cœur pris"
    peers = sorted(set(found) - {ours})
    return compare(f"Un token, un cœur pris, {name}", found, "ms", ours, peers, lower=True)


def shares(cfg: GPTConfig) -> list[Row]:
    """Partage sans perte ni reprise, sur partage simulé, par produit, forme et nombre de fils."""
    products = {
        "qkv": (3, cfg.emb_dim),
        "sortie": (1, cfg.emb_dim),
        "large": (1, cfg.inner_width),
        "tête": (1, cfg.vocab_size),
    }
    rows, before = [], torch.get_num_threads()
    for name, form in FORMS.items():
        for threads in (1, 2, 4, 8, 16):
            torch.set_num_threads(threads)
            found = []
            for product, (parts, height) in products.items():
                block = form.block(height, parts)
                lots = [min(block, height - first) for first in range(0, height, block)] * parts
                ends = [0] * threads
                for lot in lots:
                    heapq.heapreplace(ends, ends[0] + LOT_ROWS + lot)
                used = parts * height / threads / max(ends)
                found.append(f"{product} {len(lots):>4} lots {french(100 * used, 0):>3} %")
                question = f"Partage des lots, {name}, {threads} fils"
                rows.append(lone_row(question, product, [used], "part du partage idéal"))
            print(f"{name:<8} {threads:>2} fils : {' | '.join(found)}")
    torch.set_num_threads(before)
    return rows


def main() -> None:
    """Mesure, ou simule avec `--lots`."""
    parser = argparse.ArgumentParser(description="Ce que coûte un cœur occupé.")
    parser.add_argument("--packing", choices=PACKINGS, action="append", help="format des poids")
    parser.add_argument("--tokens", type=int, default=40, help="tokens d'une mesure")
    parser.add_argument("--turns", type=int, default=3, help="alternances du calme et du voisin")
    parser.add_argument("--quick", action="store_true", help="petit modèle : essaie la chaîne")
    parser.add_argument("--lots", action="store_true", help="simule le partage des lots")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    cfg = GPTConfig(drop_rate=0.0)
    if arguments.quick:
        cfg = GPTConfig(emb_dim=256, n_heads=4, n_layers=4, drop_rate=0.0)
    rows: list[Row] = []
    if arguments.lots:
        rows += shares(cfg)
    else:
        torch.manual_seed(0)
        model = GPTModel(cfg).eval()
        for packing in arguments.packing or ("fp32", "int8"):
            packed = pack(model, packing)
            packed.settle()
            rows += busy_rows(packed, packing, arguments.tokens, arguments.turns)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
