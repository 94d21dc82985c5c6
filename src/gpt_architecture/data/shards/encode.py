"""Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans l'ordre.

Le résultat ne dépend pas du nombre de processus : chaque tâche est une fonction pure de son
contenu, et les résultats reviennent dans l'ordre des tâches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.shards.layout import TOKEN_DTYPE
from gpt_architecture.data.shards.plan import SplitPlan, Task, TextBlock
from gpt_architecture.data.texts.documents import Rejected, Skip, Split, cut_pieces, documents_in
from gpt_architecture.data.texts.ingest import RecordBlock
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import DataError, GPTArchitectureError, TokenizerError

TASK_TIMEOUT_S = 900.0
_IN_FLIGHT = 3  # tâches en attente par processus : assez pour l'occuper, peu pour la mémoire

Key = TypeVar("Key")
Tokens = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Le résultat d'une tâche.

    Attributes:
        tokens: tokens de chaque part, documents précédés de `<|endoftext|>`.
        text_bytes: voir `Tally`, comme `separated`.
        consumed: octets de la source lus.
        skips: documents écartés.
        failure: erreur qui arrête tout : (ce qu'on a trouvé, attendait, faut faire).
    """

    tokens: dict[Split, Tokens] = field(default_factory=dict)
    text_bytes: int = 0
    consumed: int = 0
    skips: list[Skip] = field(default_factory=list)
    separated: int = 0
    failure: tuple[str, str, str] | None = None


def separator_of(tokenizer: Tokenizer) -> int:
    """L'identifiant de `<|endoftext|>`.

    Raises:
        TokenizerError: le vocabulaire ne l'a pas.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas de token {END_OF_TEXT}",
            expected="de quoi séparer les documents",
            remedy="prenez gpt2 ou un vocabulaire simple-v2",
        )
    return tokenizer.eos_id


class Encoder:
    """Code des tâches avec un tokenizer ; sans état d'une tâche à l'autre."""

    def __init__(self, tokenizer: Tokenizer, plan: SplitPlan, field: str | None) -> None:
        self._tokenizer, self._plan, self._field = tokenizer, plan, field
        self._separator = np.array([separator_of(tokenizer)], dtype=TOKEN_DTYPE)

    def __call__(self, task: Task) -> Encoded:
        """Code une tâche ; une erreur prévue est rendue, non levée, pour passer entre processus."""
        try:
            return self._pieces(task) if isinstance(task, TextBlock) else self._records(task)
        except GPTArchitectureError as error:
            return Encoded(failure=(f"{task.label} : {error.found}", error.expected, error.remedy))

    def _pieces(self, block: TextBlock) -> Encoded:
        parts: dict[Split, list[Tokens]] = {"train": [], "val": []}
        for piece in block.pieces:
            if piece.starts_document:
                parts[piece.split].append(self._separator)
            parts[piece.split] += self._encode(piece.text)
        return Encoded(
            tokens=_joined(parts),
            text_bytes=sum(len(piece.text.encode("utf-8")) for piece in block.pieces),
            consumed=block.consumed,
            separated=block.separated,
        )

    def _records(self, block: RecordBlock) -> Encoded:
        parts: dict[Split, list[Tokens]] = {"train": [], "val": []}
        skips = list(block.skips)
        text_bytes = separated = 0
        for number, record in block.records:
            try:
                found = documents_in(block.text_of(record, self._field))
            except Rejected as rejected:
                skips.append(Skip.of(rejected, block.place(number)))
                continue
            separated += len(found) - 1
            for rank, text in found:
                split = self._plan.split_of((block.label, number, rank), [text])
                parts[split] += [self._separator, *self._encode(text)]
                text_bytes += len(text.encode("utf-8"))
        return Encoded(
            tokens=_joined(parts),
            text_bytes=text_bytes,
            consumed=block.consumed,
            skips=skips,
            separated=separated,
        )

    def _encode(self, text: str) -> list[Tokens]:
        # Par morceaux : la liste Python d'un long document pèserait cinquante fois son texte
        return [
            np.array(self._tokenizer.encode(piece), dtype=TOKEN_DTYPE)
            for piece in cut_pieces([text])
        ]


def _joined(parts: Mapping[Split, list[Tokens]]) -> dict[Split, Tokens]:
    return {split: np.concatenate(part) for split, part in parts.items() if part}


def encode_in_order(
    tasks: Iterable[tuple[Key, Task]],
    tokenizer: Tokenizer,
    plan: SplitPlan,
    *,
    field: str | None,
    workers: int,
) -> Iterator[tuple[Key, Encoded]]:
    """Code les tâches et rend leurs résultats dans l'ordre, avec la clé de chacune.

    Peu de tâches sont lues d'avance : la mémoire est bornée quel que soit le corpus.

    Args:
        tasks: (clé, tâche).
        tokenizer: voir `data.tokenizer.Tokenizer`.
        plan: la part de chaque document.
        field: champ du texte ; None : celui que la lecture a trouvé.
        workers: processus ; 1 : celui-ci.

    Raises:
        GPTArchitectureError: une tâche a échoué, ou un processus est mort ou ne répond plus.
    """
    encoder = Encoder(tokenizer, plan, field)
    if workers == 1:
        for key, task in tasks:
            yield key, _checked(encoder(task))
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.to_dict(), plan, field),
    )
    pending: deque[tuple[Key, Future[Encoded]]] = deque()
    try:
        for key, task in tasks:
            with _interrupts_held():
                pending.append((key, pool.submit(_encode_task, task)))
            if len(pending) >= _IN_FLIGHT * workers:
                yield _result(pending)
        while pending:
            yield _result(pending)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(pending: deque[tuple[Key, Future[Encoded]]]) -> tuple[Key, Encoded]:
    key, future = pending.popleft()
    try:
        return key, _checked(future.result(timeout=TASK_TIMEOUT_S))
    except (BrokenProcessPool, FutureTimeoutError) as error:
        state = "ne répond plus" if isinstance(error, FutureTimeoutError) else "est mort"
        raise DataError(
            f"un processus de préparation {state}",
            expected="des processus vivants jusqu'au bout",
            remedy="relancez la même commande, elle reprend ; réduisez `workers` si la mémoire "
            "manque",
        ) from None


def _checked(encoded: Encoded) -> Encoded:
    if encoded.failure is not None:
        found, expected, remedy = encoded.failure
        raise DataError(found, expected=expected, remedy=remedy)
    return encoded


_encoder: Encoder | None = None


def _start_worker(description: dict[str, Any], plan: SplitPlan, field: str | None) -> None:
    """Prépare un processus ; il meurt avec son parent, même tué sans préavis."""
    global _encoder  # noqa: PLW0603 — l'état d'un processus, posé une fois par son initialiseur
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C est l'affaire du parent
    _encoder = Encoder(tokenizer_from_dict(description), plan, field)
    parent = multiprocessing.parent_process()
    if parent is not None:
        ended = partial(wait, [parent.sentinel])
        threading.Thread(target=lambda: (ended(), os._exit(1)), daemon=True).start()


def _encode_task(task: Task) -> Encoded:
    assert _encoder is not None  # noqa: S101 — posé par _start_worker
    return _encoder(task)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Retient Ctrl-C le temps de lancer un processus, qui hérite de ce masque."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
