"""Une conversation : ce qui s'est dit, et la réponse suivante, au fil de l'eau."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import loaded
from gpt_architecture.api.options import checked_options
from gpt_architecture.api.writer import config_or
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run

Messages = list[dict[str, str]]
"""Des messages, chacun avec un `role` (system, user, assistant) et un `content`."""

Responder = Callable[[Messages], Iterator[str]]
"""Rend la réponse à une conversation, morceau par morceau."""


class Chat:
    """Une conversation avec un modèle, ici ou derrière un service ; `chat` la commence.

    Args:
        respond: répond à une conversation.
        system: consigne donnée au modèle avant la conversation.

    Attributes:
        messages: ce qui s'est dit, consigne comprise.
    """

    def __init__(self, respond: Responder, *, system: str | None = None) -> None:
        self._respond = respond
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages: Messages = list(self._opening)

    @checked_options
    def ask(self, question: str) -> str:
        """Pose une question, et rend la réponse entière.

        Raises:
            GPTArchitectureError: la réponse échoue ; la question n'est pas retenue.
        """
        return "".join(self.stream(question))

    @checked_options
    def stream(self, question: str) -> Generator[str]:
        """Pose une question, et rend la réponse morceau par morceau.

        Une réponse qu'on cesse de lire est retenue jusque-là ; une question dont la réponse échoue
        ne l'est pas.
        """
        return self._answer(question)

    def _answer(self, question: str) -> Generator[str]:
        asked = [*self.messages, {"role": "user", "content": question}]
        written = list[str]()
        try:
            for piece in self._respond(asked):
                written.append(piece)
                yield piece
        except Exception:
            written.clear()
            asked = self.messages
            raise
        finally:
            if asked is not self.messages:
                self.messages = [*asked, {"role": "assistant", "content": "".join(written)}]

    def forget(self) -> None:
        """Recommence la conversation ; la consigne reste."""
        self.messages = list(self._opening)

    def __len__(self) -> int:
        return sum(each["role"] == "assistant" for each in self.messages)

    def __repr__(self) -> str:
        return f"Chat({counted(len(self), 'réponse')})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tables_cell

        names = {"system": "consigne", "user": "question", "assistant": "réponse"}
        rows = [[names[each["role"]], each["content"]] for each in self.messages]
        return tables_cell([("Conversation", ["qui", "message"], rows)])


@checked_options
def chat(
    model: GPT | Run | Path | str | None = None,
    config: GenerationConfig | None = None,
    *,
    system: str | None = None,
    device: str = "auto",
    quant: str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    **settings: Any,
) -> Chat:
    """Commence une conversation avec un modèle affiné sur des dialogues, comme la commande.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        config: comment répondre ; None : la configuration par défaut.
        system: consigne donnée au modèle avant la conversation.
        device: voir `load`.
        quant: voir `load`.
        drafts: voir `load`.
        settings: réglages de `GenerationConfig`, à la place de `config`.

    Raises:
        ConfigurationError: modèle sans gabarit de conversation, ou réglage qu'une conversation ne
            suit pas.
        ModelFileError: voir `load`.

    Examples:
        >>> from gpt_architecture import chat, train
        >>> run = train(chat="dialogues.jsonl", start="modele", max_steps=2, output_dir="bavard")
        >>> talk = chat(run, system="Réponds en un mot.", max_tokens=4)
        >>> answer = talk.ask("La nuit ?")
        >>> [each["role"] for each in talk.messages]
        ['system', 'user', 'assistant']
        >>> "".join(talk.stream("Et le jour ?")) == talk.messages[-1]["content"]
        True
    """
    config = config_or(config, settings)
    if config.n != 1:
        raise ConfigurationError.wrong("`n`", config.n, expected="une réponse par question")
    gpt = loaded(model, device=device, quant=quant, drafts=drafts)
    return Chat(responder(gpt, config), system=system)


def responder(gpt: GPT, config: GenerationConfig) -> Responder:
    """De quoi répondre avec un modèle, par son gabarit.

    Raises:
        ConfigurationError: le modèle n'a pas de gabarit, ou ne peut pas suivre `config`.
    """
    gpt.chat_prompt([{"role": "user", "content": "?"}])  # sans gabarit, le dire avant la question
    gpt.generator.check(config)
    return lambda messages: gpt.stream(gpt.chat_prompt(messages), config)
