"""Un document : nettoyé, rangé dans une part, coupé en morceaux que le tokenizer avale.

Ces règles sont celles de `data.corpus.decode_text`, mais en flux et sans arrêter le travail :
un document qui ne convient pas est écarté avec sa raison.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt_architecture.data.shard_layout import Split

EMPTY = "vide"
BAD_UTF8 = "UTF-8 invalide"
NUL_BYTE = "octet nul"
BAD_JSON = "JSON invalide"
NO_FIELD = "champ absent"
NOT_TEXT = "champ qui n'est pas du texte"
TOO_LONG = "ligne trop longue"
UNREADABLE = "fichier illisible"
UNKNOWN_KIND = "extension inconnue"
REPEATED = "fichier déjà donné"

PIECE_CHARACTERS = 1 << 20
_MAX_RUN = 1 << 14  # un « mot » plus long coûterait plus que sa longueur au BPE
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{_MAX_RUN + 1}}}|(?<!\s)\s{{{_MAX_RUN + 1}}}")
_RUN = re.compile(r"\S+|\s+")
_LAST_BOUNDARY = re.compile(r".*(?:\S(?=[ \t])|[^\W_](?=\n))", re.DOTALL)
_LAST_LINE_END = re.compile(r".*\S(?=\n)", re.DOTALL)


class Rejected(Exception):
    """Un document ou un fichier écarté : `reason`, commune, et `detail`, propre à lui."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Ce qui a été écarté : la raison, et où."""

    reason: str
    where: str

    @classmethod
    def of(cls, rejected: Rejected, where: str) -> Skip:
        """Situe un rejet."""
        suffix = f" ({rejected.detail})" if rejected.detail else ""
        return cls(reason=rejected.reason, where=f"{where}{suffix}")


def decode_stream(chunks: Iterable[bytes]) -> Iterator[str]:
    """Octets UTF-8 → texte, au fil de l'eau : BOM retiré, CRLF et CR remplacés par LF.

    Raises:
        Rejected: octet invalide, octet nul, UTF-16, ou rien que des blancs.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset, blank, first = 0, True, True
    for chunk in chunks:
        if offset == 0 and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Rejected(BAD_UTF8, "marque UTF-16")
        if b"\0" in chunk:
            raise Rejected(NUL_BYTE, f"position {offset + chunk.index(0)}")
        pending = len(utf8.getstate()[0])
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            position = offset - pending + error.start
            raise Rejected(BAD_UTF8, f"position {position}") from None
        offset += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        blank = blank and not text.strip()
        if text:
            yield text
    try:
        last = decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise Rejected(BAD_UTF8, f"coupé à la position {offset}") from None
    if blank and not last.strip():
        raise Rejected(EMPTY)
    if last:
        yield last


def clean_bytes(data: bytes) -> str:
    """Un document entier en mémoire, par `decode_stream`.

    Raises:
        Rejected: il ne convient pas.
    """
    return "".join(decode_stream([data]))


def json_field(line: bytes, field: str) -> str:
    """Le texte du champ `field` d'une ligne JSON, nettoyé comme un fichier.

    Raises:
        Rejected: la ligne ou le champ ne convient pas.
    """
    try:
        row = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Rejected(BAD_UTF8, f"octet {error.start} de la ligne") from None
    except json.JSONDecodeError as error:
        raise Rejected(BAD_JSON, f"colonne {error.colno}") from None
    except (ValueError, RecursionError):  # un entier ou une imbrication démesurés
        raise Rejected(BAD_JSON) from None
    if not isinstance(row, dict) or field not in row:
        raise Rejected(NO_FIELD, field)
    value = row[field]
    if not isinstance(value, str):
        raise Rejected(NOT_TEXT, f"{field} : {type(value).__name__}")
    try:
        return clean_bytes(value.encode("utf-8"))
    except UnicodeEncodeError:  # "\ud800" : la moitié d'une paire
        raise Rejected(BAD_UTF8, "demi-codet isolé") from None


class DocumentHash:
    """Empreinte d'un document et de la graine ; elle décide de sa part.

    Deux documents de même texte vont dans la même part : rien de la validation n'est appris.
    """

    def __init__(self, seed: int) -> None:
        self._digest = hashlib.sha256(seed.to_bytes(8, "little"))

    def update(self, text: str) -> None:
        """Ajoute un morceau du document."""
        self._digest.update(text.encode("utf-8"))

    def value(self) -> int:
        """Entier de 64 bits, uniforme."""
        return int.from_bytes(self._digest.digest()[:8], "little")


def split_of(value: int, val_fraction: float) -> Split:
    """La part d'un document, depuis `DocumentHash.value`."""
    return "val" if value < int(val_fraction * 2**64) else "train"


def cut_pieces(chunks: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Recoupe un texte en morceaux d'environ `size` caractères, juste avant un blanc.

    Aucun mot n'enjambe un blanc qui suit un autre caractère : les tokens des morceaux sont ceux du
    texte entier. Le découpage moderne fait exception, qui joint un signe aux fins de ligne qui le
    suivent : une fin de ligne ne sert que si rien d'autre ne convient, ou après une lettre. Sans
    blanc, la coupe tombe entre deux caractères.
    """
    pending = ""
    for chunk in chunks:
        pending += chunk
        while len(pending) >= size:
            cut = last_boundary(pending, size)
            yield pending[:cut]
            pending = pending[cut:]
    if pending:
        yield pending


def last_boundary(text: str, limit: int) -> int:
    """La dernière coupure sûre de `text` dans ]0, limit] ; `limit` s'il n'y en a pas."""
    end = limit + 1
    found = _LAST_BOUNDARY.match(text, 0, end) or _LAST_LINE_END.match(text, 0, end)
    return found.end() if found else limit


def short_runs(text: str) -> Iterator[str]:
    """Coupe un texte pour qu'aucune suite sans blanc, ou de blancs, ne soit démesurée."""
    if not _LONG_RUN.search(text):
        yield text
        return
    start = 0
    for run in _RUN.finditer(text):
        while run.end() - max(start, run.start()) > _MAX_RUN:
            cut = max(start, run.start()) + _MAX_RUN
            yield text[start:cut]
            start = cut
    if start < len(text):
        yield text[start:]
