"""Compte les pièces traversées : les fichiers du paquet où une fonction a tourné.

    python tools/rooms.py token     un token de plus, d'un modèle minuscule déjà chargé
    python tools/rooms.py infer     la commande, sur ce modèle
    python tools/rooms.py train     la commande, sur la nouvelle embarquée
    python tools/rooms.py http      une requête HTTP, à un service déjà chargé

Ce qui tourne à l'import (corps des modules et des classes) ne compte pas ; tous les fils comptent.
Avec `--list`, les fichiers sont nommés. Ce modèle écrit par PyTorch : trop petit pour les noyaux.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import inspect
import io
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import FrameType

from gpt_architecture import GenerationConfig, load
from gpt_architecture.main import main as run_command

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "gpt_architecture"
TINY = ["--emb-dim", "48", "--n-heads", "4", "--n-layers", "2", "--context-length", "64"]
TRAINING = [*TINY, "--epochs", "1", "--device", "cpu", "--data", "la-lampe-du-passeur"]
SECONDS = 60.0


class Rooms:
    """Les fichiers du paquet où une fonction a tourné, de l'entrée à la sortie de `watching`."""

    def __init__(self) -> None:
        self._found, self._is_open = set[str](), False

    def install(self) -> None:
        """Observe ce fil et tous ceux qui naîtront."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ne retient que ce qui tourne ici."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False

    @property
    def files(self) -> list[str]:
        """Leurs chemins dans le paquet."""
        prefix = f"{PACKAGE}{os.sep}"
        return sorted(path.removeprefix(prefix) for path in self._found if path.startswith(prefix))

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if self._is_open and event == "call" and code.co_flags & inspect.CO_OPTIMIZED:
            self._found.add(code.co_filename)


def run(*arguments: str) -> str:
    """Lance une commande du paquet dans ce processus ; rend ce qu'elle a écrit sur stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        run_command(arguments)
    return out.getvalue()


def tiny_model(folder: Path) -> str:
    """Un modèle entraîné une époque."""
    run("train", *TRAINING, "--output-dir", str(folder))
    return str(folder / "gpt-model.pt")


def of_token(rooms: Rooms, folder: Path) -> None:
    """Du deuxième au troisième token d'une suite."""
    sampling = GenerationConfig(strategy="top_p", p=0.9, seed=1)
    pieces = load(tiny_model(folder)).pieces("Le passeur", sampling)
    next(pieces), next(pieces)
    with rooms.watching():
        next(pieces)


def of_infer(rooms: Rooms, folder: Path) -> None:
    """La commande `infer`."""
    model = tiny_model(folder)
    with rooms.watching():
        run("infer", model, "--prompt", "Le passeur", "--max-tokens", "8")


def of_train(rooms: Rooms, folder: Path) -> None:
    """La commande `train`."""
    with rooms.watching():
        tiny_model(folder)


def of_http(rooms: Rooms, folder: Path) -> None:
    """Une complétion, demandée au service."""
    model = tiny_model(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("serve", model, "--port", str(port))
    threading.Thread(target=run, args=arguments, daemon=True).start()
    _wait_ready(port)
    body = json.dumps({"prompt": "Le passeur", "max_tokens": 8, "seed": 1})
    _ask(port, "POST", "/v1/completions", body)  # ce qui ne se fait qu'une fois
    with rooms.watching():
        _ask(port, "POST", "/v1/completions", body)


def _wait_ready(port: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if _ask(port, "GET", "/ready") == HTTPStatus.OK:
                return
        time.sleep(0.1)
    sys.exit("le service n'a pas démarré")


def _ask(port: int, method: str, path: str, body: str = "") -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as link:
        link.request(method, path, body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        answer.read()
        return answer.status


JOURNEYS: dict[str, Callable[[Rooms, Path], None]] = {
    "token": of_token,
    "infer": of_infer,
    "train": of_train,
    "http": of_http,
}


def main() -> None:
    """Fait un trajet, et dit par combien de fichiers il passe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("journey", choices=JOURNEYS)
    parser.add_argument("--list", action="store_true", help="nomme les fichiers")
    options = parser.parse_args()
    out, rooms = sys.stdout, Rooms()  # un service, lui, garde stdout jusqu'au bout
    rooms.install()
    with tempfile.TemporaryDirectory() as folder:
        JOURNEYS[options.journey](rooms, Path(folder))
    print(f"{options.journey} : {len(rooms.files)} fichiers", file=out)
    if options.list:
        print(*rooms.files, sep="\n", file=out)


if __name__ == "__main__":
    main()
