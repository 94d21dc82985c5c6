"""Ce que coûte un token servi, hors du modèle : choisir, décoder le texte, l'envoyer.

Question : avec un modèle qui ne calcule rien, combien de microsecondes de processeur un token
prend-il au fil du moteur, à la boucle HTTP et aux autres, et combien de temps s'écoule entre deux
passages du modèle ?

    python benchmarks/serve_overhead.py [--turns N] [--streams N …] [--tokens N] [--json FICHIER]

Le service est un processus ; son modèle dort le temps d'un passage, puis rend des logits tirés
d'avance, d'un vocabulaire de GPT-2, aussi inégaux que ceux d'un modèle entraîné. Le client n'a
qu'un fil et ne fait que compter : ce qu'il prend est donné à part. Linux seulement : le temps de
chaque fil vient de /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from _machine import announce
from _measure import Row, french, lone_row, write_rows
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache

SLOTS, WINDOW, PROMPT = 32, 512, 16
HEIGHT = 128  # tokens d'un passage
BANK = 3 * HEIGHT  # rangs de logits tirés d'avance
SPREAD = 4.0  # écart type des logits : le noyau de masse 0,9 compte quelques dizaines de tokens
PASS = 0.010  # s : ce que dure un passage
KINDS: Mapping[str, dict[str, Any]] = {
    "glouton": {"temperature": 0.0},
    "tirage": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
}
THREADS = ("moteur", "boucle", "autres")


class PaperModel:
    """Un modèle qui ne calcule rien : ses logits, au hasard, sont tirés d'avance."""

    def __init__(self) -> None:
        self.cfg = GPTConfig(emb_dim=4, n_heads=1, n_layers=1, context_length=WINDOW)
        generator = torch.Generator().manual_seed(1)
        self._bank = SPREAD * torch.randn(BANK, self.cfg.vocab_size, generator=generator)
        self._next = 0

    @property
    def device(self) -> torch.device:
        """Le processeur."""
        return torch.device("cpu")

    @property
    def uniform_rows(self) -> int:
        """Tokens au plus d'un passage."""
        return HEIGHT

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """Un cache vide."""
        return KVCache(self.cfg, batch_size, capacity=capacity)

    def __call__(
        self, in_idx: Tensor, cache: KVCache | None = None, *, at: Tensor | None = None
    ) -> Tensor:
        """Inutile ici : le moteur ne lit que des parts."""
        raise NotImplementedError

    def read_uniform(
        self,
        parts: Sequence[Sequence[int]],
        cache: KVCache,
        *,
        wanted: Sequence[int] | None = None,
    ) -> Tensor:
        """Des logits (W, V) du stock."""
        cache.advance_each_([len(part) for part in parts])
        count = len(parts if wanted is None else wanted)
        self._next = (self._next + count) % (BANK - HEIGHT)
        time.sleep(PASS)
        return self._bank[self._next : self._next + count]


