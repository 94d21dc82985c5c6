"""Écrire des tokens à la suite, en fragments, et pouvoir reprendre à chaque point sûr."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.shards.layout import (
    HEADER_BYTES,
    INDEX_FORMAT,
    INDEX_VERSION,
    TOKEN_DTYPE,
    ShardEntry,
    file_sha256,
    header,
)
from gpt_architecture.data.texts.documents import SPLIT_NAMES, SPLITS, Split
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import DataError


class ShardWriter:
    """Ajoute des tokens à la suite, et commence un fragment quand le précédent est plein.

    L'écriture se reprend à chaque point sûr : un `ShardWriter` bâti de ce que rend `flush` efface
    ce qui l'a suivi.

    Args:
        folder: dossier existant.
        split: part, début du nom des fichiers.
        shard_tokens: tokens d'un fragment plein.
        eos_id: token qui précède chaque document ; il les compte.
        state: rendu par `flush` avant une interruption ; None : rien n'est écrit.

    Raises:
        DataError: le fragment en cours est plus court que ne le dit `state`.
    """

    def __init__(
        self,
        folder: Path | str,
        split: Split,
        *,
        shard_tokens: int,
        eos_id: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        self._folder, self._split = Path(folder), split
        self._shard_tokens, self._eos_id = shard_tokens, eos_id
        state = state or {"shards": [], "tokens": 0, "documents": 0}
        self.shards = [ShardEntry(**entry) for entry in state["shards"]]
        self._tokens: int = state["tokens"]
        self._documents: int = state["documents"]
        kept = {entry.name for entry in self.shards} | ({self._name} if self._tokens else set())
        for path in self._folder.glob(f"{split}_*.bin"):
            if path.name not in kept:
                path.unlink()
        self._file: BinaryIO | None = None
        if self._tokens:
            self._file = self._reopen()

    @property
    def num_tokens(self) -> int:
        """Tokens écrits, fragment en cours compris."""
        return sum(entry.tokens for entry in self.shards) + self._tokens

    @property
    def num_documents(self) -> int:
        """Documents commencés."""
        return sum(entry.documents for entry in self.shards) + self._documents

    def append(self, tokens: NDArray[np.uint16]) -> None:
        """Écrit des tokens, (N,) uint16."""
        start = 0
        while start < tokens.size:
            if self._file is None:
                self._file = (self._folder / self._name).open("wb")
                self._file.write(bytes(HEADER_BYTES))  # le vrai est écrit en dernier
            part = tokens[start : start + self._shard_tokens - self._tokens]
            self._file.write(part.astype(TOKEN_DTYPE, copy=False).tobytes())
            self._tokens += part.size
            self._documents += int(np.count_nonzero(part == self._eos_id))
            start += part.size
            if self._tokens == self._shard_tokens:
                self._finish_shard()

    def flush(self) -> dict[str, Any]:
        """Vide le fragment en cours sur disque ; rend ce qui est écrit, en types simples."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        shards = [asdict(entry) for entry in self.shards]
        return {"shards": shards, "tokens": self._tokens, "documents": self._documents}

    def close(self) -> None:
        """Termine le fragment en cours."""
        if self._file is not None:
            self._finish_shard()

    def abandon(self) -> None:
        """Ferme le fichier sans terminer le fragment ; ce qui reste à écrire peut être perdu."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # disque plein : l'erreur d'origine suit son cours
                file.close()

    @property
    def _name(self) -> str:
        return f"{self._split}_{len(self.shards):06d}.bin"

    def _reopen(self) -> BinaryIO:
        path = self._folder / self._name
        size = HEADER_BYTES + self._tokens * TOKEN_DTYPE.itemsize
        if not path.is_file() or path.stat().st_size < size:
            raise DataError(
                f"{path} est plus court que ne le dit l'état de la préparation",
                expected=f"au moins {size} octets",
                remedy="recommencez avec `force`",
            )
        file = path.open("r+b")
        file.truncate(size)
        file.seek(size)
        return file

    def _finish_shard(self) -> None:
        assert self._file is not None  # noqa: S101 — appelé fragment ouvert
        self._file.seek(0)
        self._file.write(header(self._tokens))
        self.flush()
        self._file.close()
        self._file = None
        entry = ShardEntry(
            name=self._name,
            tokens=self._tokens,
            documents=self._documents,
            sha256=file_sha256(self._folder / self._name),
        )
        self.shards.append(entry)
        self._tokens = self._documents = 0


def open_writers(
    folder: Path | str, *, shard_tokens: int, eos_id: int, state: Mapping[str, Any] | None
) -> dict[Split, ShardWriter]:
    """Un `ShardWriter` par part ; `state` : ce que leur `flush` a rendu, par part."""
    return {
        split: ShardWriter(
            folder,
            split,
            shard_tokens=shard_tokens,
            eos_id=eos_id,
            state=None if state is None else state[split],
        )
        for split in SPLITS
    }


def check_parts(entries: Mapping[Split, Sequence[ShardEntry]]) -> None:
    """Vérifie qu'aucune part n'est vide.

    Raises:
        DataError: l'une l'est.
    """
    for split, shards in entries.items():
        if not shards:
            raise DataError(
                f"la part de {SPLIT_NAMES[split]} n'a aucun token",
                expected="au moins un mot dans chaque part",
                remedy="donnez plus de texte",
            )


def index_of(
    identity: Mapping[str, Any],
    tokenizer: Tokenizer,
    entries: Mapping[Split, Sequence[ShardEntry]],
    *,
    text_bytes: int,
    single_document: bool,
    separated: int,
    skipped: Mapping[str, Any],
    origins: Sequence[Sequence[Any]] = (),
) -> dict[str, Any]:
    """L'index de fragments écrits en entier.

    Args:
        identity: ce qui distingue cette préparation : réglages, sources, `tokenizer_sha256`.
        tokenizer: celui qui a codé.
        entries: les fragments de chaque part, dans l'ordre.
        text_bytes: octets UTF-8 du texte codé.
        single_document: un seul document, coupé par position.
        separated: voir `Tally`, comme `skipped` et `origins`.
    """
    settings = dict(identity)
    return {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "tokenizer": tokenizer.to_dict(),
        "tokenizer_sha256": settings.pop("tokenizer_sha256"),
        "vocab_size": tokenizer.vocab_size,
        "splits": {
            split: {
                "tokens": sum(entry.tokens for entry in shards),
                "documents": sum(entry.documents for entry in shards),
                "shards": [asdict(entry) for entry in shards],
            }
            for split, shards in entries.items()
        },
        "text_bytes": text_bytes,
        "single_document": single_document,
        "sources": settings.pop("sources"),
        "separated": separated,
        "skipped": dict(skipped),
        "origins": [list(each) for each in origins],
        "settings": settings,
    }
