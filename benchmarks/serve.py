"""Le service, contre le serveur de llama.cpp, avec les mêmes poids et autant de places.

Questions : combien de tokens par seconde en tout, et combien d'attente avant le premier, à 1, 8 et
32 flux ? En combien de temps répond-il à une petite requête ? Que devient le service quand on lui
demande dix fois ce qu'il peut ? Quand des clients s'en vont au milieu d'un flux ?

    python benchmarks/serve.py [--quick] [--json FICHIER] [--turns N] [--only QUESTION …]
        [--streams N …] [--soak SECONDES]

Chaque serveur est un processus ; les passages alternent entre eux, l'autre ne faisant rien. Les
clients sont les mêmes : des flux `/v1/completions` gloutons de 64 tokens, un début par flux, neuf
à chaque passage, par des connexions gardées ouvertes d'une requête à l'autre, comme celles du
client d'OpenAI.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from _gguf import write_scheme
from _measure import REST, Row, french

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.model_file import save_model

STREAMS = (1, 8, 32)
SLOTS = 32
PROMPT, COUNT = 16, 64
CONTEXT = 128
SMALL = 50  # petites requêtes à la file
TIMEOUT = 300.0
PAIRS = {"fp32": ("f32", ()), "int8": ("q8_0", ("--quant", "int8"))}
"""Précision → format de llama.cpp, options de notre service."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """Une requête finie : code HTTP, attente du premier token et durée (s), tokens reçus."""

    status: int
    first: float = 0.0
    seconds: float = 0.0
    chunks: int = 0


class Server:
    """Un serveur dans son processus."""

    def __init__(self, command: Sequence[str], marker: str) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if marker in line:
                self.url = line.split(marker, 1)[1].split()[0]
                break
        else:
            raise RuntimeError(f"{command[:4]} n'a pas démarré")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self._idle = list[http.client.HTTPConnection]()
        end = time.monotonic() + TIMEOUT
        while health(self.url)[0] != http.client.OK:
            if time.monotonic() > end:
                raise RuntimeError(f"{command[:4]} n'est jamais prêt")
            time.sleep(0.2)

    def complete(self, seed: int, count: int, *, leave_after: int | None = None) -> Served:
        """Un flux de `count` tokens ; `leave_after` : le client s'en va après tant de morceaux."""
        ids = random.Random(seed).choices(range(50_000), k=PROMPT)  # noqa: S311
        body = {"prompt": ids, "max_tokens": count, "temperature": 0.0, "stream": True}
        body |= {"ignore_eos": True}
        start, first, chunks = time.perf_counter(), 0.0, 0
        with self.connection() as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                answer.read()
                return Served(status=answer.status)
            while line := answer.readline():
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                chunks += 1
                first = first or time.perf_counter() - start
                if leave_after is not None and chunks >= leave_after:
                    connection.close()
                    break
        seconds = time.perf_counter() - start
        return Served(status=answer.status, first=first, seconds=seconds, chunks=chunks)

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """Une connexion gardée ouverte, si le serveur ne l'a pas fermée ; neuve sinon."""
        try:
            found = self._idle.pop()
        except IndexError:
            found = connect(self.url)
        if found.sock is not None and select.select([found.sock], [], [], 0)[0]:
            found.close()  # le serveur s'est lassé : la prochaine requête la rouvre
        try:
            yield found
        except BaseException:
            found.close()
            raise
        self._idle.append(found)

    def get(self, path: str, *, body: object = None) -> float:
        """Durée (s) d'un GET, ou d'un POST si un corps est donné."""
        start = time.perf_counter()
        with self.connection() as connection:
            method, headers = (
                "GET" if body is None else "POST",
                {"Content-Type": "application/json"},
            )
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status == http.client.OK, answer.read()
            answer.read()
        return time.perf_counter() - start

    def open(self, count: int) -> None:
        """Ouvre `count` connexions, et s'en sert une fois : leur ouverture ne sera pas mesurée."""
        with contextlib.ExitStack() as stack:
            for connection in [stack.enter_context(self.connection()) for _ in range(count)]:
                connection.request("GET", "/health")
                connection.getresponse().read()

    def memory(self) -> float:
        """Mémoire présente, en Mo."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

    def stop(self) -> None:
        """Arrête le processus."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def connect(url: str) -> http.client.HTTPConnection:
    """Une connexion neuve à un serveur."""
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)


def health(url: str) -> tuple[int, float]:
    """Code et durée (s) d'un GET de `/health` ; 0 si personne ne répond."""
    start = time.perf_counter()
    try:
        with contextlib.closing(connect(url)) as connection:
            connection.request("GET", "/health")
            status = connection.getresponse().status
    except OSError:
        status = 0
    return status, time.perf_counter() - start


