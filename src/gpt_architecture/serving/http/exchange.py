"""Une requête HTTP, de son entrée à sa fin : son nom, qui la fait, ce qu'elle coûte.

Ce qui la traite, où que ce soit, y note ce qu'il en sait (`current`) ; le journal et les compteurs
sont écrits à sa fin (voir `observer`). Rien du texte traité n'y entre.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from gpt_architecture.serving.http.access import Access


def new_id() -> str:
    """Un identifiant de requête."""
    return uuid.uuid4().hex


@dataclass(kw_only=True)
class Exchange:
    """Ce qu'on sait d'une requête.

    Attributes:
        request_id: son identifiant.
        client: qui la fait, pour le partage des places : le nom de sa clé, sinon son adresse.
        access: la clé qui la fait ; None : aucune.
        key_failure: pourquoi sa clé est refusée (`absente`, `inconnue`).
        code: motif de l'erreur rendue.
        status: code HTTP envoyé.
        ending: comment elle finit si ce n'est par une réponse entière (`abandon`, `coupure`).
        prompt_tokens: tokens de début acceptés au calcul ; None : le moteur n'a rien reçu.
        written: compte les tokens écrits jusqu'ici.
        reserved: tokens retenus sur ce que la clé permet.
    """

    request_id: str = field(default_factory=new_id)
    client: str = ""
    access: Access | None = None
    key_failure: str | None = None
    code: str | None = None
    status: int | None = None
    ending: str | None = None
    prompt_tokens: int | None = None
    written: Callable[[], int] = lambda: 0
    reserved: int = 0

    @property
    def completion_tokens(self) -> int | None:
        """Tokens écrits ; None : le moteur n'a rien reçu."""
        return None if self.prompt_tokens is None else self.written()


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current() -> Exchange:
    """La requête en cours de traitement ici ; hors de toute requête, une qui ne sert à rien."""
    return _current.get() or Exchange(request_id="")


@contextmanager
def entered(exchange: Exchange) -> Iterator[Exchange]:
    """Dans ce bloc, et dans ce qu'il lance, la requête en cours est celle-ci."""
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)


class RequestFilter(logging.Filter):
    """Joint à chaque ligne du journal l'identifiant de la requête en cours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Vrai, toujours."""
        if not hasattr(record, "request_id"):
            record.request_id = current().request_id
        return True
