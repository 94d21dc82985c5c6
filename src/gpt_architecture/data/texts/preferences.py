"""Des paires de réponses à une même question, l'une préférée à l'autre, en JSON ou en JSONL.

Formes d'un enregistrement, reconnues à ses champs ; un fichier peut les mêler :

- `{"prompt", "chosen", "rejected"}`, trois textes (`question` ou `instruction` valent `prompt`, et
  un champ `system` en est la consigne) ;
- les mêmes en listes de messages, `messages` valant `prompt` (TRL) ; sans question à part, `chosen`
  et `rejected` sont deux conversations qui commencent de même ;
- `{"input": {"messages"}, "preferred_output", "non_preferred_output"}` (OpenAI).

Un champ nul ou une liste vide est un champ absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from gpt_architecture.data.texts.chat import check_messages
from gpt_architecture.data.texts.chat_records import is_dialogue, plain_message, with_system
from gpt_architecture.data.texts.conversations import Kind, Messages, read_dialogues

_QUESTIONS = ("prompt", "messages", "question", "instruction")

PAIR = Kind(
    unit="paire",
    setting="preferences",
    expected='{"prompt": "…", "chosen": "…", "rejected": "…"}, les mêmes en listes de messages, ou '
    "input, preferred_output et non_preferred_output (OpenAI)",
)


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Deux conversations qui ne diffèrent que par leur fin.

    Attributes:
        line: sa ligne dans le fichier, ou son rang dans la liste, à partir de 1.
        unit: « ligne », ou « paire » dans une liste.
        chosen: la conversation à la réponse préférée.
        rejected: l'autre.
        shared: nombre de leurs premiers messages, les mêmes : la question.
        form: forme où elle était écrite.
    """

    line: int
    unit: str = "ligne"
    chosen: Messages
    rejected: Messages
    shared: int
    form: str

    @property
    def place(self) -> str:
        """« ligne 3 » ou « paire 3 »."""
        return f"{self.unit} {self.line}"


def read_preferences(path: Path | str) -> tuple[list[PreferencePair], str]:
    """Lit un fichier de paires : JSONL, ou JSON d'un seul tenant.

    Returns:
        Les paires, et l'empreinte sha256 du fichier.

    Raises:
        DataError: fichier illisible ou vide, ou paire mal formée ; elle est désignée.
    """
    return read_dialogues(path, _pair, PAIR)


def _pair(value: Any, unit: str, number: int) -> PreferencePair:
    chosen, rejected, form = _recognised(value)
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        check_messages(messages)
        if messages[0]["role"] == "assistant":
            raise ValueError(f"{name} : une réponse sans question")
    both = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda each: each[0] == each[1], both))
    if shared == len(chosen) == len(rejected):
        raise ValueError("les deux réponses sont les mêmes")
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        rest = messages[shared:]
        if not rest or rest[0]["role"] != "assistant":
            raise ValueError(f"{name} ne répond pas à la même question que l'autre")
    return PreferencePair(
        line=number, unit=unit, chosen=chosen, rejected=rejected, shared=shared, form=form
    )


def _recognised(value: Any) -> tuple[list[Any], list[Any], str]:
    """Les deux conversations que tient une valeur JSON, et sa forme.

    Raises:
        ValueError: un champ manque, ou est d'un autre genre ; il est nommé.
    """
    if not isinstance(value, Mapping):
        raise ValueError("chosen manque")
    row = {name: each for name, each in value.items() if each is not None and each != []}
    names, form = ("chosen", "rejected"), "TRL"
    question: Any = next((row[name] for name in _QUESTIONS if name in row), None)
    if "preferred_output" in row or "non_preferred_output" in row:
        names, form = ("preferred_output", "non_preferred_output"), "OpenAI"
        given = row.get("input")
        question = given.get("messages") if isinstance(given, Mapping) else given
    for name in names:
        if name not in row:
            raise ValueError(f"{name} manque")
    if isinstance(question, str):
        form = form if form == "OpenAI" else "textes"
        asked = with_system(row, [{"role": "user", "content": question}])
    elif question is None or is_dialogue(question):
        asked = [plain_message(each) for each in question or ()]
    else:
        raise ValueError("la question n'est ni un texte ni une liste de messages")
    chosen, rejected = (_whole(row[name], asked, name) for name in names)
    return chosen, rejected, form


def _whole(answer: Any, asked: list[Any], name: str) -> list[Any]:
    """La conversation entière : la question, puis la réponse, ou la réponse qui les a toutes."""
    if isinstance(answer, str):
        if not asked:
            raise ValueError("prompt manque")
        return [*asked, {"role": "assistant", "content": answer}]
    if isinstance(answer, Mapping):
        answer = [answer]
    if not is_dialogue(answer):
        raise ValueError(f"{name} n'est ni un texte ni une liste de messages")
    messages = [plain_message(each) for each in answer]
    first = messages[0].get("role")
    if first == "assistant" and not asked:
        raise ValueError("prompt manque")
    return [*asked, *messages] if first == "assistant" else messages
