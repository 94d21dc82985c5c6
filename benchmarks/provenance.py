"""D'où vient un passage : construire l'index du texte d'entraînement, et y chercher.

Questions : combien de tokens par seconde, d'octets par token et de mémoire demande l'index ; un
texte hostile (un seul token répété) le ralentit-il ; combien de temps demande une réponse de 60
tokens, recopiée, à moitié recopiée ou jamais vue, passages, documents et contextes compris.

Le texte est tiré des textes donnés : des morceaux de longueur géométrique, mis bout à bout en
documents de 300 à 3 000 tokens. Le temps d'une réponse est pris à chaud : l'index vient d'être lu.

    python benchmarks/provenance.py --data TEXTE… [--megatokens N] [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _machine import announce
from _measure import Row, lone_row, write_rows

from gpt_architecture.data.provenance.index import TextIndex
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.prepare import write_tokens
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.evaluation.provenance import trace_sources

OURS = "ce projet"
SEED = 19
ANSWER = 60  # tokens d'une réponse
SPAN = 9  # tokens d'un morceau, en moyenne
HOSTILE = "un seul token répété"


def corpus(texts: Sequence[Path], size: int, seed: int) -> TokenArray:
    """`size` tokens, tirés par morceaux de textes réels, en documents."""
    rng = np.random.default_rng(seed)
    tokenizer = get_tokenizer("gpt2")
    real = np.concatenate([np.array(tokenizer.encode(each.read_text("utf-8"))) for each in texts])
    found = np.empty(size, dtype=np.uint16)
    step = 1 << 22
    for start in range(0, size, step):
        count = min(step, size - start)
        lengths = rng.geometric(1 / SPAN, size=2 * count // SPAN + 64)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), count)) + 1]
        places = rng.integers(0, real.size - lengths.max(), lengths.size)
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found[start : start + count] = real[(np.repeat(places, lengths) + offsets)[:count]]
    borders = np.cumsum(rng.integers(300, 3000, size // 300 + 2))
    separator = separator_of(tokenizer)
    found[borders[borders < size]] = separator
    found[0] = separator
    return TokenArray(found)


BUILD = """
import json, sys, threading, time
from pathlib import Path
from gpt_architecture.data.provenance.build import build_index

def own():  # la mémoire propre, sans les fichiers projetés, que le système reprend quand il veut
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], own())
        time.sleep(0.02)

before, peak = own(), [0.0]
threading.Thread(target=watch, daemon=True).start()
start, cpu = time.perf_counter(), time.process_time()
build_index(sys.argv[1], memory=int(sys.argv[2]) << 20)
print(json.dumps([time.perf_counter() - start, time.process_time() - cpu, before, peak[0]]))
"""


def build(name: str, folder: Path, tokens: int, text_bytes: float, memory: int) -> list[Row]:
    """Durée, mémoire et taille d'une construction, dans un processus neuf, seul à ranger.

    Les débits sont par seconde de processeur : d'autres travaux les troublent peu.
    """
    command = [sys.executable, "-c", BUILD, str(folder), str(memory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, seconds, before, peak = json.loads(done.stdout)
    index = TextIndex(folder)
    shards = sum(path.stat().st_size for path in folder.glob("*.bin") if "train" in path.name)
    alone, whole = index.size / tokens, (index.size + shards) / tokens
    print(
        f"\nIndex, {name} : {tokens / 1e6:.0f} M de tokens en {seconds:.0f} s de processeur "
        f"({wall:.0f} s), {tokens / seconds / 1e6:.2f} M/s, {text_bytes / seconds / 1e6:.1f} Mo de "
        f"texte/s ; {alone:.3f} octets par token, {whole:.3f} fragments compris ; mémoire propre "
        f"{peak:.0f} Mio, dont {before:.0f} avant de commencer",
        flush=True,
    )
    return [
        lone_row(f"Index, {name} : débit", OURS, [tokens / seconds / 1e6], "M tokens/s par cœur"),
        lone_row(f"Index, {name} : taille", OURS, [alone], "octets/token", lower=True),
        lone_row(f"Index, {name} : fragments compris", OURS, [whole], "octets/token", lower=True),
        lone_row(f"Index, {name} : pic de mémoire", OURS, [peak - before], "Mio", lower=True),
    ]


def answers(folder: Path, unseen: TokenArray, turns: int) -> list[Row]:
    """Le temps d'une réponse, selon ce qu'elle recopie."""
    index, rng, rows = TextIndex(folder), random.Random(SEED), []  # noqa: S311 — un essai

    def known(length: int) -> list[int]:
        return index.tokens.read(rng.randrange(index.num_tokens - length), length).tolist()

    def fresh(length: int) -> list[int]:
        return unseen.read(rng.randrange(unseen.num_tokens - length), length).tolist()

    kinds: dict[str, Callable[[], list[int]]] = {
        "recopiée": lambda: known(ANSWER),
        "à moitié recopiée": lambda: known(ANSWER // 2) + fresh(ANSWER - ANSWER // 2),
        "jamais vue": lambda: fresh(ANSWER),
    }
    print(f"\nRéponse de {ANSWER} tokens, parmi {index.num_tokens / 1e6:.0f} M, en millisecondes")
    for name, make in kinds.items():
        for _ in range(max(3, turns // 10)):
            trace_sources(index, make())
        values, cpu, longest, chance = list[float](), list[float](), list[int](), 0
        for _ in range(turns):
            ids = make()
            start, busy = time.perf_counter(), time.thread_time()
            found = trace_sources(index, ids)
            values.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.thread_time() - busy))
            longest.append(found.longest)
            chance = found.chance
        values.sort()
        print(
            f"{name:<18} médiane {values[len(values) // 2]:6.1f}, 95 % sous "
            f"{values[int(0.95 * (len(values) - 1))]:6.1f}, au plus {values[-1]:6.1f} ; processeur "
            f"{sorted(cpu)[len(cpu) // 2]:6.1f} ; plus long passage médian "
            f"{sorted(longest)[len(longest) // 2]} (hasard {chance})",
            flush=True,
        )
        rows.append(lone_row(f"Réponse {name}", OURS, values, "ms", lower=True))
    return rows


def main() -> None:
    """Lit les options, mesure, imprime, écrit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="textes")
    parser.add_argument("--megatokens", type=float, default=100, help="tokens indexés, en millions")
    parser.add_argument("--hostile", type=float, default=100, help="tokens hostiles, en millions")
    parser.add_argument("--memory", type=int, default=512, help="mémoire, en Mio")
    parser.add_argument("--turns", type=int, default=200, help="réponses de chaque sorte")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, help="fichier de résultats")
    options = parser.parse_args()
    if options.quick:
        options.megatokens, options.hostile, options.turns = 2, 1, 50
    announce()
    tokenizer = get_tokenizer("gpt2")
    size, hostile = int(options.megatokens * 1e6), int(options.hostile * 1e6)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "textes"
        unseen = corpus(options.data, max(20_000, size // 100), SEED + 1)
        train = corpus(options.data, size, SEED)
        sample = train.read(0, min(size, 100_000)).tolist()
        text_bytes = len(tokenizer.decode(sample).encode()) / len(sample)
        write_tokens(folder, train, unseen, tokenizer, name="textes")
        del train
        rows += build("textes", folder, size, text_bytes * size, options.memory)
        rows += answers(folder, unseen, options.turns)
        if hostile:
            place = Path(name) / "hostile"
            same = TokenArray(np.full(hostile, 5, dtype=np.uint16))
            write_tokens(place, same, None, tokenizer, name="hostile")
            del same
            rows += build(HOSTILE, place, hostile, hostile, options.memory)
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
