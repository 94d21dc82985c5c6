"""Les données d'un affinage sur des conversations : leurs réponses seules s'apprennent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import TrainingData, check_lengths
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, check_template, render_chat
from gpt_architecture.data.texts.conversations import (
    Conversation,
    ConversationTokens,
    EncodedConversation,
    encode_conversation,
    read_conversations,
)
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer
from gpt_architecture.errors import DataError, GPTArchitectureError, TokenizerError

logger = logging.getLogger(__name__)


def load_chat_data(
    path: Path | str,
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    template: str | None = None,
    vocabulary: Tokenizer | None = None,
) -> TrainingData:
    """Lit un fichier de conversations, et le coupe en entraînement et validation.

    Une conversation qui dépasse la fenêtre est laissée de côté, et c'est dit.

    Args:
        path: le fichier (voir `data.texts.conversations`).
        tokenizer: nom ou fichier, quand `vocabulary` n'est pas donné.
        window: longueur des entrées (T).
        training: lot et coupe ; son `stride` est celui des rangées, `window` + 1.
        template: gabarit ; None : `DEFAULT_CHAT_TEMPLATE`.
        vocabulary: le tokenizer du modèle de départ.

    Raises:
        DataError: ligne mal formée (elle est désignée), ou trop peu de conversations.
        TokenizerError: tokenizer inconnu, ou sans fin de texte.
    """
    path = Path(path)
    template = DEFAULT_CHAT_TEMPLATE if template is None else check_template(template)
    conversations, sha256 = read_conversations(path)
    if vocabulary is None:
        vocabulary = _learned_vocabulary(conversations, tokenizer, template, training)
    if vocabulary.eos_id is None:
        raise TokenizerError(
            f"le tokenizer {vocabulary.name} n'a pas de token de fin de texte",
            expected="un tokenizer qui en a un : il achève chaque réponse",
            remedy="changez `tokenizer`",
        )
    train, val = _split(conversations, training.train_ratio)
    parts = []
    for part in (train, val):
        rows = _encode(part, path, template, vocabulary, window)
        parts.append(ConversationTokens(rows, window, padding=vocabulary.eos_id))
    data = TrainingData(
        name=path.stem,
        sha256=hashlib.sha256(f"{sha256}\n{template}".encode()).hexdigest(),
        train=parts[0],
        val=parts[1],
        tokenizer=vocabulary,
        opening=_opening(val[0], template, vocabulary),
        chat_template=template,
    )
    check_lengths(data, window, training)
    return data


def _learned_vocabulary(
    conversations: Sequence[Conversation], name: str, template: str, training: TrainingConfig
) -> Tokenizer:
    """Le tokenizer nommé ; s'il s'apprend, sur les conversations d'entraînement."""
    train, val = _split(conversations, training.train_ratio)
    chosen = train if name.startswith("bpe-") else [*train, *val]
    return get_tokenizer(
        name, text="\n".join(render_chat(each.messages, template) for each in chosen)
    )


def _split(
    conversations: Sequence[Conversation], train_ratio: float
) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    if len(conversations) < 2:
        raise DataError(
            f"{len(conversations)} conversation",
            expected="au moins deux : une pour apprendre, une pour valider",
            remedy="complétez `chat`",
        )
    cut = min(max(1, int(train_ratio * len(conversations))), len(conversations) - 1)
    return conversations[:cut], conversations[cut:]


def _encode(
    conversations: Sequence[Conversation],
    path: Path,
    template: str,
    tokenizer: Tokenizer,
    window: int,
) -> list[EncodedConversation]:
    rows, too_long = [], []
    for each in conversations:
        try:
            row = encode_conversation(each.messages, template, tokenizer, limit=window + 1)
        except GPTArchitectureError as error:
            raise DataError(
                f"{path}, {each.place} : {error.found}",
                expected=error.expected,
                remedy=error.remedy,
            ) from None
        if row is None:
            too_long.append(each.place)
        else:
            rows.append(row)
    if too_long:
        logger.warning(
            "%d conversation(s) de plus de %d tokens laissée(s) de côté (la première : %s) ; "
            "`context_length` les garderait",
            *(len(too_long), window + 1, too_long[0]),
        )
    if not rows:
        raise DataError(
            f"{path} : aucune conversation, de la {conversations[0].place} à la "
            f"{conversations[-1].place}, ne tient dans {window + 1} tokens",
            expected="des conversations plus courtes que le contexte",
            remedy="allongez `context_length` ou raccourcissez-les",
        )
    return rows


def _opening(conversation: Conversation, template: str, tokenizer: Tokenizer) -> str:
    """La première question d'une conversation, prête pour la réponse."""
    roles = [message["role"] for message in conversation.messages]
    asked = conversation.messages[: roles.index("assistant")]
    return render_chat(asked, template, tokenizer=tokenizer, add_generation_prompt=True)
