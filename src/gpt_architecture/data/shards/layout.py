"""Un dossier de fragments de tokens, sans PyTorch : en-têtes, index, empreintes.

Un fragment est un fichier `.bin` de llm.c, build-nanogpt et modded-nanogpt : 256 entiers
int32 petit-boutistes (nombre magique, version, nombre de tokens, puis des zéros), suivis des
tokens en uint16.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt_architecture.config import check_int
from gpt_architecture.data.texts.documents import Split
from gpt_architecture.errors import DataError, reason, shown
from gpt_architecture.storage import is_folder, open_regular, read_json

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN_DTYPE = np.dtype("<u2")
MAX_VOCABULARY = 1 << 16
MAX_SHARD_TOKENS = 2**31 - 1
"""Le nombre de tokens d'un fragment tient dans un int32."""

INDEX_NAME = "index.json"
INDEX_FORMAT = "gpt-architecture/token-shards"
INDEX_VERSION = 1
MAX_JSON_BYTES = 256 << 20
PROVENANCE_NAME, PROVENANCE_STATE = "provenance.json", "provenance.etat.json"
"""L'index du texte d'entraînement, et celui qui se construit ; voir `data.provenance`."""


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
    return is_folder(path) and ((path / INDEX_NAME).is_file() or any(path.glob("*.bin")))


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
        index = read_json(path, MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        raise DataError.unreadable(
            path,
            error,
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
    except DataError:
        raise
    except (KeyError, TypeError, ValueError):
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


def identity_of_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Ce qui distingue la préparation qui a écrit cet index."""
    return {
        **index.get("settings", {}),
        "tokenizer_sha256": index.get("tokenizer_sha256"),
        "sources": index.get("sources"),
    }
