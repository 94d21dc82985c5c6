"""Le décodage, contre les moteurs de processeur qu'on peut installer, avec les mêmes poids.

Questions : combien de tokens par seconde, seul et par lots, à chaque précision, et quelle part de
la borne (voir `_ceilings`) ? Combien pour lire une invite, pour démarrer, selon la longueur du
contexte ? Que coûtent huit et quatre bits en perplexité ?

    python benchmarks/decode.py [--quick] [--json FICHIER] [--only QUESTION …] [--threads N]
        [--ik-llama SOURCES] [--peers NOM …] [--contexts N …]
        [--model FICHIER --data TEXTE]

Les candidats alternent dans un même processus ; les rapports sont des médianes, données avec leur
étendue. Avant toute mesure, chaque moteur doit choisir les mêmes tokens que GPTModel, à sa
précision près. `benchmarks/tables.py` fait des JSON les tableaux de docs/mesures/performances.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from _bench import LONE, PEERS, Bench, ours, packed
from _machine import announce
from _measure import Row, compare, french, write_rows
from _peers import Engine, Streamed

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.evaluation.reliability import compare_models
from gpt_architecture.formats.model_file import read_model, save_model

PROMPT, COUNT = 16, 128  # le cas de référence : 128 tokens après une invite de 16
OPENING = "Every effort moves you"
PREFILL = 512
BATCHES = (8, 32)
BATCH_COUNT = 32
QUALITY_TOKENS = 20_000
LOOKUP = 10  # tokens proposés à la fois
CONTEXTS = (64, 128, 256, 512, 1024)
CONTEXT_NAMES = (
    *("ce projet, fp32", "ce projet, int8", "ce projet, int4"),
    *("llama.cpp f32", "llama.cpp q8_0", "llama.cpp q4_0"),
)
CONTEXT_STEPS = 32  # décodages mesurés à la fin de chaque contexte


def decode_speed(bench: Bench) -> list[Row]:
    """Un seul texte, toutes précisions."""
    prompt = bench.prompt(PROMPT)
    measures = {n: partial(bench.seconds, n, [prompt], COUNT) for n in bench.prepare(*PEERS)}
    question = f"Décodage, un texte, {COUNT} tokens après une invite de {PROMPT}"
    return bench.speeds(question, measures, rows=1, steps=COUNT - 1, tokens=1, past=PROMPT)


def prefill_speed(bench: Bench) -> list[Row]:
    """La lecture d'une longue invite, toutes précisions."""
    prompt = bench.prompt(PREFILL)
    measures = {n: partial(bench.engines[n].prefill, prompt) for n in bench.prepare(*PEERS)}
    question = f"Lecture d'une invite de {PREFILL} tokens"
    return bench.speeds(question, measures, rows=1, steps=1, tokens=PREFILL, past=0)


def batch_speed(bench: Bench) -> list[Row]:
    """Plusieurs textes à la fois, toutes précisions ; le débit est celui de tous ensemble."""
    names = [n for n in bench.prepare(*PEERS) if not n.startswith(LONE)]
    found = []
    for size in BATCHES:
        prompts = [bench.prompt(PROMPT, seed) for seed in range(size)]
        measures = {n: partial(bench.seconds, n, prompts, BATCH_COUNT) for n in names}
        question = f"Lot de {size}, {BATCH_COUNT} tokens chacun après une invite de {PROMPT}"
        steps = BATCH_COUNT - 1
        found += bench.speeds(question, measures, rows=size, steps=steps, tokens=1, past=PROMPT)
    return found


def repetition_speed(bench: Bench) -> list[Row]:
    """Les tokens proposés en relisant le texte, sur un texte qui répète son début.

    Sans positions ni attention, le token suivant ne dépend que du dernier : un début qui finit
    par son premier token est répété mot pour mot, au même prix par passage que tout autre texte.
    """
    model = copy.deepcopy(bench.model)
    for name, parameter in model.named_parameters():
        if name == "pos_emb.weight" or ".att.out_proj." in name:
            parameter.zero_()
    fast = packed(model, "fp32")
    plain, lookup = "sans proposition", f"{LOOKUP} tokens proposés"
    engines = {plain: Streamed(fast), lookup: Streamed(fast, lookup=LOOKUP)}
    first = bench.prompt(1)
    (chain,) = engines[plain].decode([first], COUNT).tokens
    prompt = [*first, *chain[:-1], *first]
    assert all(engine.decode([prompt], COUNT).tokens[0] == chain for engine in engines.values())
    seconds = bench.alternate(
        {n: partial(run_seconds, engine, prompt) for n, engine in engines.items()}
    )
    question = f"Texte qui répète son début, {COUNT} tokens après une invite de {len(prompt)}, fp32"
    speeds = {n: [(COUNT - 1) / each for each in values] for n, values in seconds.items()}
    return compare(question, speeds, "tok/s", lookup, [plain])


def run_seconds(engine: Engine, prompt: list[int]) -> float:
    """Durée d'une génération seule."""
    return engine.decode([prompt], COUNT).seconds


def context_cost(bench: Bench, contexts: Sequence[int]) -> list[Row]:
    """Le prix d'un token selon ce qui le précède."""
    present = bench.prepare(*PEERS)
    names = [name for name in CONTEXT_NAMES if name in present]
    found = []
    for context in contexts:
        prompt = bench.prompt(context - CONTEXT_STEPS - 1)
        seconds = bench.alternate(
            {n: partial(bench.seconds, n, [prompt], CONTEXT_STEPS + 1) for n in names}
        )
        each = {n: [1e3 * s / CONTEXT_STEPS for s in values] for n, values in seconds.items()}
        for precision, peers in PEERS.items():
            question = f"Un token après {context} de contexte, {precision}"
            found += compare(question, each, "ms", ours(precision), peers, lower=True)
    return found


