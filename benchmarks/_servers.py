"""Les clients de `serve.py` : un serveur dans son processus, des flux qui s'y connectent."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PROMPT = 16  # tokens d'une invite
TIMEOUT = 300.0


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
