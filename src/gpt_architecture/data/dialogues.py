"""Les données d'un entraînement à répondre : d'un dialogue, seules les réponses s'apprennent."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import TrainingData, check_batch, check_windows
from gpt_architecture.data.packing import PackedConversations
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.splits import DRAWN, split_examples, tell_repeats
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, check_template, render_chat
from gpt_architecture.data.texts.conversations import (
    CONVERSATION,
    Conversation,
    ConversationTokens,
    EncodedConversation,
    Kind,
    encode_conversation,
    read_conversations,
)
from gpt_architecture.data.texts.preferences import PreferencePair
from gpt_architecture.data.tokenizer import (
    Tokenizer,
    get_tokenizer,
)
from gpt_architecture.data.tokenizers.bpe import bpe_size
from gpt_architecture.errors import (
    DataError,
    TokenizerError,
    located,
)
from gpt_architecture.french import counted, french_number

logger = logging.getLogger(__name__)

Dialogue = TypeVar("Dialogue", Conversation, PreferencePair)
"""Un exemple entier : une conversation, ou une paire."""


def load_chat_data(
    path: Path | str,
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    template: str | None = None,
    vocabulary: Tokenizer | None = None,
) -> TrainingData:
    """Lit un fichier de conversations, et en tire une validation.

    Une conversation qui dépasse la fenêtre est laissée de côté, et c'est dit.

    Args:
        path: le fichier (voir `data.texts.conversations`).
        tokenizer: nom ou fichier, quand `vocabulary` n'est pas donné.
        window: longueur des entrées (T).
        training: lot, graine et part d'entraînement ; `stride` y vaut `window` + 1.
        template: gabarit ; None : `DEFAULT_CHAT_TEMPLATE`.
        vocabulary: le tokenizer du modèle de départ.

    Raises:
        DataError: ligne mal formée (elle est désignée), ou trop peu de conversations.
        TokenizerError: tokenizer inconnu, ou sans fin de texte.
    """
    path = Path(path)
    template = DEFAULT_CHAT_TEMPLATE if template is None else check_template(template)
    conversations, sha256 = read_conversations(path)
    train, val = divided(path, CONVERSATION, conversations, training)
    if vocabulary is None:  # comme d'un texte : un BPE s'apprend sans voir la validation
        seen = train if bpe_size(tokenizer) is not None else conversations
        text = "\n".join(render_chat(each.messages, template) for each in seen)
        vocabulary = get_tokenizer(tokenizer, text=text)
    padding = end_of_answer(vocabulary)
    parts = []
    for part in (train, val):
        rows = _encode(part, path, template, vocabulary, window)
        kind = PackedConversations if training.document_mask else ConversationTokens
        parts.append(kind(rows, window, padding=padding))
    first = val[0].messages
    asked = first[: [message["role"] for message in first].index("assistant")]
    return dialogue_data(
        path, sha256, template, vocabulary, parts, asked=asked, window=window, training=training
    )


def divided(
    path: Path | str, kind: Kind, examples: Sequence[Dialogue], training: TrainingConfig
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Les exemples à apprendre et ceux de validation, tirés.

    Les formes lues sont dites, et ce que la validation a de commun avec l'entraînement.

    Raises:
        DataError: il n'y en a qu'un.
    """
    forms = Counter(each.form for each in examples)
    said = ", ".join(f"{form} ({french_number(count)})" for form, count in forms.most_common())
    logger.info("%ss lues dans %s, par forme : %s.", kind.unit.capitalize(), path, said)
    if len(examples) < 2:
        raise DataError(
            f"{len(examples)} {kind.unit}",
            expected="au moins deux : une pour apprendre, une pour valider",
            remedy=f"complétez `{kind.setting}`",
        )
    parts = split_examples(examples, training.train_ratio, training.seed)
    contents = ([_content(each) for each in part] for part in parts)
    tell_repeats(*contents, unit=kind.unit, origin=path)
    return parts


def _content(example: Conversation | PreferencePair) -> str:
    """Ce que dit un exemple, où qu'il soit écrit."""
    if isinstance(example, Conversation):
        return json.dumps(example.messages)
    return json.dumps([example.chosen, example.rejected])


def dialogue_data(
    path: Path | str,
    sha256: str,
    template: str,
    tokenizer: Tokenizer,
    parts: Sequence[TokenSource],
    *,
    asked: Sequence[Mapping[str, Any]],
    window: int,
    training: TrainingConfig,
) -> TrainingData:
    """Les données de dialogues codés (à apprendre, de validation), vérifiées.

    L'empreinte est celle du fichier et du gabarit ; `asked` fait l'invite des exemples.

    Raises:
        ConfigurationError, DataError: trop peu d'exemples pour le lot.
    """
    train, val = parts
    data = TrainingData(
        name=Path(path).stem,
        sha256=hashlib.sha256(f"{sha256}\n{template}".encode()).hexdigest(),
        train=train,
        val=val,
        tokenizer=tokenizer,
        opening=render_chat(asked, template, tokenizer=tokenizer, add_generation_prompt=True),
        chat_template=template,
        split=DRAWN,
    )
    check_windows(data, window)
    check_batch(data, window, training)
    return data


def end_of_answer(tokenizer: Tokenizer) -> int:
    """Le token qui achève chaque réponse.

    Raises:
        TokenizerError: le vocabulaire n'en a pas.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas de token de fin de texte",
            expected="un tokenizer qui en a un : il achève chaque réponse",
            remedy="changez `tokenizer`",
        )
    return tokenizer.eos_id


def _encode(
    conversations: Sequence[Conversation],
    path: Path,
    template: str,
    tokenizer: Tokenizer,
    window: int,
) -> list[EncodedConversation]:
    rows, too_long = list[EncodedConversation](), list[Conversation]()
    for each in conversations:
        with located(f"{path}, {each.place}", DataError):
            row = encode_conversation(
                each.messages, template, tokenizer, limit=window + 1, muted=each.muted
            )
        if row is None:
            too_long.append(each)
        else:
            rows.append(replace(row, line=each.line))
    check_lengths(path, CONVERSATION, conversations, too_long, window)
    return rows


def check_lengths(
    path: Path | str,
    kind: Kind,
    examples: Sequence[Dialogue],
    too_long: Sequence[Dialogue],
    window: int,
) -> None:
    """Dit les exemples qui ne tiennent pas dans une rangée, et sont laissés de côté.

    Raises:
        DataError: aucun ne tient.
    """
    if not too_long:
        return
    count, first = len(too_long), min(too_long, key=lambda each: each.line).place
    if count == len(examples):
        raise DataError(
            f"{path} : {counted(count, kind.unit)} (la première : {first}), et aucune ne tient "
            f"dans {window + 1} tokens",
            expected="des conversations plus courtes que le contexte",
            remedy="allongez `context_length` ou raccourcissez-les",
        )
    logger.warning(
        "%s de plus de %d tokens, sans effet (la première : %s) ; un plus grand `context_length` "
        "les garderait",
        *(counted(count, kind.unit), window + 1, first),
    )
