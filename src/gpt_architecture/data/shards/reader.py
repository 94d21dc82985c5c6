"""Lecture des tokens : fragments projetés en mémoire, ou suite déjà en mémoire.

Deux réalisations d'un même protocole, `TokenSource`. Rien n'est chargé d'avance : un corpus
plus grand que la mémoire se lit comme un petit.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import GPT_CONFIG_124M, check_int
from gpt_architecture.data.shards.layout import (
    HEADER_BYTES,
    INDEX_NAME,
    MAX_VOCABULARY,
    TOKEN_DTYPE,
    bad_shard,
    combined_sha256,
    file_sha256,
    index_entries,
    read_header,
    read_index,
)
from gpt_architecture.data.texts.documents import SPLIT_NAMES, SPLITS, Split
from gpt_architecture.errors import ConfigurationError, DataError, reason
from gpt_architecture.storage import check_regular

_SCAN_TOKENS = 1 << 22  # 8 Mio lus à la fois
_MAX_OPEN_MAPS = 256  # une projection garde un descripteur ; FineWeb a plus de mille fragments


class TokenSource(Protocol):
    """Une longue suite de tokens, lue par morceaux."""

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens."""
        ...

    @property
    def sha256(self) -> str:
        """Identité du contenu, en hexadécimal."""
        ...

    def read(self, start: int, length: int) -> Tensor:
        """Les tokens [start, start + length[ : (length,) int64.

        Raises:
            DataError: le morceau sort de la suite.
        """
        ...


class TokenArray:
    """Une `TokenSource` en mémoire, copie des identifiants donnés.

    Args:
        ids: identifiants, entiers ≥ 0, à une dimension.

    Raises:
        DataError: suite vide, ou autre chose que des entiers ≥ 0.
    """

    def __init__(self, ids: Sequence[int] | NDArray[Any]) -> None:
        values = np.asarray(ids)
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
            raise DataError(
                f"tokens de forme {values.shape} et de type {values.dtype}",
                expected="une suite non vide d'entiers",
                remedy="donnez les identifiants que rend le tokenizer",
            )
        if int(values.min()) < 0:
            raise DataError(
                f"identifiant de token {int(values.min())}",
                expected="des entiers ≥ 0",
                remedy="donnez les identifiants que rend le tokenizer",
            )
        small = int(values.max()) < MAX_VOCABULARY
        self._ids = values.astype(TOKEN_DTYPE if small else np.int64)  # toujours une copie

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens."""
        return self._ids.size

    @cached_property
    def sha256(self) -> str:
        """Empreinte des identifiants en int64 petit-boutistes."""
        digest = hashlib.sha256()
        for start in range(0, self._ids.size, _SCAN_TOKENS):
            digest.update(self._ids[start : start + _SCAN_TOKENS].astype("<i8").tobytes())
        return digest.hexdigest()

    def read(self, start: int, length: int) -> Tensor:
        """Voir `TokenSource.read`."""
        check_range(start, length, self.num_tokens)
        return torch.from_numpy(self._ids[start : start + length].astype(np.int64))


class TokenShards:
    """Une part d'un dossier de fragments, projetée en mémoire et en lecture seule ; `open_shards`.

    Attributes:
        path: le dossier.
        split: la part, `train` ou `val`.
        vocab_size: borne vérifiée des identifiants (exclue).
        tokenizer: description du tokenizer (`Tokenizer.to_dict`), ou None sans index.
    """

    def __init__(self, path: Path | str, split: Split, vocab_size: int | None) -> None:
        path = Path(path)
        self.path, self.split = path, split
        self.vocab_size: int = vocab_size or GPT_CONFIG_124M["vocab_size"]
        self.tokenizer: dict[str, Any] | None = None
        self._entries = []
        if (path / INDEX_NAME).exists():
            index = read_index(path)
            self.tokenizer = index["tokenizer"]
            self.vocab_size = min(index["vocab_size"], vocab_size or MAX_VOCABULARY)
            self._entries = index_entries(index, split)
            self._names = [entry.name for entry in self._entries]
        else:
            self._names = _names_of(path, split)
        if not self._names:
            raise DataError(
                f"aucun fragment de {SPLIT_NAMES[split]} dans {path}",
                expected=f"au moins un fichier *_{split}_*.bin",
                remedy="préparez plus de documents, ou ajoutez ces fragments",
            )
        self._counts = [read_header(path / name) for name in self._names]
        for entry, count in zip(self._entries, self._counts, strict=False):
            if entry.tokens != count:
                raise bad_shard(
                    path / entry.name,
                    f"{count} tokens",
                    expected=f"{entry.tokens}, comme le dit {INDEX_NAME}",
                    remedy="recopiez ce fragment ou refaites le dossier",
                )
        self._starts = [0, *accumulate(self._counts)]
        self._maps: dict[int, NDArray[np.uint16]] = {}
        self._scan()

    @property
    def num_tokens(self) -> int:
        """Nombre de tokens de la part."""
        return self._starts[-1]

    @property
    def files(self) -> list[tuple[Path, int]]:
        """Ses fragments, dans l'ordre, et leurs tokens."""
        return [
            (self.path / name, count) for name, count in zip(self._names, self._counts, strict=True)
        ]

    @cached_property
    def sha256(self) -> str:
        """Identité de la part : les empreintes de ses fichiers, dans l'ordre.

        L'index les donne ; sans lui, les fichiers sont lus une fois, à la première demande.
        """
        if self._entries:
            return combined_sha256(entry.sha256 for entry in self._entries)
        return combined_sha256(file_sha256(self.path / name) for name in self._names)

    def read(self, start: int, length: int) -> Tensor:
        """Les tokens [start, start + length[, à travers les fragments : (length,) int64.

        Raises:
            DataError: le morceau sort de la part.
        """
        check_range(start, length, self.num_tokens)
        out = np.empty(length, dtype=np.int64)
        done = 0
        shard = bisect_right(self._starts, start) - 1
        while done < length:
            local = start + done - self._starts[shard]
            count = min(length - done, self._counts[shard] - local)
            out[done : done + count] = self._map(shard)[local : local + count]
            done += count
            shard += 1
        return torch.from_numpy(out)

    def verify(self) -> None:
        """Relit chaque fragment et compare son empreinte à celle de l'index, s'il y en a un.

        Raises:
            DataError: le contenu d'un fragment a changé.
        """
        for entry in self._entries:
            if file_sha256(self.path / entry.name) != entry.sha256:
                raise bad_shard(
                    self.path / entry.name,
                    "contenu changé depuis sa préparation",
                    expected=f"sha256 {entry.sha256}",
                    remedy="recopiez-le depuis une source sûre ou refaites "
                    "« gpt-architecture prepare … --force »",
                )

    def _map(self, shard: int) -> NDArray[np.uint16]:
        if shard not in self._maps:
            if len(self._maps) >= _MAX_OPEN_MAPS:
                self._maps.clear()
            path = self.path / self._names[shard]
            self._maps[shard] = _map_tokens(path, self._counts[shard])
        return self._maps[shard]

    def _scan(self) -> None:
        """Cherche, par morceaux, un identifiant hors du vocabulaire."""
        if self.vocab_size >= MAX_VOCABULARY:
            return
        for name, count in zip(self._names, self._counts, strict=True):
            tokens = _map_tokens(self.path / name, count)
            for start in range(0, count, _SCAN_TOKENS):
                chunk = tokens[start : start + _SCAN_TOKENS]
                if int(chunk.max()) >= self.vocab_size:
                    position = start + int(np.argmax(chunk >= self.vocab_size))
                    raise bad_shard(
                        self.path / name,
                        f"identifiant {int(tokens[position])} au "
                        f"token {position} (octet {HEADER_BYTES + 2 * position})",
                        expected=f"des identifiants de 0 à {self.vocab_size - 1}",
                        remedy="prenez le vocabulaire qui a servi à coder, ou une copie intacte",
                    )


