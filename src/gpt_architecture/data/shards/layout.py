"""Un dossier de fragments de tokens, sans PyTorch : en-têtes, index, empreintes, travail en cours.

Un fragment est un fichier `.bin` de llm.c, build-nanogpt et modded-nanogpt : 256 entiers
int32 petit-boutistes (nombre magique, version, nombre de tokens, puis des zéros), suivis des
tokens en uint16. Une préparation travaille dans `DIR.incomplete`, qui devient `DIR`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gpt_architecture.config import check_int
from gpt_architecture.data.texts.documents import Split
from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.errors import DataError, OutputError, reason, shown
from gpt_architecture.storage import (
    NotAFileError,
    is_folder,
    open_regular,
    read_json,
    sweep,
    sync,
)

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN_DTYPE = np.dtype("<u2")
MAX_VOCABULARY = 1 << 16
MAX_SHARD_TOKENS = 2**31 - 1
"""Le nombre de tokens d'un fragment tient dans un int32."""

INDEX_NAME = "index.json"
INDEX_FORMAT = "gpt-architecture/token-shards"
INDEX_VERSION = 1
STATE_NAME = "etat.json"
STATE_VERSION = 2
_MAX_JSON_BYTES = 256 << 20
WORK_NAME = "hygiene.travail"
"""Sous-dossier des fichiers de travail de l'hygiène ; il n'est jamais dans le dossier final."""
_LOCK_NAME = ".verrou"
_OURS = re.compile(
    rf"(train|val)_\d{{6,}}\.bin|\.?({re.escape(INDEX_NAME)}|{re.escape(STATE_NAME)})(\.tmp)?"
    rf"|{re.escape(_LOCK_NAME)}"
)


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
        index = read_json(path, _MAX_JSON_BYTES)
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


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Les réglages qui diffèrent : « seed 1 → 2, sources »."""
    parts = []
    for key in {**now, **before}:
        old, new = before.get(key), now.get(key)
        if old != new:
            simple = key not in ("sources", "tokenizer_sha256", "hygiene")
            parts.append(f"{key} {old} → {new}" if simple else key.split("_")[0])
    return ", ".join(parts)


def read_present(
    out: Path | str, identity: Mapping[str, Any], *, force: bool
) -> dict[str, Any] | None:
    """L'index de `out` s'il vient de la même préparation ; None s'il faut préparer.

    Args:
        out: le dossier demandé.
        identity: ce qui distingue la préparation demandée.
        force: un dossier déjà préparé sera remplacé.

    Raises:
        OutputError: d'autres réglages, d'autres sources, ou autre chose qu'une préparation :
            rien n'y sera effacé, même avec `force`.
        DataError: son index est illisible.
    """
    out = Path(out)
    if not out.exists():
        return None
    if not out.is_dir():
        foreign: str | None = "n'est pas un dossier"
    elif any(out.iterdir()) and not (out / INDEX_NAME).exists():
        foreign = f"n'a pas de {INDEX_NAME}"
    else:
        name = _foreign(out)
        foreign = name and f"contient {name}"
    if foreign:
        raise OutputError(
            f"{out} existe et {foreign}",
            expected="un dossier absent, vide, ou déjà préparé",
            remedy="changez de dossier",
        )
    if force or not (out / INDEX_NAME).exists():
        return None
    present = read_index(out)
    changed = differences(identity_of_index(present), identity)
    if changed:
        raise OutputError(
            f"{out} est déjà préparé avec d'autres réglages ({changed})",
            expected="les mêmes réglages, ou un dossier libre",
            remedy="ajoutez `force` pour le remplacer, ou changez de dossier",
        )
    return present


class WorkFolder:
    """`DIR.incomplete`, verrouillé tant que le bloc `with` dure.

    Attributes:
        path: le dossier de travail.
        identity: ce qui distingue cette préparation.
        state: ce que le dernier point sûr a enregistré, ou None.
        resumed: une préparation interrompue est continuée.

    Raises:
        OutputError: une autre préparation y écrit, ou y a laissé un travail d'autres réglages.
    """

    def __init__(self, out: Path | str, identity: Mapping[str, Any], *, force: bool) -> None:
        out = Path(out)
        self.path = out.with_name(f"{out.name}.incomplete")
        self.identity = dict(identity)
        self.state: dict[str, Any] | None = None
        self.resumed = False
        self._out = out
        self._force = force
        self._lock = FileLock(self.path / _LOCK_NAME, timeout=0)

    def __enter__(self) -> WorkFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise OutputError(
                f"une autre préparation écrit dans {self.path}",
                expected="une seule à la fois",
                remedy="attendez sa fin ou changez de dossier",
            ) from None
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        # Une erreur avant d'avoir rien écrit ne laisse pas de dossier vide
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {_LOCK_NAME}:
            (self.path / _LOCK_NAME).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.release()

    def finished_index(self) -> dict[str, Any] | None:
        """L'index, si la préparation était finie et qu'il ne restait qu'à renommer."""
        return read_index(self.path) if (self.path / INDEX_NAME).exists() else None

    def restart(self) -> None:
        """Vide le dossier, et n'y laisse que son identité : ce travail ne reprend pas en route."""
        _clear(self.path)
        self.save_state({})

    def save_state(self, progress: Mapping[str, Any]) -> None:
        """Enregistre un point sûr ; ce qu'il décrit est déjà sur disque."""
        state = {"version": STATE_VERSION, "identity": self.identity, **progress}
        write_json(self.path / STATE_NAME, state, indent=1)

    def publish(self, index: dict[str, Any]) -> None:
        """Écrit l'index, puis fait du dossier de travail le dossier final."""
        write_json(self.path / INDEX_NAME, index, indent=1)
        (self.path / STATE_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.path / WORK_NAME, ignore_errors=True)
        if self._out.is_dir():
            if self._force:
                _clear(self._out)
            self._out.rmdir()  # refuse s'il contient quoi que ce soit
        self.path.rename(self._out)
        (self._out / _LOCK_NAME).unlink(missing_ok=True)
        sync(self._out)
        sync(self._out.parent)

    def _recover(self) -> None:
        """Trouve de quoi reprendre ; sinon vide le dossier de travail."""
        sweep(self.path)
        foreign = _foreign(self.path, but=WORK_NAME)
        if foreign:
            raise OutputError(
                f"{self.path} contient {foreign}",
                expected="un dossier de travail de « gpt-architecture prepare »",
                remedy="déplacez ce fichier ou changez de dossier",
            )
        before = self._previous_identity()
        changed = "" if before is None else differences(before, self.identity)
        if before is None or (changed and self._force):
            self.state = None
            _clear(self.path)
            if (self.path / WORK_NAME).exists():
                shutil.rmtree(self.path / WORK_NAME)
        elif changed:
            raise OutputError(
                f"{self.path} contient une préparation interrompue, d'autres réglages ({changed})",
                expected="les mêmes réglages pour la reprendre",
                remedy="ajoutez `force` pour recommencer, ou changez de dossier",
            )
        else:
            self.resumed = True

    def _previous_identity(self) -> dict[str, Any] | None:
        if (self.path / INDEX_NAME).exists():
            return identity_of_index(read_index(self.path))
        try:
            self.state = _read_state(self.path)
        except OutputError:
            if not self._force:
                raise
        return None if self.state is None else dict(self.state["identity"])


