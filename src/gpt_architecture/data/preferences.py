"""Les paires de préférences d'un entraînement : deux rangées chacune, qui se lisent ensemble.

Une paire est une fenêtre : la conversation à la réponse préférée, puis l'autre, chacune en une
rangée de `window` + 1 tokens. La question est lue, les réponses seules sont comparées.

Formes : P paires, T tokens d'une rangée sans le dernier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.dialogues import (
    check_lengths,
    dialogue_data,
    divided,
    end_of_answer,
)
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, check_template
from gpt_architecture.data.texts.conversations import (
    ConversationTokens,
    EncodedConversation,
    encode_conversation,
)
from gpt_architecture.data.texts.preferences import PAIR, PreferencePair, read_preferences
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError, located

EncodedPair = tuple[EncodedConversation, EncodedConversation]
"""La conversation à la réponse préférée, puis l'autre."""


class PairTokens(ConversationTokens):
    """Des paires de conversations en rangées de `window` + 1 tokens, à la suite.

    Args:
        pairs: les paires codées, chaque conversation d'au plus `window` + 1 tokens.
        window: longueur des entrées (T).
        padding: identifiant de remplissage.

    Attributes:
        lengths: (P, 2) cibles de chaque conversation, question comprise, remplissage non.
        answers: (P, 2) celles de la réponse.
    """

    def __init__(self, pairs: Sequence[EncodedPair], window: int, padding: int) -> None:
        super().__init__([row for pair in pairs for row in pair], window, padding)
        self.count = len(pairs)
        self._pitch = window + 1
        self.lengths = np.array([[len(row.ids) - 1 for row in pair] for pair in pairs])
        self.answers = np.array([[sum(row.learned[1:]) for row in pair] for pair in pairs])

    def row_starts(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Voir `data.sampler.PairedSource` : la préférée, puis l'autre, paire après paire."""
        return np.stack([starts, starts + self._pitch], axis=1).reshape(-1)

    def numbers(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Le rang, depuis 0, des paires qui commencent en `starts`."""
        return starts // (2 * self._pitch)

    def count_learned(self, starts: NDArray[np.int64], window: int) -> int:
        """Ce que les fenêtres commençant en `starts` font apprendre : une paire compte pour un."""
        del window
        return len(starts)


def load_preferences(
    path: Path | str,
    tokenizer: Tokenizer,
    *,
    window: int,
    training: TrainingConfig,
    template: str | None = None,
) -> TrainingData:
    """Lit les paires d'un fichier, en tire une validation, et les code par le gabarit du modèle.

    Args:
        path: voir `data.texts.preferences`.
        tokenizer: celui du modèle.
        window: longueur d'une fenêtre (T).
        training: lot, graine et part d'entraînement ; son `stride` vaut deux rangées.
        template: gabarit de conversation du modèle ; None : celui du projet.

    Raises:
        DataError: fichier illisible, paire mal formée ou refusée par le gabarit, ou trop peu.
        TokenizerError: le vocabulaire n'a pas de fin de texte.
    """
    path = Path(path)
    template = DEFAULT_CHAT_TEMPLATE if template is None else check_template(template)
    pairs, sha256 = read_preferences(path)
    train, val = divided(path, PAIR, pairs, training)
    padding = end_of_answer(tokenizer)
    parts = []
    for part in (train, val):
        rows = encode_pairs(part, path, template, tokenizer, window=window)
        parts.append(PairTokens([row for _, row in rows], window, padding))
    asked = val[0].chosen[: val[0].shared]
    return dialogue_data(
        path, sha256, template, tokenizer, parts, asked=asked, window=window, training=training
    )


def encode_pairs(
    pairs: Sequence[PreferencePair],
    path: Path | str,
    template: str,
    tokenizer: Tokenizer,
    *,
    window: int,
) -> list[tuple[PreferencePair, EncodedPair]]:
    """Code des paires ; une trop longue est laissée, ce qui est dit.

    Args:
        pairs: les paires.
        path: d'où elles viennent, pour les messages.
        template: gabarit de conversation.
        tokenizer: celui du modèle.
        window: longueur des entrées (T).

    Raises:
        DataError: le gabarit en refuse une, ou aucune ne tient.
    """
    found, too_long = list[tuple[PreferencePair, EncodedPair]](), list[PreferencePair]()
    for each in pairs:
        rows = []
        for messages in (each.chosen, each.rejected):
            answers = (r for r, each_one in enumerate(messages) if each_one["role"] == "assistant")
            with located(f"{path}, {each.place}", DataError):
                row = encode_conversation(
                    messages,
                    template,
                    tokenizer,
                    limit=window + 1,
                    muted={rank for rank in answers if rank < each.shared},
                )
            if row is not None:
                rows.append(row)
        if len(rows) < 2:
            too_long.append(each)
        else:
            found.append((each, (rows[0], rows[1])))
    check_lengths(path, PAIR, pairs, too_long, window)
    return found
