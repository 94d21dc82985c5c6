"""Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans l'ordre.

Le résultat ne dépend pas du nombre de processus : chaque tâche est une fonction pure de son
contenu.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.shards.layout import TOKEN_DTYPE
from gpt_architecture.data.shards.plan import SplitPlan, Task, TextBlock
from gpt_architecture.data.shards.workers import run_in_order
from gpt_architecture.data.texts.documents import Rejected, Skip, Split, cut_pieces, documents_in
from gpt_architecture.data.texts.ingest import RecordBlock
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import DataError, TokenizerError, located

Key = TypeVar("Key")
Tokens = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Le résultat d'une tâche.

    Attributes:
        tokens: tokens de chaque part, documents précédés de `<|endoftext|>`.
        text_bytes: voir `Tally`, comme `separated`.
        consumed: octets de la source lus.
        skips: documents écartés.
    """

    tokens: dict[Split, Tokens] = field(default_factory=dict)
    text_bytes: int = 0
    consumed: int = 0
    skips: list[Skip] = field(default_factory=list)
    separated: int = 0

    def documents(self, tokenizer: Tokenizer) -> int:
        """Documents d'entraînement qui y commencent."""
        train = self.tokens.get("train")
        return 0 if train is None else int(np.count_nonzero(train == separator_of(tokenizer)))


def separator_of(tokenizer: Tokenizer) -> int:
    """L'identifiant de `<|endoftext|>`.

    Raises:
        TokenizerError: le vocabulaire ne l'a pas.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas de token {END_OF_TEXT}",
            expected="de quoi séparer les documents",
            remedy="prenez gpt2 ou un vocabulaire simple-v2",
        )
    return tokenizer.eos_id


class Encoder:
    """Code des tâches avec un tokenizer ; sans état d'une tâche à l'autre."""

    def __init__(self, tokenizer: Tokenizer, plan: SplitPlan, field: str | None) -> None:
        self._tokenizer, self._plan, self._field = tokenizer, plan, field
        self._separator = np.array([separator_of(tokenizer)], dtype=TOKEN_DTYPE)

    def __call__(self, task: Task) -> Encoded:
        """Code une tâche.

        Raises:
            DataError: un texte ne se code pas ; sa source est nommée.
        """
        with located(task.label, DataError):
            return self._pieces(task) if isinstance(task, TextBlock) else self._records(task)

    def _pieces(self, block: TextBlock) -> Encoded:
        parts: dict[Split, list[Tokens]] = {"train": [], "val": []}
        for piece in block.pieces:
            if piece.starts_document:
                parts[piece.split].append(self._separator)
            parts[piece.split] += self._encode(piece.text)
        return Encoded(
            tokens=_joined(parts),
            text_bytes=sum(len(piece.text.encode("utf-8")) for piece in block.pieces),
            consumed=block.consumed,
            separated=block.separated,
        )

    def _records(self, block: RecordBlock) -> Encoded:
        parts: dict[Split, list[Tokens]] = {"train": [], "val": []}
        skips = list(block.skips)
        text_bytes = separated = 0
        for number, record in block.records:
            try:
                found = documents_in(block.text_of(record, self._field))
            except Rejected as rejected:
                skips.append(Skip.of(rejected, block.place(number)))
                continue
            separated += len(found) - 1
            for rank, text in found:
                split = self._plan.split_of((block.label, number, rank), [text])
                parts[split] += [self._separator, *self._encode(text)]
                text_bytes += len(text.encode("utf-8"))
        return Encoded(
            tokens=_joined(parts),
            text_bytes=text_bytes,
            consumed=block.consumed,
            skips=skips,
            separated=separated,
        )

    def _encode(self, text: str) -> list[Tokens]:
        # Par morceaux : la liste Python d'un long document pèserait cinquante fois son texte
        return [
            np.array(self._tokenizer.encode(piece), dtype=TOKEN_DTYPE)
            for piece in cut_pieces([text])
        ]


def _joined(parts: Mapping[Split, list[Tokens]]) -> dict[Split, Tokens]:
    return {split: np.concatenate(part) for split, part in parts.items() if part}


def encode_in_order(
    tasks: Iterable[tuple[Key, Task]],
    tokenizer: Tokenizer,
    plan: SplitPlan,
    *,
    field: str | None,
    workers: int,
) -> Iterator[tuple[Key, Encoded]]:
    """Code les tâches et rend leurs résultats dans l'ordre ; voir `workers.run_in_order`.

    Args:
        tasks: (clé, tâche).
        tokenizer: voir `data.tokenizer.Tokenizer`.
        plan: la part de chaque document.
        field: champ du texte ; None : celui que la lecture a trouvé.
        workers: processus ; 1 : celui-ci.

    Raises:
        GPTArchitectureError: une tâche a échoué, ou un processus est mort ou ne répond plus.
    """
    if workers == 1:
        return run_in_order(tasks, lambda: Encoder(tokenizer, plan, field), workers=1)
    return run_in_order(tasks, partial(_encoder, tokenizer.to_dict(), plan, field), workers=workers)


def _encoder(description: dict[str, Any], plan: SplitPlan, field: str | None) -> Encoder:
    return Encoder(tokenizer_from_dict(description), plan, field)