def remove_idle(folder: Path | str) -> bool:
    """Efface un dossier de travail ; faux : une préparation y écrit, il reste."""
    folder = Path(folder)
    try:
        with FileLock(folder / _LOCK_NAME, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return False
    return True


def saved_identity(folder: Path | str) -> dict[str, Any] | None:
    """L'identité de la préparation interrompue d'un dossier de travail ; None : il n'y en a pas.

    Raises:
        OutputError: son état est illisible.
    """
    state = _read_state(Path(folder))
    return None if state is None else dict(state["identity"])


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        state = read_json(folder / STATE_NAME, _MAX_JSON_BYTES)
        if state["version"] == STATE_VERSION:
            dict(state["identity"])
            return dict(state)
    except FileNotFoundError:
        return None
    except (NotAFileError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"{folder / STATE_NAME} est illisible",
        expected="l'état d'une préparation interrompue",
        remedy="ajoutez `force` pour recommencer",
    )


def _foreign(folder: Path, but: str = "") -> str | None:
    """Le nom d'un élément qui ne vient pas d'une préparation ; `but` en vient aussi."""
    names = sorted(path.name for path in folder.iterdir() if path.name != but)
    return next((name for name in names if not _OURS.fullmatch(name)), None)


def _clear(folder: Path) -> None:
    """Efface les fichiers d'une préparation, l'index d'abord : le reste n'est plus lisible."""
    names = [INDEX_NAME, *(path.name for path in folder.iterdir())]
    for name in names:
        if _OURS.fullmatch(name) and name != _LOCK_NAME:
            (folder / name).unlink(missing_ok=True)
