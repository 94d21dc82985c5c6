"""Les documents composés, lus dans un processus à part, borné en temps et en mémoire.

Les bibliothèques qui les lisent sont écrites en C ou marchent par récursion : un fichier hostile
pourrait les faire planter, tourner sans fin ou remplir la mémoire. Ici, c'est ce processus qui en
meurt ; le document est écarté avec sa raison, et le suivant en trouve un neuf. Il dure autant que
celui qui l'emploie et n'est lancé qu'au premier document.

Le protocole : une requête est le nom du format (8 octets), une longueur (8 octets) et le document ;
la réponse, une lettre (T : texte, R : refus), une longueur et des octets UTF-8.
"""

from __future__ import annotations

import atexit
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from gpt_architecture.data.texts.documents import UNREADABLE, Rejected, clean_bytes
from gpt_architecture.data.texts.readers.base import FORMATS, RecordBlock, Source
from gpt_architecture.data.texts.readers.layers import BOMB, read_whole
from gpt_architecture.errors import reason
from gpt_architecture.french import french_size

TIMEOUT_S = 120.0
MEMORY_BYTES = 2 << 30
"""Mémoire que le processus peut réserver."""

DOCUMENT_BYTES = 64 << 20
"""Un document composé, ou son texte, plus gros est écarté."""

_GRACE_S = 10.0  # passé le délai, un lecteur que personne n'a tué s'arrête seul

TOO_SLOW = "document trop long à lire"

_REQUEST = struct.Struct(">8sQ")
_REPLY = struct.Struct(">cQ")


def read_document(source: Source, _field: str | None, _limit: int) -> Iterator[RecordBlock]:
    """Un document composé : un seul enregistrement, ses octets."""
    data = read_whole(source, DOCUMENT_BYTES, "un document")
    yield RecordBlock(
        label=source.label, records=[(0, data)], kind=source.kind, consumed=source.size
    )


def isolated(kind: str) -> Callable[[bytes, str | None], str]:
    """L'extraction d'un format, dans le processus à part."""
    return lambda record, _field: clean_bytes(_extractor.ask(kind, record))


class _Extractor:
    """Le processus à part, relancé quand il meurt ; un appel à la fois."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), None
        self._owner = 0

    _process: subprocess.Popen[bytes] | None

    def ask(self, kind: str, data: bytes) -> bytes:
        """Le texte d'un document, en UTF-8.

        Raises:
            Rejected: il ne se lit pas, ou pas dans les bornes.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
            late = threading.Event()

            def stop() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(TIMEOUT_S, stop)
            timer.start()
            try:
                process.stdin.write(_REQUEST.pack(kind.encode(), len(data)))
                process.stdin.write(data)
                process.stdin.flush()
                state, size = _REPLY.unpack(_exactly(process.stdout, _REPLY.size))
                if size > DOCUMENT_BYTES:
                    raise EOFError
                answer = _exactly(process.stdout, size)
            except (OSError, EOFError, struct.error):
                self._stop()
                if late.is_set():
                    raise Rejected(TOO_SLOW, f"plus de {TIMEOUT_S:.0f} s") from None
                raise Rejected(UNREADABLE, "son lecteur s'est arrêté net") from None
            except BaseException:  # Ctrl-C : la réponse en route ne doit pas servir au suivant
                self._stop()
                raise
            finally:
                timer.cancel()
        if state == b"T":
            return answer
        cause, _, detail = answer.decode("utf-8").partition("\n")
        raise Rejected(cause, detail)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid():
            if self._process.poll() is None:
                return self._process
            self._stop()
        root = str(Path(__file__).resolve().parents[4])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._owner = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 — cet interpréteur, ce module
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C est l'affaire de celui qui l'emploie
        )
        return self._process

    def close(self) -> None:
        """Arrête le processus."""
        if self._owner == os.getpid():
            self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


_extractor = _Extractor()
atexit.register(_extractor.close)


def _exactly(file: IO[bytes], size: int) -> bytes:
    """Tant d'octets, ou `EOFError`."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Le processus à part : répond à chaque requête, jusqu'à ce que l'autre bout se ferme."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # ce qu'une bibliothèque imprimerait ne se mêle pas aux réponses
    with suppress(EOFError, BrokenPipeError):
        while True:
            kind, size = _REQUEST.unpack(_exactly(requests, _REQUEST.size))
            document = _exactly(requests, size)
            _stop_after(TIMEOUT_S + _GRACE_S)  # son parent est peut-être mort
            state, answer = _answer(kind.rstrip(b"\0").decode(), document)
            _stop_after(0.0)
            replies.write(_REPLY.pack(state, len(answer)))
            replies.write(answer)
            replies.flush()


def _stop_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # absent de Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(kind: str, data: bytes) -> tuple[bytes, bytes]:
    parse = FORMATS[kind].parse
    assert parse is not None  # noqa: S101 — un format composé en a un
    try:
        text = parse(data).encode("utf-8", "replace")
        if len(text) <= DOCUMENT_BYTES:
            return b"T", text
        rejected = Rejected(BOMB, f"un texte de {french_size(len(text))}")
    except Rejected as error:
        rejected = error
    except MemoryError:
        rejected = Rejected(BOMB, f"plus de {french_size(MEMORY_BYTES)} de mémoire pour le lire")
    except Exception as error:  # une bibliothèque devant un fichier abîmé lève ce qu'elle veut
        rejected = Rejected(UNREADABLE, f"{type(error).__name__} : {reason(error)}"[:200])
    return b"R", f"{rejected.reason}\n{rejected.detail}".encode("utf-8", "replace")


def _limit_memory() -> None:
    try:
        import resource  # noqa: PLC0415 — absent de Windows
    except ImportError:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
