"""Un enregistrement de dialogue, quelle que soit sa forme : ses messages, aux noms d'OpenAI.

La forme est reconnue aux champs, enregistrement par enregistrement : un fichier peut les mêler. Un
champ nul ou une liste vide est un champ absent, comme dans les exports de Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_AUTHORS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bing", "bard"), "assistant"),
}
"""Auteurs de ShareGPT → rôles ; les autres restent ce qu'ils sont."""

_PAIRS = (
    ("alpaca", "instruction", "input", "output"),
    ("dolly", "instruction", "context", "response"),
    ("invite et réponse", "prompt", "", "completion"),
)
"""Nom, champ de la question, champ du texte sur lequel elle porte, champ de la réponse."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Un dialogue reconnu, que rien n'a encore vérifié.

    Attributes:
        messages: ses messages.
        form: sa forme, pour une personne.
        muted: rangs, depuis 0, des réponses qui se lisent sans s'apprendre (`weight` nul).
    """

    messages: Any
    form: str
    muted: frozenset[int] = frozenset()


def is_dialogue(value: object) -> bool:
    """Vrai pour une liste de messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and "role" in first


def recognise(value: object) -> Record:
    """Le dialogue que tient une valeur JSON.

    Formes : `{"messages": […]}` ou la liste des messages (OpenAI), `{"conversations": [{"from",
    "value"}, …]}` (ShareGPT), `{"instruction", "input", "output"}` (alpaca), `{"instruction",
    "context", "response"}` (dolly), `{"prompt", "completion"}`, textes ou listes de messages. Un
    champ `system` en est la consigne.

    Raises:
        ValueError: aucune de ces formes, ou un champ d'un autre genre ; il est nommé.
    """
    if is_dialogue(value):
        return _record(value, "messages")
    if not isinstance(value, Mapping):
        raise ValueError("messages manque")
    row = {name: each for name, each in value.items() if each is not None}
    if "messages" in row:
        return _record(row["messages"], "messages")
    if isinstance(row.get("conversations"), list):
        talk = [_from_sharegpt(each) for each in row["conversations"]]
        return _record(with_system(row, talk), "ShareGPT")
    tried = [pair for pair in _PAIRS if pair[1] in row]
    found = next((pair for pair in tried if pair[3] in row), None)
    if found is None:
        missing = " ou ".join(dict.fromkeys(pair[3] for pair in tried)) or "messages"
        raise ValueError(f"{missing} manque")
    form, asked, about, answer = found
    if is_dialogue(row[asked]) and is_dialogue(row[answer]):
        return _record([*row[asked], *row[answer]], form)
    question, context = row[asked], row.get(about, "")
    for name, text in ((asked, question), (about, context), (answer, row[answer])):
        if not isinstance(text, str):
            raise ValueError(f"{name} n'est pas un texte")
    if context.strip():
        question = f"{question}\n\n{context}"
    talk = [
        *_history(row.get("history", [])),
        {"role": "user", "content": question},
        {"role": "assistant", "content": row[answer]},
    ]
    return _record(with_system(row, talk), form)


def _record(messages: Any, form: str) -> Record:
    """Les messages, simplifiés, et ceux dont `weight` dit de ne rien apprendre."""
    if not isinstance(messages, list):
        return Record(messages=messages, form=form)
    plain, muted = [], set()
    for rank, message in enumerate(messages):
        kept = plain_message(message)
        if isinstance(kept, dict) and kept.get("role") == "assistant" and "weight" in kept:
            weight = kept.pop("weight")
            if type(weight) not in (int, float) or weight not in (0, 1):
                raise ValueError(f"message {rank + 1} : weight n'est ni 0 ni 1")
            if not weight:
                muted.add(rank)
        plain.append(kept)
    return Record(messages=plain, form=form, muted=frozenset(muted))


def _history(turns: object) -> list[dict[str, Any]]:
    """Les échanges d'avant : des paires (question, réponse)."""
    if not isinstance(turns, list) or any(not isinstance(t, list) or len(t) != 2 for t in turns):
        raise ValueError("history n'est pas une liste de paires")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(roles, turn, strict=True)
    ]


def with_system(row: Mapping[str, Any], talk: list[Any]) -> list[Any]:
    """Le dialogue, précédé de la consigne que l'enregistrement donne à part."""
    system = row.get("system", "")
    if not isinstance(system, str):
        raise ValueError("system n'est pas un texte")
    return [{"role": "system", "content": system}, *talk] if system.strip() else talk


def _from_sharegpt(message: Any) -> Any:
    """Un message `{"from": "human", "value": …}` de ShareGPT, aux noms d'OpenAI."""
    if not isinstance(message, Mapping) or "role" in message:
        return message
    author = message.get("from")
    rest = {name: each for name, each in message.items() if name == "weight"}
    return {"role": _AUTHORS.get(str(author), author), "content": message.get("value"), **rest}


def plain_message(message: Any) -> Any:
    """Un message sans champ nul ni liste vide, le texte de ses parties mis bout à bout."""
    if not isinstance(message, Mapping):
        return message
    kept = {name: value for name, value in message.items() if value is not None and value != []}
    parts = kept.get("content")
    if isinstance(parts, list):
        texts = [p.get("text") for p in parts if isinstance(p, Mapping) and p.get("type") == "text"]
        if len(texts) == len(parts) and all(isinstance(text, str) for text in texts):
            kept["content"] = "".join(map(str, texts))
    return kept
