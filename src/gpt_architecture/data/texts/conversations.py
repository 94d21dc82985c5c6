"""Des conversations en JSON ou en JSONL, et ce qu'un modèle en apprend : les réponses.

Chaque ligne, ou chaque élément d'une liste, est une conversation, dans l'une des formes que
`chat_records.recognise` lit : OpenAI, ShareGPT, alpaca, invite et réponse… Elle occupe une rangée
de `window` + 1 tokens, complétée à droite : l'attention causale ne fait rien voir du
remplissage aux tokens qui le précèdent. Les cibles qui ne sont pas d'une réponse valent `IGNORED`.

Formes : B rangées, T tokens d'une rangée sans le dernier.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.chat import check_messages, render_chat
from gpt_architecture.data.texts.chat_records import is_dialogue, recognise
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import DataError, GPTArchitectureError
from gpt_architecture.storage import decode_text, open_regular, read_at_most

MAX_LINE = 16 << 20
MAX_DOCUMENT = 1 << 30
"""Octets d'un fichier JSON, lu d'un bloc."""
MAX_CONVERSATIONS = 10_000_000

Messages = Sequence[Mapping[str, str]]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Ce qu'un fichier de dialogues contient, pour les messages.

    Attributes:
        unit: nom d'un élément.
        setting: le réglage qui nomme le fichier.
        expected: la forme d'un élément.
    """

    unit: str
    setting: str
    expected: str

    def bad(self, path: Path | str, place: str, found: str) -> DataError:
        """L'erreur d'un élément."""
        return DataError(
            f"{path}, {place} : {found}",
            expected=self.expected,
            remedy=f"corrigez cette {self.unit}",
        )


CONVERSATION = Kind(
    unit="conversation",
    setting="chat",
    expected='{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", '
    '"content": "…"}]}, ou les champs de ShareGPT, d\'alpaca, ou prompt et completion',
)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Une conversation lue.

    Attributes:
        line: sa ligne dans le fichier, ou son rang dans la liste, à partir de 1.
        messages: ses messages, vérifiés ; une réponse au moins.
        unit: « ligne », ou « conversation » dans une liste.
        form: forme où elle était écrite (voir `chat_records.recognise`).
        muted: rangs, depuis 0, des réponses qui ne s'apprennent pas.
    """

    line: int
    messages: Messages
    unit: str = "ligne"
    form: str = "messages"
    muted: frozenset[int] = frozenset()

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
        line: voir `Conversation` ; 0 : elle ne vient pas d'un fichier.
    """

    ids: list[int]
    learned: list[bool]
    line: int = 0


