"""Les fragments de tokens sur disque, sans PyTorch : en-tête, index, empreintes, écriture.

Un fragment est un fichier `.bin` de llm.c, build-nanogpt et modded-nanogpt : 256 entiers
int32 petit-boutistes (nombre magique, version, nombre de tokens, puis des zéros), suivis des
tokens en uint16. Leur écriture se reprend à chaque point sûr : `ShardWriter.state` décrit ce que
`flush` a mis sur disque, et un `ShardWriter` bâti de cet état efface ce qui l'a suivi.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.config import check_int
from gpt_architecture.errors import DataError, reason, shown
from gpt_architecture.storage import open_regular, read_json

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN_DTYPE = np.dtype("<u2")
MAX_VOCABULARY = 1 << 16
MAX_SHARD_TOKENS = 2**31 - 1
"""Le nombre de tokens d'un fragment tient dans un int32."""

INDEX_NAME = "index.json"
INDEX_FORMAT = "gpt-architecture/token-shards"
INDEX_VERSION = 1
_MAX_INDEX_BYTES = 256 << 20

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
SPLIT_NAMES: dict[Split, str] = {"train": "entraînement", "val": "validation"}


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """Un fragment, tel que l'index le décrit.

    Attributes:
        name: nom du fichier, sans dossier.
        tokens: nombre de tokens.
        documents: nombre de documents qui y commencent.
        sha256: empreinte du fichier entier, en hexadécimal.
    """

    name: str
    tokens: int
    documents: int
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name != Path(self.name).name or not self.name:
            raise _bad_index(f"le nom de fragment {shown(self.name)}")
        check_int(f"tokens de {self.name}", self.tokens, minimum=1, maximum=MAX_SHARD_TOKENS)
        check_int(f"documents de {self.name}", self.documents, minimum=0)
        if not isinstance(self.sha256, str) or len(self.sha256) != 64:
            raise _bad_index(f"l'empreinte de {self.name}")


def header(tokens: int) -> bytes:
    """Les 1024 octets d'en-tête d'un fragment de `tokens` tokens."""
    check_int("tokens", tokens, minimum=1, maximum=MAX_SHARD_TOKENS)
    return struct.pack("<3i", MAGIC, VERSION, tokens).ljust(HEADER_BYTES, b"\0")


def read_header(path: Path | str) -> int:
    """Nombre de tokens d'un fragment, après vérification de l'en-tête et de la taille.

    Raises:
        DataError: fichier absent, vide, tronqué, ou d'un autre format.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            start = file.read(HEADER_BYTES)
    except OSError as error:
        raise bad_shard(path, reason(error), expected="un fichier de tokens lisible") from None
    if len(start) < HEADER_BYTES:
        expected = f"au moins les {HEADER_BYTES} octets d'en-tête"
        raise bad_shard(path, f"{size} octets", expected=expected)
    magic, version, tokens = struct.unpack_from("<3i", start)
    if (magic, version) != (MAGIC, VERSION):
        expected = f"{MAGIC} et {VERSION}, des tokens en uint16 comme llm.c les écrit"
        raise bad_shard(path, f"nombre magique {magic}, version {version}", expected=expected)
    if tokens < 1:
        raise bad_shard(path, f"{tokens} token annoncé", expected="au moins un token")
    wanted = HEADER_BYTES + tokens * TOKEN_DTYPE.itemsize
    if size != wanted:
        state = "tronqué" if size < wanted else "trop long"
        found = f"{size} octets pour {tokens} tokens annoncés"
        raise bad_shard(f"{path} {state}", found, expected=f"{wanted} octets")
    return int(tokens)


def holds_shards(path: Path | str) -> bool:
    """Vrai pour un dossier de fragments : il a notre index, ou des `.bin` à la façon de llm.c."""
    path = Path(path)
    return path.is_dir() and ((path / INDEX_NAME).is_file() or any(path.glob("*.bin")))


def file_sha256(path: Path | str) -> str:
    """Empreinte d'un fichier, lu par morceaux.

    Raises:
        DataError: fichier illisible.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError.unreadable(path, error, expected="un fichier lisible") from None


