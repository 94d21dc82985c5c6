"""Essayer une contrainte ailleurs avant de la lire ici : une requête ne brûle pas un cœur sans fin.

Lire une grammaire est un calcul natif, qui ne s'interrompt pas et dont rien ne dit d'avance le
coût : `{"multipleOf": 9999991}` le fait durer des minutes, `.*` cinq mille fois prend 700 Mo. Un
processus à part, moins prioritaire, le fait donc d'abord, sous des bornes de temps et de mémoire ;
il est tué s'il les dépasse. Ce qui a tenu coûte autant, mais pas plus, à lire une seconde fois
dans le service, dont les autres threads avancent pendant ce temps.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpt_architecture.data.tokenizer import ByteTokenizer
from gpt_architecture.decoding.schemas import refusal
from gpt_architecture.errors import GenerationError
from gpt_architecture.serving.engine.grammar_worker import TOO_LARGE, TOO_LONG
from gpt_architecture.serving.engine.messages import EngineClosed, Overloaded

MAX_SECONDS = 0.5
"""Secondes de calcul d'une contrainte."""

_MOST_COPIES_SECONDS = 2.0  # la même, lue pour chaque séquence d'une requête

MAX_MEMORY = 128 << 20
"""Octets que la lecture d'une contrainte peut prendre."""

MAX_WAITING = 8
"""Contraintes qui attendent d'être essayées, au plus."""

_PATIENCE = 10.0  # secondes d'attente, quand la machine est trop chargée pour calculer
_START_SECONDS = 60.0
_REMEMBERED = 256
_CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from gpt_architecture.serving.engine.grammar_worker import main; main()"
)


@dataclass(frozen=True)
class _Verdict:
    """Ce qu'une grammaire a coûté (s), et pourquoi elle est refusée ; vide : elle ne l'est pas."""

    seconds: float
    reason: str = ""


class GrammarTrial:
    """Essaie les contraintes d'un service, une à la fois ; `start`, ou la première, le lance.

    Args:
        tokenizer: celui du modèle ; un tokenizer par mots n'a rien à essayer.
        seconds: temps de calcul d'une contrainte.
        memory: octets qu'elle peut prendre ; sans effet sous Windows, où le temps seul la borne.
    """

    def __init__(
        self, tokenizer: Any, *, seconds: float = MAX_SECONDS, memory: int = MAX_MEMORY
    ) -> None:
        self._tokenizer = tokenizer
        self._seconds, self._memory = seconds, memory
        self._verdicts = OrderedDict[bytes, _Verdict]()
        self._busy, self._state = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting, self._closed = 0, False

    def check(self, name: str, grammar: str, *, copies: int = 1) -> None:
        """Admet une grammaire, ou la refuse.

        Args:
            name: réglage qui l'a demandée, pour les messages.
            grammar: grammaire de llguidance.
            copies: séquences de la requête, qui la liront chacune.

        Raises:
            ConfigurationError: mal écrite, sans aucun texte, trop longue ou trop grande à lire.
            Overloaded: trop de contraintes attendent.
            EngineClosed: le service s'arrête.
        """
        key = hashlib.sha256(grammar.encode()).digest()
        verdict = self._known(key) or self._queue(key, grammar)
        if verdict.reason:
            raise refusal(name, verdict.reason)
        if verdict.seconds * copies > _MOST_COPIES_SECONDS:
            most = f"plus de {_MOST_COPIES_SECONDS:g} s de calcul"
            raise refusal(name, f"la lire pour {copies} textes demande {most}")

    def start(self) -> None:
        """Lance le processus sans l'attendre : la contrainte suivante le trouvera prêt."""

        def work() -> None:
            with suppress(EngineClosed, GenerationError), self._busy:
                self._start()

        threading.Thread(target=work, name="contraintes", daemon=True).start()

    def close(self) -> None:
        """Arrête le processus ; ce qui attend échoue par `EngineClosed`."""
        with self._state:
            self._closed = True
            process = self._process
        if process is not None:
            _end(process)

    def _known(self, key: bytes) -> _Verdict | None:
        with self._state:
            verdict = self._verdicts.get(key)
            if verdict is not None:
                self._verdicts.move_to_end(key)
            return verdict

    def _queue(self, key: bytes, grammar: str) -> _Verdict:
        with self._state:
            if self._waiting >= MAX_WAITING:
                raise Overloaded(self._waiting, self._waiting * self._seconds)
            self._waiting += 1
        try:
            with self._busy:
                return self._known(key) or self._try(key, grammar)
        finally:
            with self._state:
                self._waiting -= 1

    def _try(self, key: bytes, grammar: str) -> _Verdict:
        """Fait essayer une grammaire, et retient ce qui ne dépend que d'elle."""
        process = self._start()
        answer, late = _ask(process, _line({"grammar": grammar}), _PATIENCE)
        if answer is not None:
            verdict = _Verdict(answer["seconds"], answer["reason"])
            if answer["last"]:
                _end(process)
                self.start()
        else:
            self._check_open()
            self.start()
            seconds = f"{self._seconds:g}".replace(".", ",")
            reasons = {
                TOO_LONG: f"la lire demande plus de {seconds} s de calcul",
                TOO_LARGE: f"la lire demande plus de {self._memory >> 20} Mio",
            }
            found = reasons.get(process.returncode)
            if late or found is None:
                why = f"n'a pas fini en {_PATIENCE:g} s" if late else "échoue (trop grande ?)"
                return _Verdict(self._seconds, f"sa lecture {why}")
            verdict = _Verdict(self._seconds, found)
        with self._state:
            self._verdicts[key] = verdict
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        """Le processus, prêt ; il est lancé s'il ne l'est pas."""
        with self._state:
            self._check_open()
            if self._process is not None and self._process.poll() is None:
                return self._process
            if self._process is not None:
                _end(self._process)
            self._process = process = _launch()
        if _ask(process, self._setup, _START_SECONDS)[0] is None:
            self._check_open()
            raise GenerationError(
                "le processus qui essaie les contraintes ne démarre pas",
                expected=f"{sys.executable}, avec llguidance",
                remedy="réinstallez le paquet, ou retirez la contrainte",
            )
        return process

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("le service s'arrête")

    @cached_property
    def _setup(self) -> bytes:
        """Ce que le processus doit savoir ; écrit une fois, car le faire retient le GIL."""
        tokenizer = self._tokenizer
        tokens = tokenizer.token_bytes() if isinstance(tokenizer, ByteTokenizer) else []
        return _line(
            {
                "tokens": [token.decode("latin-1") for token in tokens],
                "eos_id": tokenizer.eos_id,
                "seconds": self._seconds,
                "memory": self._memory,
            }
        )


def _launch() -> subprocess.Popen[bytes]:
    flags = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # Windows ; ailleurs `os.nice`
    return subprocess.Popen(  # noqa: S603 — notre propre code
        [sys.executable, "-c", _CODE, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # une allocation refusée s'y plaint en anglais
        creationflags=flags,
    )


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _ask(
    process: subprocess.Popen[bytes], message: bytes, seconds: float
) -> tuple[dict[str, Any] | None, bool]:
    """La réponse du processus, None s'il est mort ; et s'il a été tué pour son retard."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    line = b""
    try:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(message)
        process.stdin.flush()
        line = process.stdout.readline()
    except (OSError, ValueError):  # mort, ou fermé par `close`
        pass
    finally:
        timer.cancel()
    if line.endswith(b"\n"):
        found: dict[str, Any] = json.loads(line)
        return found, False
    _end(process)
    return None, late.is_set()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tue un processus et rend ce qu'il tenait."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):
            if pipe is not None:
                pipe.close()
