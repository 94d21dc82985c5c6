"""Une fonction appliquée à une suite de tâches, dans ce processus ou dans plusieurs, dans l'ordre.

Le résultat ne dépend pas du nombre de processus si la fonction est pure : les résultats reviennent
dans l'ordre des tâches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

from gpt_architecture.errors import DataError, GPTArchitectureError

TASK_TIMEOUT_S = 900.0
_IN_FLIGHT = 3  # tâches en attente par processus : assez pour l'occuper, peu pour la mémoire

Key = TypeVar("Key")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Failure:
    """Une erreur prévue, qui passe d'un processus à l'autre : trouvé, attendu, remède."""

    found: str
    expected: str
    remedy: str


def usable_cores() -> int:
    """Cœurs que ce processus peut employer."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_in_order(
    tasks: Iterable[tuple[Key, Task]],
    make: Callable[[], Callable[[Task], Result]],
    *,
    workers: int,
) -> Iterator[tuple[Key, Result]]:
    """Rend, avec la clé de chaque tâche, ce que la fonction en fait.

    Peu de tâches sont lues d'avance : la mémoire est bornée quelle que soit leur suite.

    Args:
        tasks: (clé, tâche).
        make: bâtit la fonction, une fois par processus ; se transmet entre eux.
        workers: processus ; 1 : celui-ci.

    Raises:
        GPTArchitectureError: une tâche a échoué, ou un processus est mort ou ne répond plus.
    """
    if workers == 1:
        function = make()
        for key, task in tasks:
            yield key, function(task)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(make,),
    )
    pending: deque[tuple[Key, Future[Any]]] = deque()
    try:
        for key, task in tasks:
            with _interrupts_held():
                pending.append((key, pool.submit(_call, task)))
            if len(pending) >= _IN_FLIGHT * workers:
                yield _result(pending)
        while pending:
            yield _result(pending)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(pending: deque[tuple[Key, Future[Any]]]) -> tuple[Key, Any]:
    key, future = pending.popleft()
    try:
        result = future.result(timeout=TASK_TIMEOUT_S)
    except (BrokenProcessPool, FutureTimeoutError) as error:
        state = "ne répond plus" if isinstance(error, FutureTimeoutError) else "est mort"
        raise DataError(
            f"un processus de préparation {state}",
            expected="des processus vivants jusqu'au bout",
            remedy="relancez la même commande, elle reprend ; réduisez `workers` si la mémoire "
            "manque",
        ) from None
    if isinstance(result, _Failure):
        raise DataError(result.found, expected=result.expected, remedy=result.remedy)
    return key, result


_function: Callable[[Any], Any] | None = None


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    """Prépare un processus ; il meurt avec son parent, même tué sans préavis."""
    global _function  # noqa: PLW0603 — l'état d'un processus, posé une fois par son initialiseur
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C est l'affaire du parent
    _function = make()
    parent = multiprocessing.parent_process()
    if parent is not None:
        ended = partial(wait, [parent.sentinel])
        threading.Thread(target=lambda: (ended(), os._exit(1)), daemon=True).start()


def _call(task: Any) -> Any:
    assert _function is not None  # noqa: S101 — posée par _start
    try:
        return _function(task)
    except GPTArchitectureError as error:
        return _Failure(error.found, error.expected, error.remedy)


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
