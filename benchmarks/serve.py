"""Le service, contre le serveur de llama.cpp, avec les mêmes poids et autant de places.

Questions : combien de tokens par seconde en tout, et combien d'attente avant le premier, à 1, 8 et
32 flux ? En combien de temps répond-il à une petite requête ? Que devient le service quand on lui
demande dix fois ce qu'il peut ? Quand des clients s'en vont au milieu d'un flux ?

    python benchmarks/serve.py [--quick] [--json FICHIER] [--turns N] [--only QUESTION …]
        [--streams N …] [--soak SECONDES]

Chaque serveur est un processus ; les passages alternent entre eux, les autres ne faisant rien. Les
clients sont les mêmes : des flux `/v1/completions` gloutons de 64 tokens, un début par flux, neuf
à chaque passage, par des connexions gardées ouvertes d'une requête à l'autre, comme celles du
client d'OpenAI.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _ceilings import Ceilings, Footprint, Work, bits, own, work
from _gguf import GGUF_BITS, write_scheme
from _machine import announce
from _measure import Row, alternate, compare, french, write_rows
from _servers import PROMPT, Server, health, together

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.kernels.decode.packed import PackingName, pack

STREAMS = (1, 8, 32)
SLOTS = 32
COUNT = 64
CONTEXT = 128
SMALL = 50  # petites requêtes à la file
PAIRS: dict[PackingName, tuple[str, tuple[str, ...]]] = {
    "fp32": ("f32", ()),
    "int8": ("q8_0", ("--quant", "int8")),
}
"""Précision → format de llama.cpp, options de notre service."""


@contextlib.contextmanager
def our_server(path: Path, options: Sequence[str] = (), slots: int = SLOTS) -> Iterator[Server]:
    """Notre service, arrêté à la sortie."""
    command = [sys.executable, "-m", "gpt_architecture", "serve", str(path), "--port", "0"]
    server = Server([*command, "--slots", str(slots), *options], "Service sur ")
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def llama_server(path: Path, threads: int) -> Iterator[Server]:
    """Le serveur de llama.cpp, arrêté à la sortie."""
    server = Server(
        [sys.executable, __file__, "--llama", str(path), str(threads)], "llama.cpp sur "
    )
    try:
        yield server
    finally:
        server.stop()


def run_llama(path: str, threads: int) -> None:
    """Le processus de llama.cpp : dit son adresse, puis sert jusqu'à ce qu'on l'arrête."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel = SLOTS * CONTEXT, SLOTS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = params.n_ctx_checkpoints = params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"llama.cpp sur {server.listening_address}", flush=True)
    threading.Event().wait()


def speed(
    model: GPTModel, folder: Path, streams: Sequence[int], turns: int, threads: int
) -> list[Row]:
    """Débit et attente à chaque nombre de flux ; tous les serveurs alternent."""
    rows: list[Row] = []
    ceilings = Ceilings()
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for precision, (scheme, options) in PAIRS.items():
            gguf = folder / f"{scheme}.gguf"
            write_scheme(model, gguf, scheme)
            ours = our_server(folder / "modele.pt", options)
            servers[own_name(precision)] = stack.enter_context(ours)
            servers[f"llama.cpp {scheme}"] = stack.enter_context(llama_server(gguf, threads))
        for count in streams:
            rows += _streams(model, count, servers, ceilings, turns)
        rows += _small_requests(servers)
    return rows


def own_name(precision: str) -> str:
    """Nom de notre service."""
    return f"ce projet, {precision}"


def peers_of(precision: PackingName) -> list[str]:
    """Ceux d'une précision ; en int8, aussi notre propre fp32."""
    others = [own_name("fp32")] if precision != "fp32" else []
    return [f"llama.cpp {PAIRS[precision][0]}", *others]


