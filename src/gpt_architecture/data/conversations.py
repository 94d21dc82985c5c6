"""Des conversations au format JSONL, et ce qu'un modèle en apprend : les réponses.

Chaque ligne est un objet `{"messages": [{"role": …, "content": …}, …]}`. Une conversation occupe
une rangée de `window` + 1 tokens, complétée à droite : l'attention causale ne fait rien voir du
remplissage aux tokens qui le précèdent. Les cibles qui ne sont pas d'une réponse valent `IGNORED`.

Formes : B rangées, T tokens d'une rangée sans le dernier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.chat import check_messages, render_chat
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards import TokenArray
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, GPTArchitectureError, reason

MAX_LINE = 16 << 20
MAX_CONVERSATIONS = 10_000_000

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Une conversation lue.

    Attributes:
        line: sa ligne dans le fichier, à partir de 1.
        messages: ses messages, vérifiés ; une réponse au moins.
    """

    line: int
    messages: Messages


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
    """

    def __init__(self, rows: Sequence[EncodedConversation], window: int, padding: int) -> None:
        pitch = window + 1
        ids = np.full((len(rows), pitch), padding, dtype=np.int64)
        learned = np.zeros((len(rows), pitch), dtype=np.bool_)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            learned[index, : len(row.ids)] = row.learned
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
    """Lit un fichier JSONL de conversations.

    Returns:
        Les conversations, et l'empreinte sha256 du fichier.

    Raises:
        DataError: fichier illisible ou vide, ou ligne mal formée ; elle est désignée.
    """
    path = Path(path)
    digest, found = hashlib.sha256(), []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, path), 1):
                digest.update(line)
                if line.strip():
                    found.append(_conversation(line, number, path))
                if len(found) > MAX_CONVERSATIONS:
                    raise _bad(path, number, f"plus de {MAX_CONVERSATIONS} conversations")
    except OSError as error:
        raise DataError(
            f"{path} ne peut pas être lu : {reason(error)}",
            expected="un fichier JSONL de conversations",
            remedy="corrigez `chat`",
        ) from None
    if not found:
        raise DataError(
            f"{path} ne contient aucune conversation",
            expected='des lignes {"messages": [{"role": "user", "content": "…"}, …]}',
            remedy="corrigez ce fichier",
        )
    return found, digest.hexdigest()


def encode_conversation(
    messages: Messages, template: str, tokenizer: Tokenizer, *, limit: int
) -> EncodedConversation | None:
    """Code une conversation, en distinguant ce que le modèle écrit de ce qu'il lit.

    Une réponse est ce que le gabarit ajoute au texte qui l'appelle, fin comprise. Chaque part est
    codée seule : le modèle rencontrera ces mêmes tokens quand il répondra.

    Args:
        messages: vérifiés, une réponse au moins.
        template: gabarit (voir `data.chat`).
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
        before = render_chat(messages[:index], template, add_generation_prompt=True)
        after = render_chat(messages[: index + 1], template)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"le gabarit de conversation récrit ce qui précède la réponse {index + 1}",
                expected="un gabarit qui ne fait qu'ajouter, message après message",
                remedy="changez de gabarit (`chat_template`)",
            )
        for text, is_answer in ((before[len(done) :], False), (after[len(before) :], True)):
            part = tokenizer.encode(text, allowed_special={END_OF_TEXT})
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


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _bad(path, number, f"plus de {MAX_LINE >> 20} Mio")
        yield line


def _conversation(line: bytes, number: int, path: Path) -> Conversation:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _bad(path, number, f"ce n'est pas du JSON ({reason(error)})") from None
    if not isinstance(record, dict) or "messages" not in record:
        raise _bad(path, number, "messages manque")
    messages = record["messages"]
    try:
        check_messages(messages)
    except GPTArchitectureError as error:
        raise _bad(path, number, error.found) from None
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise _bad(path, number, "aucune réponse (role assistant)")
    if roles[0] == "assistant":
        raise _bad(path, number, "message 1 : une réponse sans question")
    return Conversation(line=number, messages=messages)


def _bad(path: Path, number: int, found: str) -> DataError:
    return DataError(
        f"{path}, ligne {number} : {found}",
        expected='{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", '
        '"content": "…"}]}',
        remedy="corrigez cette ligne",
    )