def tokenizer_sha256(description: Mapping[str, Any]) -> str:
    """Empreinte de `Tokenizer.to_dict()`, indépendante de l'ordre des clés."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def combined_sha256(hashes: Iterable[str]) -> str:
    """Empreinte d'une suite de fichiers, depuis leurs empreintes dans l'ordre."""
    return hashlib.sha256("\n".join(hashes).encode("ascii")).hexdigest()


def read_index(folder: Path | str) -> dict[str, Any]:
    """L'index d'un dossier de fragments, vérifié en surface.

    Raises:
        DataError: index illisible, d'un autre format, ou dont le tokenizer a été changé.
    """
    folder = Path(folder)
    path = folder / INDEX_NAME
    try:
        index = read_json(path, _MAX_INDEX_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} est illisible : {reason(error)}",
            expected="l'index écrit par « gpt-architecture prepare »",
            remedy="refaites ce dossier avec `force`",
        ) from None
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        raise _bad_index(f"le format de {path}")
    if index.get("version") != INDEX_VERSION:
        raise _bad_index(f"la version {shown(index.get('version'))} de {path}")
    tokenizer = index.get("tokenizer")
    if not isinstance(tokenizer, dict) or (
        index.get("tokenizer_sha256") != tokenizer_sha256(tokenizer)
    ):
        raise _bad_index(f"le tokenizer de {path}")
    vocab_size = index.get("vocab_size")
    if type(vocab_size) is not int or not 1 <= vocab_size <= MAX_VOCABULARY:
        raise _bad_index(f"le vocabulaire ({shown(vocab_size)}) de {path}")
    return index


def index_entries(index: Mapping[str, Any], split: Split) -> list[ShardEntry]:
    """Les fragments d'une part, dans l'ordre.

    Raises:
        DataError: la part est mal décrite.
    """
    try:
        shards = index["splits"][split]["shards"]
        return [ShardEntry(**shard) for shard in shards]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _bad_index(f"la description de la part {split}") from None


def bad_shard(
    path: Path | str,
    found: str,
    *,
    expected: str,
    remedy: str = "recopiez ce fragment depuis sa source ou refaites « gpt-architecture prepare »",
) -> DataError:
    """Le refus d'un fragment, désigné par son chemin."""
    return DataError(f"fragment {path} : {found}", expected=expected, remedy=remedy)


def _bad_index(what: str) -> DataError:
    return DataError(
        f"{what} ne convient pas",
        expected=f"un index {INDEX_FORMAT} en version {INDEX_VERSION}",
        remedy="refaites ce dossier avec « gpt-architecture prepare … --force »",
    )


class ShardWriter:
    """Ajoute des tokens à la suite, et commence un fragment quand le précédent est plein.

    Args:
        folder: dossier existant.
        split: part, début du nom des fichiers.
        shard_tokens: tokens d'un fragment plein.
        eos_id: token qui précède chaque document ; il les compte.
        state: rendu par `state()` avant une interruption ; None : rien n'est écrit.

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
        state: Mapping[str, Any] | None = None,
    ) -> None:
        folder = Path(folder)
        self._folder = folder
        self._split = split
        self._shard_tokens = shard_tokens
        self._eos_id = eos_id
        state = state or {"shards": [], "tokens": 0, "documents": 0}
        self.shards = [ShardEntry(**entry) for entry in state["shards"]]
        self._tokens: int = state["tokens"]
        self._documents: int = state["documents"]
        kept = {entry.name for entry in self.shards} | ({self._name} if self._tokens else set())
        for path in folder.glob(f"{split}_*.bin"):
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

    def flush(self) -> None:
        """Vide le fragment en cours sur disque."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Termine le fragment en cours."""
        if self._file is not None:
            self._finish_shard()

    def abandon(self) -> None:
        """Ferme le fichier sans terminer le fragment ; ce qui reste à écrire peut être perdu."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:  # disque plein : l'erreur d'origine suit son cours
                return

    def state(self) -> dict[str, Any]:
        """Ce qui est écrit, en types simples."""
        return {
            "shards": [asdict(entry) for entry in self.shards],
            "tokens": self._tokens,
            "documents": self._documents,
        }

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
        name = self._name
        entry = ShardEntry(
            name=name,
            tokens=self._tokens,
            documents=self._documents,
            sha256=file_sha256(self._folder / name),
        )
        self.shards.append(entry)
        self._tokens = self._documents = 0