def cold_start(bench: Bench) -> list[Row]:
    """De la commande au premier token, fichier en mémoire puis rendu au disque."""
    path = bench.folder / "gpt-model.pt"
    save_model(path, bench.model, bench.cfg, tokenizer={"name": "gpt2"})
    command = [sys.executable, "-m", "gpt_architecture", "infer", "--model", str(path)]
    command += ["--prompt", OPENING, "--max_tokens", "1"]
    read, unread = "fichier déjà lu", "fichier à lire"
    found = bench.alternate(
        {
            read: partial(seconds_to_first_token, command),
            unread: partial(seconds_to_first_token, command, forgotten=path),
        }
    )
    size = french(path.stat().st_size / 2**20, 0)
    question = f"Démarrage : de la commande infer à son premier token, {size} Mio"
    return [row for n in found for row in compare(question, found, "s", n, lower=True)]


def seconds_to_first_token(command: Sequence[str], *, forgotten: Path | None = None) -> float:
    """Temps jusqu'au premier token écrit ; d'abord, le système oublie le fichier `forgotten`."""
    if forgotten is not None:
        with forgotten.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    found = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while len(found.rstrip()) <= len(OPENING):
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise RuntimeError(f"infer s'est tu après {found!r}")
            found += piece
        elapsed = time.perf_counter() - start
    return elapsed


def quality(model_path: Path, data: str, limit: int) -> list[Row]:
    """Perplexité sur un texte tenu à l'écart, et accord des choix gloutons avec fp32."""
    content = read_model(model_path)
    model = content.build()
    ids = tokenizer_from_dict(content.tokenizer).encode(load_corpus([data]).text)[:limit]
    window = content.metadata.get("window") or model.cfg.context_length
    size = f"{model.num_parameters():,}".replace(",", " ")
    print(f"\nPerplexité d'un modèle de {size} paramètres sur {len(ids)} tokens tenus à l'écart")
    rows: list[Row] = []
    for precision in PEERS:
        candidate = packed(model, precision)
        found = compare_models(model, candidate, torch.tensor(ids), window=window)
        print(
            f"{ours(precision):<28} {french(found.candidate_perplexity, 3):>10}   "
            f"{100 * found.relative_gap:+.2f} %   ".replace(".", ",")
            + f"mêmes choix : {french(100 * found.agreement, 1)} %"
        )
        rows.append(
            {
                "name": f"perplexité, {precision}",
                "question": "Perplexité sur un texte tenu à l'écart",
                "candidate": ours(precision),
                "against": "fp32",
                "ours": found.candidate_perplexity,
                "peer": found.reference_perplexity,
                "ratio": found.reference_perplexity / found.candidate_perplexity,
                "unit": "perplexité",
                "lower_is_better": True,
                "agreement": found.agreement,
            }
        )
    return rows


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON et la figure demandés."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    questions = ("debit", "invite", "lots", "repetition", "contexte", "demarrage", "qualite")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute, petit modèle")
    parser.add_argument("--only", nargs="+", choices=questions, default=questions, help="questions")
    parser.add_argument("--threads", type=int, default=2, help="fils de chaque candidat")
    parser.add_argument("--turns", type=int, default=7, help="passages par candidat")
    parser.add_argument("--retries", type=int, default=4, help="reprises d'une mesure troublée")
    parser.add_argument("--peers", nargs="+", default=[""], help="pairs, par le début de leur nom")
    parser.add_argument("--ik-llama", type=Path, help="sources construites (voir _ik_llama.py)")
    parser.add_argument("--contexts", type=int, nargs="+", help="longueurs de contexte")
    parser.add_argument("--model", type=Path, help="modèle entraîné, pour la perplexité")
    parser.add_argument("--data", help="texte tenu à l'écart, pour la perplexité")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    announce()
    cfg, turns, retries = GPTConfig(drop_rate=0.0), arguments.turns, arguments.retries
    if arguments.quick:
        cfg, turns, retries = GPTConfig(emb_dim=256, n_heads=4, n_layers=4, drop_rate=0.0), 1, 0
    contexts = arguments.contexts or (CONTEXTS[:2] if arguments.quick else CONTEXTS)
    if not CONTEXT_STEPS + 1 < min(contexts) <= max(contexts) <= cfg.context_length:
        parser.error(f"--contexts : de {CONTEXT_STEPS + 2} à {cfg.context_length} tokens")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            cfg,
            Path(folder),
            threads=arguments.threads,
            turns=turns,
            retries=retries,
            ik_llama=arguments.ik_llama,
            peers=arguments.peers,
        )
        size = f"{cfg.num_parameters():,}".replace(",", " ")
        print(f"{size} paramètres, {arguments.threads} fils, médianes de {turns} passage(s).\n")
        answers: dict[str, Callable[[], list[Row]]] = {
            "debit": lambda: decode_speed(bench),
            "invite": lambda: prefill_speed(bench),
            "lots": lambda: batch_speed(bench),
            "repetition": lambda: repetition_speed(bench),
            "contexte": lambda: context_cost(bench, contexts),
            "demarrage": lambda: cold_start(bench),
        }
        for question, answer in answers.items():
            if question in arguments.only:
                rows += answer()
    if "qualite" in arguments.only:
        if arguments.model and arguments.data:
            rows += quality(arguments.model, arguments.data, QUALITY_TOKENS)
        else:
            print("\nPerplexité : non mesurée, donnez --model FICHIER et --data TEXTE.")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