def open_shards(path: Path | str, split: Split, *, vocab_size: int | None = None) -> TokenShards:
    """Ouvre une part d'un dossier de fragments et vérifie tout ce qui peut l'être.

    Le dossier vient de `gpt-architecture prepare`, ou contient des fragments à la façon de
    llm.c : le nom de chaque fichier `.bin` dit alors sa part (`fineweb_train_000001.bin`).

    Args:
        path: dossier des fragments.
        split: `train` ou `val`.
        vocab_size: borne des identifiants (exclue) ; None : celle de l'index, ou de GPT-2.

    Raises:
        DataError: dossier ou fragment absent, vide, abîmé, ou identifiant hors du vocabulaire ;
            le message nomme le fragment.
        ConfigurationError: `split` ou `vocab_size` invalide.
    """
    folder = Path(path)
    if split not in SPLITS:
        raise ConfigurationError(
            f"part {split!r}", expected=" ou ".join(SPLITS), remedy="corrigez la part demandée"
        )
    if vocab_size is not None:
        check_int("vocab_size", vocab_size, minimum=1)
    if not folder.is_dir():
        raise DataError(
            f"dossier de tokens introuvable : {folder}",
            expected="un dossier écrit par « gpt-architecture prepare » ou des fragments de llm.c",
            remedy="corrigez le chemin ou préparez d'abord le texte",
        )
    return TokenShards(folder, split, vocab_size)


def _names_of(folder: Path, split: Split) -> list[str]:
    """Les `.bin` dont le nom contient le mot `train` ou `val` ; le dernier des deux décide."""
    names = []
    for path in sorted(folder.glob("*.bin")):
        words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLITS]
        if words and words[-1] == split and not path.name.startswith("."):
            names.append(path.name)
    return names


def _map_tokens(path: Path, count: int) -> NDArray[np.uint16]:
    """Les tokens d'un fragment, projetés en mémoire : (count,) uint16."""
    try:
        check_regular(path)
        return np.memmap(path, dtype=TOKEN_DTYPE, mode="r", offset=HEADER_BYTES, shape=(count,))
    except (OSError, ValueError) as error:  # ValueError : le fichier a rétréci depuis l'ouverture
        raise bad_shard(
            path,
            reason(error),
            expected="le fichier vérifié à l'ouverture",
            remedy="ne modifiez pas ce dossier pendant qu'il sert",
        ) from None


def check_range(start: int, length: int, num_tokens: int) -> None:
    """Vérifie que [start, start + length[ est dans une suite de `num_tokens` tokens.

    Raises:
        DataError: il en sort.
    """
    if start < 0 or length < 0 or start + length > num_tokens:
        raise DataError(
            f"lecture des tokens [{start}, {start + length}[",
            expected=f"un morceau de [0, {num_tokens}[",
            remedy="corrigez la fenêtre demandée",
        )
