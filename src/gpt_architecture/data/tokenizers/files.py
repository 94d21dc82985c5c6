"""Les fichiers JSON de tokenizers : lus dans des bornes, écrits d'un seul coup."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt_architecture.errors import TokenizerError, reason
from gpt_architecture.storage import open_regular, parse_json, read_text, write_atomically

TOKENIZER_JSON = "tokenizer.json"
_MAX_BYTES = 64 << 20
"""Un vocabulaire de 65 536 tokens en pèse trois ou quatre."""

_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_json(path: Path | str, *, names: Sequence[str]) -> Any:
    """Le contenu d'un fichier de tokenizer, ou du `tokenizer.json` d'un dossier.

    Args:
        path: le fichier ou le dossier.
        names: les noms de tokenizers, pour dire ce qui aurait convenu.

    Raises:
        TokenizerError: ni fichier ni dossier de tokenizer, ou fichier illisible.
    """
    path = Path(path)
    inside = path / TOKENIZER_JSON
    path = inside if _exists(inside) else path
    if not _exists(path) or path.is_dir():
        raise TokenizerError(
            f"tokenizer inconnu : {str(path)[:200]}",
            expected=f"{', '.join(names)} ou un fichier JSON existant",
            remedy="corrigez `tokenizer`",
        )
    expected = "un fichier JSON écrit par save(), ou un tokenizer.json"
    with suppress(OSError), open_regular(path) as file:
        if file.read(2).startswith(_PICKLE):
            raise _pickled(path)
    text = read_text(path, expected=expected, limit=_MAX_BYTES, error=TokenizerError)
    try:
        return parse_json(text)
    except ValueError as error:
        raise TokenizerError(
            f"{path} n'est pas un tokenizer lisible ({reason(error)})",
            expected=expected,
            remedy="recréez-le",
        ) from None


def _pickled(path: Path) -> TokenizerError:
    """Le `meta.pkl` de nanoGPT : l'ouvrir exécuterait ce qu'il contient."""
    target = path.with_suffix(".json")
    code = f"import json, pickle; json.dump(pickle.load(open({str(path)!r}, 'rb')), "
    code += f"open({str(target)!r}, 'w'))"
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return TokenizerError(
        f"{path} est un pickle, que ce projet n'ouvre pas : il peut exécuter n'importe quoi",
        expected="le même contenu en JSON",
        remedy=f"si vous vous fiez à son auteur : python -c {quoted}, et donnez {target}",
    )


def write_json(path: Path | str, document: dict[str, Any], *, indent: int | None = None) -> None:
    """Écrit un document en JSON (UTF-8) : en entier, ou pas du tout.

    Raises:
        OutputError: le système refuse ; ce qui était là n'a pas changé.
    """
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # nom trop long pour ce système
        return False
