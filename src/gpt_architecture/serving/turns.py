"""Un calcul à la fois, hors de la boucle HTTP et du thread du moteur.

Un thread ne s'interrompt pas : quand un client s'en va ou que son temps est écoulé, le calcul
commencé finit, et garde jusque-là son tour, sa place dans la file et le modèle qu'il lit. Il ne
s'en accumule donc jamais ; les appels suivants de la même demande (un texte, pour des vecteurs) ne
se font pas. Qui attend derrière lui le fait sur le temps de sa propre demande, dont la fin est
dite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.messages import Overloaded
from gpt_architecture.serving.http.access import current
from gpt_architecture.serving.openai.streaming import timed_out, unless_gone

R = TypeVar("R")

_WAITING = 8  # demandes qui attendent leur tour ou calculent, au plus


class Turns:
    """Fait attendre chaque demande son tour ; au-delà de quelques-unes, refuse."""

    def __init__(self) -> None:
        self._lock, self._waiting = asyncio.Lock(), 0

    async def each(self, calls: Sequence[Callable[[], R]]) -> list[R]:
        """Ce que rend chaque appel, l'un après l'autre ; entre deux, une autre demande passe.

        Raises:
            Overloaded: trop de demandes attendent.
        """
        if self._waiting >= _WAITING:
            raise Overloaded(self._waiting, 1.0)
        self._waiting += 1
        found, running = list[R](), None
        try:
            for call in calls:
                await self._lock.acquire()
                running = asyncio.ensure_future(asyncio.to_thread(call))
                running.add_done_callback(self._released)
                running.add_done_callback(current().held())
                found.append(await asyncio.shield(running))
        finally:
            if running is None or running.done():
                self._waiting -= 1
            else:  # abandonné : sa place est prise jusqu'à ce qu'il finisse
                running.add_done_callback(self._left)
        return found

    async def answer(
        self,
        request: Request,
        context: ServingContext,
        calls: Sequence[Callable[[], R]],
        *,
        read: int | None = None,
    ) -> list[R]:
        """Ce que rend chaque appel, pour une requête HTTP ; attendre son tour compte dans le temps.

        Args:
            request: elle ; si son client s'en va, les appels qui ne sont pas commencés n'ont pas
                lieu.
            context: qui répond, et le temps qu'il a.
            calls: ce qu'elle demande.
            read: tokens lus, que sa clé paie ; None : rien ne s'en compte.

        Raises:
            ApiError: 499, le client est parti ; 504, le temps est écoulé.
            Overloaded: trop de demandes attendent ; la clé n'en paie rien.
            QuotaExceeded: la clé a lu tous les siens.
        """
        exchange = current()
        if read is not None:
            exchange.reserve(read)
            exchange.model, exchange.prompt_tokens = context.name, read
        try:
            async with asyncio.timeout(context.limits.request_seconds):
                return await unless_gone(request, self.each(calls))
        except TimeoutError:
            raise timed_out() from None
        except Overloaded:
            exchange.prompt_tokens = None  # rien n'a été lu
            raise

    def _released(self, done: asyncio.Future[Any]) -> None:
        self._lock.release()
        if not done.cancelled():
            done.exception()  # celle d'un calcul abandonné, que personne ne lira

    def _left(self, _done: asyncio.Future[Any]) -> None:
        self._waiting -= 1