def together(
    server: Server, count: int, tokens: int, *, series: int = 0
) -> tuple[float, list[Served]]:
    """`count` flux à la fois : durée totale (s), et chaque requête.

    Les débuts d'une série ne sont ceux d'aucune autre : personne ne les a déjà lus.
    """
    server.open(count)
    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        seeds = range(1000 * series, 1000 * series + count)
        found = list(pool.map(lambda seed: server.complete(seed, tokens), seeds))
        return time.perf_counter() - start, found


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
    """Débit et attente, à chaque précision et à chaque nombre de flux."""
    rows: list[Row] = []
    for precision, (scheme, options) in PAIRS.items():
        gguf = folder / f"{scheme}.gguf"
        write_scheme(model, gguf, scheme)
        with (
            our_server(folder / "modele.pt", options) as ours,
            llama_server(gguf, threads) as peer,
        ):
            print(
                f"\n{precision} contre llama.cpp {scheme}, {SLOTS} places, {COUNT} tokens par flux"
            )
            for count in streams:
                rows += _pair(precision, scheme, count, {"ours": ours, "peer": peer}, turns)
            rows += _small_requests(precision, {"ours": ours, "peer": peer})
    return rows


def _small_requests(precision: str, servers: dict[str, Server]) -> list[Row]:
    """Durée médiane d'une petite requête, sur une connexion gardée ouverte."""
    rows = []
    one_token = {"prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0.0}
    for path, body in (("/health", None), ("/v1/models", None), ("/v1/completions", one_token)):
        found = {}
        for name, server in servers.items():
            server.open(1)
            found[name] = statistics.median(server.get(path, body=body) for _ in range(SMALL))
        ours, peer = found["ours"], found["peer"]
        print(f"{path} : {french(1000 * ours, 1)} contre {french(1000 * peer, 1)} ms")
        rows.append(_row(f"durée {path}, {precision}", ours, peer, peer / ours, "s"))
    return rows


def _pair(
    precision: str, scheme: str, count: int, servers: dict[str, Server], turns: int
) -> list[Row]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    waits: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(-1, turns):  # le premier passage, d'échauffement, n'est pas compté
        names = list(servers) if turn % 2 else list(servers)[::-1]
        for name in names:
            time.sleep(REST)
            seconds, found = together(servers[name], count, COUNT, series=count * (turn + 2))
            assert all(each.status == http.client.OK for each in found), Counter(
                each.status for each in found
            )
            if turn >= 0:
                rates[name].append(count * COUNT / seconds)
                waits[name].append(statistics.median(each.first for each in found))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    wait = {name: statistics.median(values) for name, values in waits.items()}
    gain = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
    sooner = statistics.median(b / a for a, b in zip(waits["ours"], waits["peer"], strict=True))
    print(
        f"{count:>3} flux {french(rate['ours'], 1):>7} contre {french(rate['peer'], 1):>7} tok/s, "
        f"{french(gain)} ×   premier token {french(1000 * wait['ours'], 0):>5} contre "
        f"{french(1000 * wait['peer'], 0):>5} ms : {french(1 / sooner)} ×"
    )
    name = f"{precision}, {count} flux, contre llama.cpp {scheme}"
    return [
        _row(f"débit {name}", rate["ours"], rate["peer"], gain, "tokens/s"),
        _row(f"premier token {name}", wait["ours"], wait["peer"], sooner, "s"),
    ]


def _row(name: str, ours: float, peer: float | None, ratio: float | None, unit: str) -> Row:
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit}


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
    latency, before = statistics.median(served), statistics.median(usual)
    print(
        f"\nDix fois la capacité ({10 * capacity} requêtes pour {capacity}) : "
        + ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
        + f" ; servies en {french(latency)} s (au calme {french(before)}) ; /health "
        f"{french(1000 * statistics.median(probes), 0)} ms, au pire {french(1000 * max(probes), 0)}"
    )
    assert set(statuses) <= {200, 429}, statuses
    return [
        _row("surcharge, durée d'une requête servie", latency, before, before / latency, "s"),
        _row("surcharge, /health au pire", max(probes), None, None, "s"),
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
    return [_row("endurance, mémoire à la fin", after, before, before / after, "Mo")]


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    questions = ("debit", "surcharge", "endurance")
    parser.add_argument("--quick", action="store_true", help="petit modèle, un passage")
    parser.add_argument("--only", nargs="+", choices=questions, default=questions, help="questions")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="flux à la fois")
    parser.add_argument("--turns", type=int, default=3, help="passages par candidat")
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
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
