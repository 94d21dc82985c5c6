"""Des conversations en JSON ou en JSONL, et ce qu'un modèle en apprend : les réponses.

Chaque ligne, ou chaque élément d'une liste, est un objet `{"messages": [{"role": …, "content": …},
…]}`, la liste de ses messages, ou un objet de ShareGPT. Une conversation occupe
une rangée de `window` + 1 tokens, complétée à droite : l'attention causale ne fait rien voir du
remplissage aux tokens qui le précèdent. Les cibles qui ne sont pas d'une réponse valent `IGNORED`.

Formes : B rangées, T tokens d'une rangée sans le dernier.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.chat import check_messages, render_chat
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import DataError, GPTArchitectureError
from gpt_architecture.storage import decode_text, open_regular, read_at_most

MAX_LINE = 16 << 20
MAX_DOCUMENT = 1 << 30
"""Octets d'un fichier JSON, lu d'un bloc."""
MAX_CONVERSATIONS = 10_000_000

_SHAREGPT = {"human": "user", "gpt": "assistant"}

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Une conversation lue.

    Attributes:
        line: sa ligne dans le fichier, ou son rang dans la liste, à partir de 1.
        messages: ses messages, vérifiés ; une réponse au moins.
        unit: « ligne », ou « conversation » dans une liste.
    """

    line: int
    messages: Messages
    unit: str = "ligne"

    @property
    def place(self) -> str:
        """« ligne 3 » ou « conversation 3 »."""
        return f"{self.unit} {self.line}"


@dataclass(frozen=True, kw_only=True)
class EncodedConversation:
    """Une conversation codée.

    Attributes:
        ids: ses tokens, jusqu'à la fin de la dernière réponse.
        learned: de même longueur ; vrai pour les tokens d'une réponse, sa fin comprise.
    """

    ids: list[int]
    learned: list[bool]


class ConversationTokens(TokenArray):
    """Des conversations en rangées de `window` + 1 tokens, à la suite.

    Args:
        rows: conversations codées, d'au plus `window` + 1 tokens.
        window: longueur des entrées (T).
        padding: identifiant de remplissage.

    Attributes:
        count: nombre de conversations.
    """

    def __init__(self, rows: Sequence[EncodedConversation], window: int, padding: int) -> None:
        pitch = window + 1
        ids = np.full((len(rows), pitch), padding, dtype=np.int64)
        learned = np.zeros((len(rows), pitch), dtype=np.bool_)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            learned[index, : len(row.ids)] = row.learned
        self.count = len(rows)
        self._learned = learned.reshape(-1)
        super().__init__(ids.reshape(-1))

    def read_targets(self, start: int, length: int) -> Tensor:
        """Les cibles [start, start + length[ : (length,) int64, `IGNORED` hors des réponses."""
        learned = torch.from_numpy(self._learned[start : start + length])
        return self.read(start, length).masked_fill(~learned, IGNORED)

    def count_learned(self, starts: NDArray[np.int64], window: int) -> int:
        """Tokens que les fenêtres commençant en `starts` font apprendre."""
        return sum(int(self._learned[s + 1 : s + 1 + window].sum()) for s in starts.tolist())


def read_conversations(path: Path | str) -> tuple[list[Conversation], str]:
    """Lit un fichier de conversations : JSONL, ou JSON d'un seul tenant.

    Dans un message, un champ nul ou une liste vide est un champ absent, et un contenu en parties
    est le texte de celles-ci, comme les clients d'OpenAI les écrivent.

    Returns:
        Les conversations, et l'empreinte sha256 du fichier.

    Raises:
        DataError: fichier illisible ou vide, ou conversation mal formée ; elle est désignée.
    """
    path = Path(path)
    found: list[Conversation] = []
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            for value, number, unit in _values(file, path):
                found.append(_conversation(value, number, unit, path))
                if len(found) > MAX_CONVERSATIONS:
                    raise _bad(path, found[-1].place, f"plus de {MAX_CONVERSATIONS} conversations")
    except OSError as error:
        raise DataError.unreadable(
            path, error, expected="un fichier de conversations", remedy="corrigez `chat`"
        ) from None
    if not found:
        raise DataError(
            f"{path} ne contient aucune conversation",
            expected='des lignes {"messages": [{"role": "user", "content": "…"}, …]}',
            remedy="corrigez ce fichier",
        )
    return found, sha256


