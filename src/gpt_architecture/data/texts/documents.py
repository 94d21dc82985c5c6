"""Un document : nettoyé, rangé dans une part, coupé en morceaux que le tokenizer avale.

Ces règles sont celles de `storage.decode_text`, mais en flux et sans arrêter le travail : un
document qui ne convient pas est écarté avec sa raison. Partout dans un corpus, dans un fichier
comme dans un champ, `<|endoftext|>` sépare deux documents ; ce qui n'est que blanc n'en est pas un.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made_of
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.errors import DataError
from gpt_architecture.storage import encoding_remedy, foreign_format, likely_encoding

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
SPLIT_NAMES: dict[Split, str] = {"train": "entraînement", "val": "validation"}

EMPTY = "vide"
BAD_UTF8 = "UTF-8 invalide"
NOT_PLAIN = "fichier qui n'est pas du texte UTF-8"
NUL_BYTE = "octet nul"
BAD_JSON = "JSON invalide"
NO_FIELD = "champ absent"
NOT_TEXT = "champ qui n'est pas du texte"
TOO_LONG = "ligne trop longue"
UNREADABLE = "fichier illisible"
UNKNOWN_KIND = "extension inconnue"
MISNAMED = "contenu qui n'est pas celui de son extension"
NOT_READ = "format qui n'est pas lu ici"
LEFT_OUT = "document d'un format qui n'est pas lu"
REPEATED = "fichier déjà donné"

PIECE_CHARACTERS = 1 << 20
_LONGEST_RUN = 1 << 22  # caractères ; un « mot » plus long est coupé : il coûterait trop de mémoire
_SEARCHED = 1 << 14  # caractères où chercher la fin d'un mot que ne suit aucun blanc
_LAST_BOUNDARY = re.compile(r".*(?:\S(?=[ \t])|[^\W_](?=\n))", re.DOTALL)
_LAST_LINE_START = re.compile(r".*\S\n(?=\S)", re.DOTALL)

_PLACE = re.compile(r":\d+(?: \(.*)?$", re.DOTALL)
"""Ce qui suit le nom d'un fichier : la ligne, et ce qui lui est propre."""

_MAX_EXAMPLES, _PER_FILE = 5, 2
_MAX_EXAMPLE_CHARACTERS = 300

Where = tuple[str, int, int]
"""La place d'un document : sa source, sa ligne ou sa rangée (0 : tout le fichier), son rang là."""


HARMLESS = frozenset({EMPTY, UNKNOWN_KIND, LEFT_OUT, REPEATED})
"""Ce qui est laissé de côté sans rien arrêter ; toute autre raison est un défaut."""

_TEXT = "un texte lisible, en UTF-8"
_EXPECTED = {
    **{BAD_UTF8: _TEXT, NOT_PLAIN: _TEXT, NUL_BYTE: _TEXT},
    EMPTY: "du texte",
    BAD_JSON: "du JSON valide",
    NO_FIELD: "un champ de texte",
    NOT_TEXT: "un champ de texte",
    TOO_LONG: "des lignes plus courtes",
    MISNAMED: "le contenu que son nom annonce",
    NOT_READ: "un texte, un document ou une archive d'un format lu ici",
}

_SHOWN_FIELDS = 12