class ConversationTokens(TokenArray):
    """Des conversations en rangées de `window` + 1 tokens, à la suite.

    Args:
        rows: conversations codées, d'au plus `window` + 1 tokens.
        window: longueur des entrées (T).
        padding: identifiant de remplissage.

    Attributes:
        count: nombre de conversations.
        places: de chacune, sa ligne, son premier token et celui d'après son dernier.
    """

    def __init__(self, rows: Sequence[EncodedConversation], window: int, padding: int) -> None:
        pitch = window + 1
        ids = np.full((len(rows), pitch), padding, dtype=np.int64)
        learned = np.zeros((len(rows), pitch), dtype=np.bool_)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            learned[index, : len(row.ids)] = row.learned
        self.count = len(rows)
        self.places = [
            (row.line, pitch * index, pitch * index + len(row.ids))
            for index, row in enumerate(rows)
        ]
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

    Un champ nul ou une liste vide est un champ absent, et un contenu en parties est le texte de
    celles-ci, comme les clients d'OpenAI les écrivent.

    Returns:
        Les conversations, et l'empreinte sha256 du fichier.

    Raises:
        DataError: fichier illisible ou vide, ou conversation mal formée ; elle est désignée.
    """
    return read_dialogues(path, _conversation, CONVERSATION)


def read_dialogues(
    path: Path | str, build: Callable[[Any, str, int], T], kind: Kind
) -> tuple[list[T], str]:
    """Lit un fichier de dialogues : JSONL, ou JSON d'un seul tenant.

    Args:
        path: le fichier.
        build: fait un élément de sa valeur JSON, du nom de sa place et de son numéro ; ValueError
            ou une erreur du projet dit ce qui ne va pas.
        kind: ce qu'il contient.

    Returns:
        Les éléments, et l'empreinte sha256 du fichier.

    Raises:
        DataError: fichier illisible ou vide, ou élément mal formé ; il est désigné.
    """
    path = Path(path)
    found: list[T] = []
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            for value, number, unit in _values(file, path, kind):
                place = f"{unit} {number}"
                try:
                    found.append(build(value, unit, number))
                except GPTArchitectureError as error:
                    raise kind.bad(path, place, error.found) from None
                except ValueError as error:
                    raise kind.bad(path, place, str(error)) from None
                if len(found) > MAX_CONVERSATIONS:
                    raise kind.bad(path, place, f"plus de {MAX_CONVERSATIONS} {kind.unit}s")
    except OSError as error:
        raise DataError.unreadable(
            path, error, expected=f"un fichier de {kind.unit}s", remedy=f"corrigez `{kind.setting}`"
        ) from None
    if not found:
        raise DataError(
            f"{path} ne contient aucune {kind.unit}",
            expected=f"des lignes {kind.expected}",
            remedy="corrigez ce fichier",
        )
    return found, sha256


def encode_conversation(
    messages: Messages,
    template: str,
    tokenizer: Tokenizer,
    *,
    limit: int,
    muted: Collection[int] = (),
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
        muted: rangs, depuis 0, des réponses qui se lisent sans s'apprendre.

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
        is_learned = index not in muted
        for text, is_answer in ((before[len(done) :], False), (after[len(before) :], is_learned)):
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


def _values(file: BufferedReader, path: Path, kind: Kind) -> Iterator[tuple[Any, int, str]]:
    """(Valeur JSON, numéro, « ligne » ou son unité) de chaque élément."""
    file.seek(0)
    start = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    if start.startswith(b"[") or path.suffix.lower() == ".json":
        values = _document(read_at_most(file, MAX_DOCUMENT), path, kind)
        if values is not None:
            yield from ((value, rank, kind.unit) for rank, value in enumerate(values, 1))
            return
        file.seek(0)
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        place = f"ligne {number}"
        if len(line) > MAX_LINE:
            raise kind.bad(path, place, f"plus de {MAX_LINE >> 20} Mio")
        if not line.strip():
            continue
        text = decode_text(line, origin=f"{path}, {place}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise kind.bad(path, place, f"ce n'est pas du JSON (colonne {error.colno})") from None
        except (ValueError, RecursionError):  # un entier ou une imbrication démesurés
            raise kind.bad(path, place, "ce n'est pas du JSON lisible") from None
        yield value, number, "ligne"


def _document(data: bytes, path: Path, kind: Kind) -> list[Any] | None:
    """Les éléments d'un fichier JSON d'un seul tenant ; None si c'est du JSONL."""
    if len(data) > MAX_DOCUMENT:
        raise kind.bad(
            path, "tout le fichier", f"plus de {MAX_DOCUMENT >> 20} Mio d'un seul tenant"
        )
    text = decode_text(data, origin=str(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        where = f"ligne {error.lineno}"
        raise kind.bad(path, where, f"ce n'est pas du JSON (colonne {error.colno})") from None
    except (ValueError, RecursionError):
        raise kind.bad(path, "tout le fichier", "ce n'est pas du JSON lisible") from None
    if isinstance(value, list) and not is_dialogue(value):
        return value
    return [value]  # une seule conversation


def _conversation(value: Any, unit: str, number: int) -> Conversation:
    record = recognise(value)
    messages = record.messages
    check_messages(messages)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError("aucune réponse (role assistant)")
    if roles[0] == "assistant":
        raise ValueError("message 1 : une réponse sans question")
    answers = {rank for rank, role in enumerate(roles) if role == "assistant"}
    if answers <= record.muted:
        raise ValueError("aucune réponse à apprendre : weight y est nul partout")
    return Conversation(
        line=number, messages=messages, unit=unit, form=record.form, muted=record.muted
    )
