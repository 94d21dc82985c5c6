"""Les exemples d'une épreuve, lus en JSONL : dernier mot (LAMBADA) et choix multiple (HellaSwag).

Une ligne qui ne convient pas arrête la lecture : son numéro est dit.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gpt_architecture.errors import DataError, reason
from gpt_architecture.evaluation.tasks import LastWord, MultipleChoice
from gpt_architecture.storage import open_regular

MAX_LINE_BYTES = 1 << 20
MAX_CHOICES = 64

_LAST_WORD = '{"text": "un texte dont on devine le dernier mot"}'
_CHOICES = '{"ctx": "un début", "endings": ["une suite", "une autre"], "label": 0}'
_BRACKETS = re.compile(r"\[.*?\]")

Example = TypeVar("Example")


def read_last_words(path: Path | str, *, limit: int | None = None) -> list[LastWord]:
    """Les exemples d'un fichier JSONL à la façon de LAMBADA : un champ `text` par ligne.

    Raises:
        DataError: fichier illisible ou vide, ou ligne qui ne convient pas : son numéro est dit.
    """
    return _read(path, _last_word, expected=_LAST_WORD, limit=limit)


def read_choices(path: Path | str, *, limit: int | None = None) -> list[MultipleChoice]:
    """Les exemples d'un fichier JSONL au format de HellaSwag.

    Chaque ligne a `endings`, `label` et un début : `ctx`, ou `ctx_a` et `ctx_b`. Une ligne qui a
    aussi `activity_label` vient de HellaSwag même : elle est préparée comme lm-eval le fait.

    Raises:
        DataError: fichier illisible ou vide, ou ligne qui ne convient pas : son numéro est dit.
    """
    return _read(path, _choice, expected=_CHOICES, limit=limit)


def _read(
    path: Path | str,
    parse: Callable[[int, Mapping[str, Any]], Example],
    *,
    expected: str,
    limit: int | None,
) -> list[Example]:
    examples = list(islice(_parsed(path, parse, expected), limit))
    if not examples:
        raise DataError(
            f"{path} n'a aucun exemple",
            expected=f"une ligne par exemple, comme {expected}",
            remedy="donnez un autre fichier",
        )
    return examples


def _parsed(
    path: Path | str, parse: Callable[[int, Mapping[str, Any]], Example], expected: str
) -> Iterator[Example]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"un objet était attendu, {type(row).__name__} trouvé")
            yield parse(number, row)
        except (ValueError, RecursionError) as error:
            where, kind = f"ligne {number}", reason(error)
            if isinstance(error, json.JSONDecodeError):
                where, kind = f"{where}, colonne {error.colno}", "JSON invalide"
            raise DataError(
                f"{path}, {where} : {kind}",
                expected=f"un objet JSON comme {expected}",
                remedy="corrigez cette ligne",
            ) from None


def _lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """(Numéro, octets) des lignes qui ne sont pas blanches."""
    try:
        with open_regular(path) as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}, ligne {number} : plus de {MAX_LINE_BYTES} octets",
                        expected="un exemple par ligne",
                        remedy="raccourcissez cette ligne",
                    )
                if line.strip():
                    yield number, line.removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError.unreadable(path, error, expected="un fichier JSONL") from None


def _last_word(line: int, row: Mapping[str, Any]) -> LastWord:
    context, _, word = _text(row, "text").strip().rpartition(" ")
    if not context:
        raise ValueError("le texte n'a qu'un mot")
    return LastWord(line=line, context=context, word=word)


def _choice(line: int, row: Mapping[str, Any]) -> MultipleChoice:
    endings = row.get("endings")
    if not isinstance(endings, list) or not 2 <= len(endings) <= MAX_CHOICES:
        raise ValueError(f"endings n'est pas une liste de 2 à {MAX_CHOICES} suites")
    if not all(_is_text(each) for each in endings):
        raise ValueError("une suite de endings est vide ou n'est pas un texte")
    if "ctx_a" in row:
        second = "" if row.get("ctx_b") in (None, "") else _text(row, "ctx_b")
        context = f"{_text(row, 'ctx_a')} {second.capitalize()}"
    else:
        context = _text(row, "ctx")
    if "activity_label" in row:  # une ligne de HellaSwag, ses crochets et ses titres compris
        context = _clean(f"{_text(row, 'activity_label')}: {context}")
    prepare = _clean if "activity_label" in row else str.strip
    return MultipleChoice(
        line=line,
        context=context,
        choices=tuple(map(prepare, endings)),
        label=_label(row.get("label"), len(endings)),
    )


def _label(value: object, count: int) -> int:
    """Le rang de la bonne suite ; HellaSwag l'écrit parfois entre guillemets."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise ValueError(f"label vaut {value!r}, un rang de 0 à {count - 1} était attendu")
    return value


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not _is_text(value):
        raise ValueError(f"le champ {field} manque, est vide ou n'est pas un texte")
    return str(value)


def _is_text(value: object) -> bool:
    """Vrai pour un texte non vide qui s'écrit en UTF-8 (un demi-codet seul ne s'écrit pas)."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _clean(text: str) -> str:
    """Le nettoyage de HellaSwag dans lm-eval : titres et crochets de WikiHow."""
    text = _BRACKETS.sub("", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