def run_server() -> None:
    """Le processus du service : dit son adresse et le fil de son moteur, puis sert."""
    from gpt_architecture.data.tokenizer import GPT2Tokenizer
    from gpt_architecture.serving.app import create_app
    from gpt_architecture.serving.context import ServingContext
    from gpt_architecture.serving.engine.engine import Engine
    from gpt_architecture.serving.http.server import HttpServer, bind, url_of
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

    model, tokenizer, limits = PaperModel(), GPT2Tokenizer(), Limits()
    engine = Engine(model, tokenizer, slots=SLOTS)
    engine.start()
    engine.wait_started()
    context = ServingContext(
        engine=engine,
        model=model,
        tokenizer=tokenizer,
        name="papier",
        metadata={},
        window=WINDOW,
        limits=limits,
        fields=FieldPolicy(strict=False),
    )
    server = HttpServer(create_app(context), limits=limits, drain_seconds=1.0)
    sys.setswitchinterval(0.0005)  # comme la commande `serve`
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    listener = bind("127.0.0.1", 0)
    thread = next(each for each in threading.enumerate() if each.name == "moteur")
    print(url_of(listener), thread.native_id, flush=True)

    def stop() -> None:
        sys.stdin.read()  # jusqu'à ce que le banc la ferme
        server.request_stop()

    threading.Thread(target=stop, daemon=True).start()
    server.serve_until_stopped(listener)
    engine.stop()


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Ce qu'un passage a pris, en microsecondes de processeur par token.

    Attributes:
        threads: du service, par fil.
        client: du client.
        gap: secondes par pas, passage du modèle à part.
    """

    threads: dict[str, float]
    client: float
    gap: float

    @property
    def total(self) -> float:
        """De tout le service."""
        return sum(self.threads.values())


class Service:
    """Le service, dans son processus, et le client qui compte."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        url, engine = self._process.stdout.readline().split()
        self._address, self._engine = urlsplit(url), int(engine)

    def stop(self) -> None:
        """L'arrête."""
        self._process.communicate()

    def measure(self, streams: int, tokens: int, options: Mapping[str, Any]) -> Spent:
        """Sert `streams` flux à la fois, de `tokens` tokens chacun."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(self._connect()) for _ in range(streams)]
            before, mine = self._nanoseconds(), time.process_time_ns()
            start = time.perf_counter()
            for one in sockets:
                one.sendall(self._request(tokens, options))
            found = _read(sockets)
            seconds = time.perf_counter() - start
            mine, after = time.process_time_ns() - mine, self._nanoseconds()
        assert abs(found - streams * tokens) <= 0.05 * streams * tokens, found
        count = streams * tokens
        spent = {name: (after[name] - before[name]) / 1000 / count for name in THREADS}
        return Spent(threads=spent, client=mine / 1000 / count, gap=seconds / tokens - PASS)

    def _connect(self) -> socket.socket:
        host, port = self._address.hostname, self._address.port
        assert port is not None
        return socket.create_connection((host or "", port))

    def _request(self, tokens: int, options: Mapping[str, Any]) -> bytes:
        ids = random.choices(range(50_000), k=PROMPT)  # noqa: S311
        body = {"prompt": ids, "max_tokens": tokens, "stream": True, "ignore_eos": True, **options}
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def _nanoseconds(self) -> dict[str, int]:
        """Temps de processeur de chaque fil du service, depuis son départ."""
        found = dict.fromkeys(THREADS, 0)
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            name = {self._engine: "moteur", self._process.pid: "boucle"}.get(
                int(task.name), "autres"
            )
            found[name] += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return found


def _read(sockets: Sequence[socket.socket]) -> int:
    """Lit tous les flux jusqu'au bout ; rend le nombre d'événements."""
    events = 0
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        left = len(sockets)
        while left:
            for key, _ in selector.select():
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                events += data.count(b"data: {")
                if not data or b"data: [DONE]" in data:
                    selector.unregister(key.fileobj)
                    left -= 1
    return events


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="flux à la fois")
    parser.add_argument("--tokens", type=int, default=128, help="tokens par flux")
    parser.add_argument("--turns", type=int, default=5, help="passages par cas")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        run_server()
        return
    announce()
    service, rows = Service(), list[Row]()
    for kind, options in KINDS.items():
        for streams in arguments.streams:
            found = [
                service.measure(streams, arguments.tokens, options)
                for _ in range(arguments.turns + 1)
            ][1:]
            rows.append(_show(f"{kind}, {streams} flux", found))
    service.stop()
    write_rows(arguments.json, rows)


def _show(name: str, found: Sequence[Spent]) -> Row:
    """Imprime une ligne : médianes, et étendue du total."""
    totals = sorted(each.total for each in found)
    each = {name: statistics.median(one.threads[name] for one in found) for name in THREADS}
    client = statistics.median(one.client for one in found)
    gap = statistics.median(one.gap for one in found)
    parts = ", ".join(f"{name} {french(value, 0)}" for name, value in each.items())
    print(
        f"{name:<16} {french(statistics.median(totals), 0):>4} µs par token "
        f"({french(totals[0], 0)} à {french(totals[-1], 0)}) : {parts} ; client "
        f"{french(client, 0)} ; {french(1000 * gap, 1)} ms entre deux passages",
        flush=True,
    )
    question = "Coût d'un token servi, hors du modèle"
    return lone_row(question, name, totals, "µs", lower=True, gap=gap, **each)


if __name__ == "__main__":
    main()
