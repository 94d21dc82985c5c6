"""`gpt-architecture chat` : converser avec un modèle, ici ou derrière un service."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 chat.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gpt_architecture.cli.command import CommonOptions, find_model, read_stdin
from gpt_architecture.cli.options import PROMPTING, ModelChoice, ModelSource, ServerChoice, Text
from gpt_architecture.cli.remote import Service, check_remote, remote_settings
from gpt_architecture.cli.sampling import (
    AnswerOptions,
    AnswerShapeOptions,
    FilterOptions,
    generation_config,
    warn_cut,
)
from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.reports.console import say_aside

if TYPE_CHECKING:
    from gpt_architecture.api.chats import Chat, Messages, Responder
    from gpt_architecture.decoding.config import GenerationConfig

FORGET = "/oublier"
_HELP = f"Une question par ligne ; {FORGET} recommence, Ctrl-C coupe une réponse, Ctrl-D quitte."


def chat(
    model: ModelSource = None,
    *,
    system: Annotated[Text | None, Parameter(group=PROMPTING)] = None,
    server: ServerChoice = ServerChoice(),  # noqa: B008 — immuable
    sampling: AnswerOptions = AnswerOptions(),  # noqa: B008
    filters: FilterOptions = FilterOptions(),  # noqa: B008
    shape: AnswerShapeOptions = AnswerShapeOptions(),  # noqa: B008
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Converse avec un modèle affiné sur des dialogues ; une question par ligne.

    Args:
        system: Consigne donnée au modèle avant la conversation.
    """
    del common  # lues par le lanceur
    config = generation_config(sampling, filters, shape)
    if server.server is None:
        respond = _local(find_model(model), choice, config)
    else:
        check_remote({"--model": model, **choice.asked})
        respond = _remote(Service(server.server, model=server.server_model), config)
    from gpt_architecture.api.chats import Chat

    _converse(Chat(respond, system=system))


def _converse(talk: Chat) -> None:
    """Lit des questions sur l'entrée standard et écrit les réponses.

    Au terminal, une question refusée se corrige ; ailleurs, elle arrête la commande.
    """
    live = sys.stdin.isatty()
    if live:
        say_aside(_HELP)
    for question in _questions(live):
        if question == FORGET:
            talk.forget()
            continue
        try:
            _show(talk.stream(question))
        except GPTArchitectureError as error:
            if not live:
                raise
            say_aside(f"erreur : {error}")


def _questions(live: bool) -> Iterator[str]:
    while True:
        if live:
            print("> ", end="", file=sys.stderr, flush=True)
        line = read_stdin(line=True)
        if not line:
            return
        if line.strip():
            yield line.strip()


def _show(pieces: Generator[str]) -> None:
    """Écrit une réponse ; Ctrl-C la coupe sans quitter."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    finally:
        pieces.close()  # ce qui est écrit est dit
    print(flush=True)


def _local(model: Path, choice: ModelChoice, config: GenerationConfig) -> Responder:
    """Un modèle chargé ici, par son gabarit."""
    from gpt_architecture.api import load
    from gpt_architecture.api.chats import responder

    gpt = load(model, device=choice.device, quant=choice.quant, drafts=choice.drafts)
    return responder(gpt, config)


def _remote(service: Service, config: GenerationConfig) -> Responder:
    """Le modèle d'un service."""
    settings = remote_settings(config)

    def respond(messages: Messages) -> Iterator[str]:
        yield from service.chat(messages, settings)
        warn_cut(config, [service.finish])

    return respond


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["chat", *sys.argv[1:]])