def encode_conversation(
    messages: Messages, template: str, tokenizer: Tokenizer, *, limit: int
) -> EncodedConversation | None:
    """Code une conversation, en distinguant ce que le modèle écrit de ce qu'il lit.

    Une réponse est ce que le gabarit ajoute au texte qui l'appelle, fin comprise. Chaque part est
    codée seule : le modèle rencontrera ces mêmes tokens quand il répondra. Les tokens spéciaux du
    gabarit en sont ; écrits dans un message, ce sont des caractères.

    Args:
        messages: vérifiés, une réponse au moins.
        template: gabarit (voir `data.texts.chat`).
        tokenizer: celui du modèle.
        limit: tokens au plus.

    Returns:
        La conversation codée, ou None si elle est trop longue.

    Raises:
        DataError: le gabarit la refuse, ou récrit ce qui précède une réponse.
    """
    ids: list[int] = []
    learned: list[bool] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render_chat(
            messages[:index], template, tokenizer=tokenizer, add_generation_prompt=True
        )
        after = render_chat(messages[: index + 1], template, tokenizer=tokenizer)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"le gabarit de conversation récrit ce qui précède la réponse {index + 1}",
                expected="un gabarit qui ne fait qu'ajouter, message après message",
                remedy="changez de gabarit (`chat_template`)",
            )
        for text, is_answer in ((before[len(done) :], False), (after[len(before) :], True)):
            part = encode_text(text, tokenizer)
            ids += part
            learned += [is_answer] * len(part)
        if len(ids) > limit:
            return None
        done = after
    if not any(learned[1:]):
        raise DataError(
            "la conversation n'a rien à apprendre",
            expected="une réponse dont le gabarit écrit le texte",
            remedy="corrigez cette ligne, ou changez de gabarit",
        )
    return EncodedConversation(ids=ids, learned=learned)


def _values(file: BufferedReader, path: Path) -> Iterator[tuple[Any, int, str]]:
    """(Valeur JSON, numéro, « ligne » ou « conversation ») de chaque conversation."""
    file.seek(0)
    start = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    if start.startswith(b"[") or path.suffix.lower() == ".json":
        values = _document(read_at_most(file, MAX_DOCUMENT), path)
        if values is not None:
            yield from ((value, rank, "conversation") for rank, value in enumerate(values, 1))
            return
        file.seek(0)
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        place = f"ligne {number}"
        if len(line) > MAX_LINE:
            raise _bad(path, place, f"plus de {MAX_LINE >> 20} Mio")
        if not line.strip():
            continue
        text = decode_text(line, origin=f"{path}, {place}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise _bad(path, place, f"ce n'est pas du JSON (colonne {error.colno})") from None
        except (ValueError, RecursionError):  # un entier ou une imbrication démesurés
            raise _bad(path, place, "ce n'est pas du JSON lisible") from None
        yield value, number, "ligne"


def _document(data: bytes, path: Path) -> list[Any] | None:
    """Les conversations d'un fichier JSON d'un seul tenant ; None si c'est du JSONL."""
    if len(data) > MAX_DOCUMENT:
        raise _bad(path, "tout le fichier", f"plus de {MAX_DOCUMENT >> 20} Mio d'un seul tenant")
    text = decode_text(data, origin=str(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        where = f"ligne {error.lineno}"
        raise _bad(path, where, f"ce n'est pas du JSON (colonne {error.colno})") from None
    except (ValueError, RecursionError):
        raise _bad(path, "tout le fichier", "ce n'est pas du JSON lisible") from None
    if isinstance(value, list) and not _is_conversation(value):
        return value
    return [value]  # une seule conversation


def _is_conversation(value: object) -> bool:
    """Vrai pour une liste de messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and "role" in first


def _conversation(value: Any, number: int, unit: str, path: Path) -> Conversation:
    place = f"{unit} {number}"
    messages = value if _is_conversation(value) else None
    if isinstance(value, Mapping):
        messages = value.get("messages")
        if messages is None and isinstance(value.get("conversations"), list):
            messages = [_from_sharegpt(each) for each in value["conversations"]]
    if messages is None:
        raise _bad(path, place, "messages manque")
    if isinstance(messages, list):
        messages = [_plain(message) for message in messages]
    try:
        check_messages(messages)
    except GPTArchitectureError as error:
        raise _bad(path, place, error.found) from None
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise _bad(path, place, "aucune réponse (role assistant)")
    if roles[0] == "assistant":
        raise _bad(path, place, "message 1 : une réponse sans question")
    return Conversation(line=number, messages=messages, unit=unit)


def _from_sharegpt(message: Any) -> Any:
    """Un message `{"from": "human", "value": …}` de ShareGPT, aux noms d'OpenAI."""
    if not isinstance(message, Mapping):
        return message
    author = message.get("from")
    return {"role": _SHAREGPT.get(str(author), author), "content": message.get("value")}


def _plain(message: Any) -> Any:
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


def _bad(path: Path, place: str, found: str) -> DataError:
    return DataError(
        f"{path}, {place} : {found}",
        expected='{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", '
        '"content": "…"}]}',
        remedy="corrigez cette conversation",
    )
