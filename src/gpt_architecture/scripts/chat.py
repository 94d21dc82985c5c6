"""`gpt-architecture chat` : converser avec un modèle, ici ou derrière un service."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 chat.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gpt_architecture.cli.command import CommonOptions, find_model, read_stdin
from gpt_architecture.cli.options import (
    COMPUTING,
    PROMPTING,
    FilterOptions,
    ModelChoice,
    ModelSource,
    SamplingOptions,
    ShapeOptions,
    Text,
    generation_config,
    warn_cut,
)
from gpt_architecture.cli.remote import Service, check_remote, remote_settings
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError
from gpt_architecture.reports.console import say_aside

if TYPE_CHECKING:
    from gpt_architecture.decoding.config import GenerationConfig

Messages = list[dict[str, str]]
Responder = Callable[[Messages], Iterator[str]]
"""Rend la réponse à une conversation, morceau par morceau."""

FORGET = "/oublier"
_HELP = f"Une question par ligne ; {FORGET} recommence, Ctrl-C coupe une réponse, Ctrl-D quitte."


def chat(
    model: ModelSource = None,
    *,
    system: Annotated[Text | None, Parameter(group=PROMPTING)] = None,
    server: Annotated[str | None, Parameter(group=COMPUTING, metavar="ADRESSE")] = None,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 — immuable
    filters: FilterOptions = FilterOptions(),  # noqa: B008
    shape: ShapeOptions = ShapeOptions(),  # noqa: B008
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Converse avec un modèle affiné sur des dialogues ; une question par ligne.

    Args:
        server: Adresse d'un service (http://127.0.0.1:8000) ; sans elle, le modèle est chargé ici.
        system: Consigne donnée au modèle avant la conversation.
    """
    del common  # lues par le lanceur
    if (n := sampling.given()["n"]) != 1:
        raise ConfigurationError.wrong(
            "--n", n, expected="une réponse par question", remedy="retirez --n"
        )
    config = generation_config(sampling, filters, shape, secrets.randbelow(2**31))
    ends = list[str | None]()  # pourquoi la dernière réponse s'arrête
    if server is None:
        respond = _local(find_model(model), choice, config, ends)
    else:
        check_remote({"--model": model, **choice.asked})
        service, settings = Service(server), remote_settings(config)

        def respond(messages: Messages) -> Iterator[str]:
            ends.clear()
            yield from service.chat(messages, settings)
            ends[:] = [service.finish]

    _converse(respond, system, lambda: warn_cut(config, ends))


def _converse(
    respond: Responder, system: str | None = None, after: Callable[[], None] = lambda: None
) -> None:
    """Lit des questions sur l'entrée standard et écrit les réponses.

    Au terminal, une question refusée se corrige ; ailleurs, elle arrête la commande.

    Args:
        respond: répond à une conversation.
        system: consigne.
        after: appelé après chaque réponse.
    """
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages, live = list(opening), sys.stdin.isatty()
    if live:
        say_aside(_HELP)
    for question in _questions(live):
        if question == FORGET:
            messages = list(opening)
            continue
        asked = [*messages, {"role": "user", "content": question}]
        try:
            answer = _show(respond(asked))
        except GPTArchitectureError as error:
            if not live:
                raise
            say_aside(f"erreur : {error}")
            continue
        after()
        messages = [*asked, {"role": "assistant", "content": answer}]


def _questions(live: bool) -> Iterator[str]:
    while True:
        if live:
            print("> ", end="", file=sys.stderr, flush=True)
        line = read_stdin(line=True)
        if not line:
            return
        if line.strip():
            yield line.strip()


def _show(pieces: Iterator[str]) -> str:
    """Écrit une réponse ; Ctrl-C la coupe sans quitter."""
    written = []
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            written.append(piece)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print(flush=True)
    return "".join(written)


def _local(
    model: Path, choice: ModelChoice, config: GenerationConfig, ends: list[str | None]
) -> Responder:
    """Un modèle chargé ici, par son gabarit ; `ends` dit pourquoi la dernière réponse finit."""
    from gpt_architecture.api import load

    gpt = load(model, device=choice.device, quant=choice.quant, drafts=choice.drafts)
    gpt.chat_prompt([{"role": "user", "content": "?"}])  # sans gabarit, le dire avant la question
    gpt.generator.check(config)

    def respond(messages: Messages) -> Iterator[str]:
        for piece in gpt.pieces(gpt.chat_prompt(messages), config):
            ends[:] = [piece.finish]
            if piece.text:
                yield piece.text

    return respond


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["chat", *sys.argv[1:]])