def _small_requests(servers: dict[str, Server]) -> list[Row]:
    """Durée d'une petite requête, sur une connexion gardée ouverte."""
    rows = []
    one_token = {"prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0.0}
    for path, body in (("/health", None), ("/v1/models", None), ("/v1/completions", one_token)):
        found = {}
        for name, server in servers.items():
            server.open(1)
            found[name] = [1000 * server.get(path, body=body) for _ in range(SMALL)]
        for precision in PAIRS:
            ours, peers = own_name(precision), peers_of(precision)
            rows += compare(f"{path}, {precision}", found, "ms", ours, peers, lower=True)
    return rows


def _streams(
    model: GPTModel, count: int, servers: dict[str, Server], ceilings: Ceilings, turns: int
) -> list[Row]:
    """`count` flux à la fois : débit, part de la borne, attente du premier token."""
    waits: dict[str, list[float]] = {name: [] for name in servers}
    series = itertools.count()

    def measure(name: str) -> float:
        seconds, found = together(servers[name], count, COUNT, series=count * (next(series) + 1))
        statuses = Counter(each.status for each in found)
        assert set(statuses) == {http.client.OK}, statuses
        waits[name].append(1000 * statistics.median(each.first for each in found))
        return seconds

    measures = {name: partial(measure, name) for name in servers}
    seconds = alternate({**measures, **ceilings.measures()}, turns, retries=0)
    print(f"\n{count} flux, {SLOTS} places, {COUNT} tokens chacun après une invite de {PROMPT} :")
    rates, rows = ceilings.take(seconds), list[Row]()
    speeds = {name: [count * COUNT / each for each in s] for name, s in seconds.items()}
    waited = {name: values[-turns:] for name, values in waits.items()}  # sans l'échauffement
    shares = {}
    for precision, (scheme, _) in PAIRS.items():
        read = {
            own_name(precision): own(pack(model, precision)),
            f"llama.cpp {scheme}": bits(model.cfg, *GGUF_BITS[scheme], cache=2),
        }
        for name, each in read.items():
            todo = stream_work(model.cfg, each, count, whole=precision == "fp32")
            shares[name] = rates.shares(todo, seconds[name])
    for precision in PAIRS:
        ours, peers = own_name(precision), peers_of(precision)
        question = f"{count} flux servis, {precision}"
        rows += compare(question, speeds, "tok/s", ours, peers, shares=shares)
        rows += compare(f"{question}, premier token", waited, "ms", ours, peers, lower=True)
    return rows


def stream_work(cfg: GPTConfig, each: Footprint, count: int, *, whole: bool) -> Work:
    """Lire les invites, puis COUNT − 1 passages de tous les flux."""
    read = partial(work, cfg, each, rows=count, whole=whole)
    first = read(steps=1, tokens=PROMPT, past=0)
    rest = read(steps=COUNT - 1, tokens=1, past=PROMPT)
    return Work(
        bytes=first.bytes + rest.bytes,
        floats=first.floats + rest.floats,
        integers=first.integers + rest.integers,
    )


@contextlib.contextmanager
def watched_health(server: Server) -> Iterator[list[float]]:
    """Durées (s) de `/health`, remplies à la sortie.

    Relevées par un autre processus : dans celui-ci, elles compteraient aussi l'attente de leur fil
    derrière les 160 des clients, et jusqu'à 0,5 s qui n'est pas celle du service.
    """
    found = list[float]()
    with subprocess.Popen(
        [sys.executable, __file__, "--watch", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # il est prêt
        yield found
        lines = [line.split() for line in process.communicate()[0].splitlines()]
    assert all(int(status) == http.client.OK for status, _ in lines), lines
    found += [float(seconds) for _, seconds in lines]


def run_watch(url: str) -> None:
    """Le processus qui relève `/health`, jusqu'à ce que son entrée soit fermée."""
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    print("prêt", flush=True)
    while ended.is_alive():
        print(*health(url))
        ended.join(0.05)


def overload(folder: Path) -> list[Row]:
    """Dix fois la capacité : qui est refusé, ce que deviennent les autres, et `/health`."""
    capacity, tokens = 16, 32
    options = ("--quant", "int8", "--max-waiting", "8")
    with our_server(folder / "modele.pt", options, slots=8) as server:
        together(server, 8, tokens)
        _, calm = together(server, capacity, tokens)
        with watched_health(server) as probes:
            _, found = together(server, 10 * capacity, tokens)
    statuses = Counter(each.status for each in found)
    served = [each.seconds for each in found if each.status == http.client.OK]
    usual = [each.seconds for each in calm if each.status == http.client.OK]
    print(
        f"\nDix fois la capacité ({10 * capacity} requêtes pour {capacity}) : "
        + ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    )
    assert set(statuses) <= {200, 429}, statuses
    wait = {"surchargé": served, "au calme": usual}
    health_times = {"ce projet": [1000 * each for each in probes]}
    return [
        *compare("Durée d'une requête servie", wait, "s", "surchargé", lower=True),
        *compare("Durée d'une requête servie", wait, "s", "au calme", lower=True),
        *compare("/health en surcharge", health_times, "ms", "ce projet", lower=True),
    ]


def soak(folder: Path, seconds: float) -> list[Row]:
    """Trente-deux clients, dont un sur trois s'en va au milieu : mémoire, codes, places rendues."""
    with our_server(folder / "modele.pt", ("--quant", "int8")) as server:
        end = time.monotonic() + seconds
        statuses, lock = Counter[int](), threading.Lock()

        def client(number: int) -> None:
            chance = random.Random(number)  # noqa: S311
            while time.monotonic() < end:
                leave = chance.randrange(1, 20) if chance.random() < 1 / 3 else None
                found = server.complete(chance.randrange(10**6), 32, leave_after=leave)
                with lock:
                    statuses[found.status] += 1

        with ThreadPoolExecutor(SLOTS) as pool:
            clients = [pool.submit(client, number) for number in range(SLOTS)]
            time.sleep(seconds / 4)
            before = server.memory()
            for each in clients:
                each.result()
        after = server.memory()
        last = server.complete(0, 8)
    counts = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    print(
        f"\n{seconds:.0f} s de départs au hasard : {counts} ; mémoire {french(before, 0)} Mo au "
        f"quart, {french(after, 0)} Mo à la fin ; la suivante : {last.status}"
    )
    assert all(status < 500 for status in statuses), statuses
    memory = {"à la fin": [after], "au quart": [before]}
    return compare("Mémoire en endurance", memory, "Mo", "à la fin", ["au quart"], lower=True)


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    questions = ("debit", "surcharge", "endurance")
    parser.add_argument("--quick", action="store_true", help="petit modèle, un passage")
    parser.add_argument("--only", nargs="+", choices=questions, default=questions, help="questions")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="flux à la fois")
    parser.add_argument("--turns", type=int, default=5, help="passages par candidat")
    parser.add_argument("--threads", type=int, default=2, help="fils de llama.cpp")
    parser.add_argument("--soak", type=float, default=120.0, help="secondes d'endurance")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    parser.add_argument("--llama", nargs=2, help=argparse.SUPPRESS)  # le processus de llama.cpp
    parser.add_argument("--watch", help=argparse.SUPPRESS)  # celui qui relève /health
    arguments = parser.parse_args()
    if arguments.llama:
        run_llama(arguments.llama[0], int(arguments.llama[1]))
        return
    if arguments.watch:
        run_watch(arguments.watch)
        return
    announce()
    cfg, turns, seconds = GPTConfig(drop_rate=0.0), arguments.turns, arguments.soak
    if arguments.quick:
        cfg = GPTConfig(emb_dim=256, n_heads=4, n_layers=4, drop_rate=0.0)
        turns, seconds = 1, min(seconds, 5.0)
    torch.manual_seed(123)
    model = GPTModel(cfg).eval().requires_grad_(False)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "modele.pt", model, cfg, tokenizer={"name": "gpt2"}, metadata={})
        if "debit" in arguments.only:
            rows += speed(model, folder, arguments.streams, turns, arguments.threads)
        if "surcharge" in arguments.only:
            rows += overload(folder)
        if "endurance" in arguments.only:
            rows += soak(folder, seconds)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