class Rejected(Exception):
    """Un document ou un fichier écarté.

    Args:
        reason: la raison, commune à d'autres.
        detail: ce qui lui est propre.
        remedy: ce qu'il faut faire ; vide : corriger le fichier.
    """

    def __init__(self, reason: str, detail: str = "", *, remedy: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.remedy = reason, detail, remedy

    @classmethod
    def no_field(cls, asked: str | None, names: Sequence[str]) -> Rejected:
        """Le champ demandé n'existe pas ; ou, sans demande, aucun n'est évident."""
        shown = ", ".join([*names[:_SHOWN_FIELDS], *["…"] * (len(names) > _SHOWN_FIELDS)])
        there = f"il y a {shown or 'aucun champ'}"
        cause = "aucun nom évident" if asked is None else asked
        return cls(NO_FIELD, f"{cause} ; {there}"[:300], remedy="nommez-le par `field`")


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Ce qui a été écarté : la raison, où, et ce qu'il faut faire, s'il y a mieux à dire."""

    reason: str
    where: str
    remedy: str = ""

    @classmethod
    def of(cls, rejected: Rejected, where: str) -> Skip:
        """Situe un rejet."""
        suffix = f" ({rejected.detail})" if rejected.detail else ""
        return cls(reason=rejected.reason, where=f"{where}{suffix}", remedy=rejected.remedy)

    def check(self, *, skip_bad: bool) -> None:
        """Vérifie que ce défaut, si c'en est un, peut être passé.

        Raises:
            DataError: c'en est un, et `skip_bad` est faux.
        """
        if not (skip_bad or self.reason in HARMLESS):
            raise self.error("ou écartez de tels textes par `skip_bad`")

    def error(self, *others: str) -> DataError:
        """L'erreur que c'est, quand il ne peut pas être passé ; `others` : d'autres remèdes."""
        return DataError(
            f"{self.where} : {self.reason}",
            expected=_EXPECTED.get(self.reason, "un fichier entier et lisible"),
            remedy=", ".join([self.remedy or "corrigez-le", *others]),
        )


@dataclass(kw_only=True)
class Tally:
    """Ce qui a été lu et écarté ; ses champs sont enregistrés à chaque point sûr d'une préparation.

    Attributes:
        done_bytes: octets de sources lus.
        text_bytes: octets UTF-8 du texte codé.
        separated: documents qui suivent un `<|endoftext|>` écrit dans leur texte.
        skipped: raison → {"count", "examples"} ; les premiers exemples, deux par fichier au plus.
        origins: [source, documents d'entraînement], dans l'ordre où ils sont écrits.
    """

    done_bytes: int = 0
    text_bytes: int = 0
    separated: int = 0
    skipped: dict[str, dict[str, Any]] = made_of(default_factory=dict)
    origins: list[list[Any]] = made_of(default_factory=list)

    def add(self, done: int, text: int, separated: int, skips: Iterable[Skip]) -> None:
        """Ajoute une tâche : octets lus, octets de texte, documents séparés, et écartés."""
        self.done_bytes += done
        self.text_bytes += text
        self.separated += separated
        self.add_skips(skips)

    def merge(self, separated: int, skipped: Mapping[str, Mapping[str, Any]]) -> None:
        """Ajoute ce que d'autres textes, qui suivent, ont de séparé et d'écarté."""
        self.separated += separated
        for reason, found in skipped.items():
            entry = self.skipped.setdefault(reason, {"count": 0, "examples": []})
            entry["count"] += found["count"]
            for each in found["examples"]:
                _add_example(entry["examples"], each)

    def add_origin(self, name: str, documents: int) -> None:
        """Ajoute des documents d'entraînement d'une source, qui suivent les précédents."""
        if documents and self.origins and self.origins[-1][0] == name:
            self.origins[-1][1] += documents
        elif documents:
            self.origins.append([name, documents])

    def add_skips(self, skips: Iterable[Skip]) -> None:
        """Compte ce qui a été écarté."""
        for skip in skips:
            entry = self.skipped.setdefault(skip.reason, {"count": 0, "examples": []})
            entry["count"] += 1
            _add_example(entry["examples"], skip.where)


def _add_example(examples: list[str], where: str) -> None:
    """Ajoute un exemple, s'il reste de la place et que son fichier n'en a pas déjà deux."""
    if len(examples) < _MAX_EXAMPLES:
        shown = printable(where)[:_MAX_EXAMPLE_CHARACTERS]
        files = [_PLACE.sub("", each) for each in examples]
        if files.count(_PLACE.sub("", shown)) < _PER_FILE:
            examples.append(shown)


def printable(name: str) -> str:
    """Un nom de fichier, où les octets qui ne sont pas de l'UTF-8 sont échappés."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def decode_stream(chunks: Iterable[bytes]) -> Iterator[str]:
    """Octets UTF-8 → texte, au fil de l'eau : BOM retiré, CRLF et CR remplacés par LF.

    Raises:
        Rejected: octet invalide, octet nul, autre format, ou rien que des blancs.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset, blank, first, accented = 0, True, True, False
    for chunk in chunks:
        if offset == 0 and (found := foreign_format(chunk)) is not None:
            raise Rejected(NOT_PLAIN, found[0], remedy=found[1])
        if b"\0" in chunk:
            raise Rejected(NUL_BYTE, f"position {offset + chunk.index(0)}")
        pending = utf8.getstate()[0]
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            place, read = f"position {offset - len(pending) + error.start}", pending + chunk
            if not accented and (encoding := likely_encoding(read)) is not None:
                place += f", sans doute en {encoding}"
            remedy = encoding_remedy(read, accented=accented)
            raise Rejected(BAD_UTF8, place, remedy=remedy) from None
        offset += len(chunk)
        accented = accented or not text.isascii()
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


def json_field(line: bytes, field: str | None) -> str:
    """Le texte du champ `field` d'une ligne JSON, nettoyé comme un fichier.

    Raises:
        Rejected: la ligne ou le champ ne convient pas ; sans champ, aucun n'était évident.
    """
    row = _json_row(line)
    if not isinstance(row, dict):
        raise Rejected(NO_FIELD, f"ce n'est pas un objet mais {type(row).__name__}")
    if field is None or field not in row:
        if isinstance(row.get("messages"), list):
            name = field or "text"
            raise Rejected(NO_FIELD, f"{name} ; la ligne est une conversation")
        raise Rejected.no_field(field, list(row))
    return _clean_value(row[field], field)


def _clean_value(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise Rejected(NOT_TEXT, f"{field} : {type(value).__name__}")
    try:
        return clean_bytes(value.encode("utf-8"))
    except UnicodeEncodeError:  # "\ud800" : la moitié d'une paire
        raise Rejected(BAD_UTF8, "demi-codet isolé") from None


def json_messages(line: bytes) -> list[str]:
    """Les textes des messages d'une ligne JSON `{"messages": [{"content": …}, …]}` ; [] sinon.

    Raises:
        Rejected: la ligne, ou l'un de ces textes, ne convient pas.
    """
    row = _json_row(line)
    messages = row.get("messages") if isinstance(row, dict) else None
    given = messages if isinstance(messages, list) else ()
    texts = [each.get("content") for each in given if isinstance(each, dict)]
    return [_clean_value(text, "content") for text in texts if text]


def _json_row(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Rejected(BAD_UTF8, f"octet {error.start} de la ligne") from None
    except json.JSONDecodeError as error:
        raise Rejected(BAD_JSON, f"colonne {error.colno}") from None
    except (ValueError, RecursionError):  # un entier ou une imbrication démesurés
        raise Rejected(BAD_JSON) from None


def documents_in(text: str) -> list[tuple[int, str]]:
    """Les documents d'un enregistrement, que `<|endoftext|>` sépare, et le rang de chacun.

    Raises:
        Rejected: rien que des blancs et des séparateurs.
    """
    found = [each for each in enumerate(text.split(END_OF_TEXT)) if each[1].strip()]
    if not found:
        raise Rejected(EMPTY)
    return found


def stream_documents(chunks: Iterable[bytes]) -> Iterator[tuple[int, Iterator[str]]]:
    """(Rang, morceaux) des documents d'un fichier texte, au fil de l'eau.

    Les rangs sont ceux de `documents_in` ; un document blanc est rendu, un vide ne l'est pas.

    Raises:
        Rejected: voir `decode_stream`.
    """
    for rank, group in groupby(split_documents(decode_stream(chunks)), key=itemgetter(0)):
        yield rank, (text for _, text in group)


def split_documents(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(Rang du document, morceau non vide) d'un texte, où que tombent les coupes des morceaux."""
    rank, pending = 0, ""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(END_OF_TEXT)
        for text in whole:
            if text:
                yield rank, text
            rank += 1
        held = next(n for n in range(len(END_OF_TEXT), -1, -1) if pending.endswith(END_OF_TEXT[:n]))
        ready = len(pending) - held
        if ready:
            yield rank, pending[:ready]
        pending = pending[ready:]
    if pending:
        yield rank, pending


def split_of(chunks: Iterable[str], *, seed: int, val_fraction: float) -> Split:
    """La part d'un document, tirée au hasard par son empreinte et la graine.

    Deux documents de même texte vont dans la même part : rien de la validation n'est appris.
    """
    digest = hashlib.sha256(seed.to_bytes(8, "little"))
    for chunk in chunks:
        digest.update(chunk.encode("utf-8"))
    drawn = int.from_bytes(digest.digest()[:8], "little")  # de 64 bits, uniforme
    return "val" if drawn < int(val_fraction * 2**64) else "train"


def is_sampled(text: str, fraction: float) -> bool:
    """Vrai d'un texte que garde un échantillon, tiré au hasard par son empreinte seule.

    Le tirage ne dépend donc ni de qui lit, ni de l'ordre, ni de la part du document.
    """
    digest = hashlib.sha256(b"echantillon\0" + text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little") < int(fraction * 2**64)


def cut_pieces(chunks: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Recoupe un texte en morceaux d'environ `size` caractères, là où aucun token ne passe.

    Les tokens des morceaux, mis bout à bout, sont ceux du texte entier : voir `last_boundary`. Un
    mot ou un blanc démesuré reste entier, jusqu'à `_LONGEST_RUN` caractères ; au-delà seulement, la
    coupe tombe dedans. Les morceaux ne dépendent pas de la façon dont le texte arrive.
    """
    pending, wanted = "", size
    for chunk in chunks:
        start, pending = 0, pending + chunk
        while len(pending) - start > wanted:
            cut = last_boundary(pending, start + wanted, start)
            if cut == start:
                if wanted < max(size, _LONGEST_RUN):
                    wanted = min(2 * wanted, max(size, _LONGEST_RUN))
                    continue
                cut = start + wanted
            yield pending[start:cut]
            start, wanted = cut, size
        pending = pending[start:]
    if pending:
        yield pending


def last_boundary(text: str, limit: int, start: int = 0) -> int:
    """La dernière coupure sûre de `text` dans ]start, limit] ; `start` s'il n'y en a pas.

    Elle est juste avant un blanc qui suit un autre caractère : aucun mot ne l'enjambe. Le découpage
    moderne fait exception, qui joint un signe aux fins de ligne qui le suivent : la coupe n'est
    devant une fin de ligne qu'après une lettre ou un chiffre, sinon derrière elle. À défaut, elle
    est là où finissent des lettres ou des chiffres, qu'aucun découpage ne joint à la suite.
    """
    end = limit + 1
    found = _LAST_BOUNDARY.match(text, start, end) or _LAST_LINE_START.match(text, start, end)
    if found:
        return found.end()
    after = _class_of(text[limit]) if limit < len(text) else "C"
    for cut in range(limit, max(start, limit - _SEARCHED), -1):
        before = _class_of(text[cut - 1])
        if before in "LN" and after in "LNMPSZ" and before != after:
            return cut
        after = before
    return start


def _class_of(character: str) -> str:
    """La classe d'un caractère selon Unicode : L, N, M, P, S, Z ou C."""
    return unicodedata.category(character)[0]
