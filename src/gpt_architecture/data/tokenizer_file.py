"""Les fichiers JSON de tokenizers : lus dans des bornes, écrits d'un seul coup."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt_architecture.errors import OutputError, TokenizerError, reason
from gpt_architecture.storage import check_regular

TOKENIZER_JSON = "tokenizer.json"
_MAX_BYTES = 64 << 20
"""Un vocabulaire de 65 536 tokens en pèse trois ou quatre."""


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
    if not _is_file(path) and not _is_file(inside):
        raise TokenizerError(
            f"tokenizer inconnu : {str(path)[:200]}",
            expected=f"{', '.join(names)} ou un fichier JSON existant",
            remedy="corrigez `tokenizer`",
        )
    path = path if _is_file(path) else inside
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("plus de 64 Mio")
        return json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        name = "fichier trop gros" if "Mio" in str(error) else type(error).__name__
        raise TokenizerError(
            f"{path} n'est pas un tokenizer lisible ({name})",
            expected="un fichier JSON écrit par save(), ou un tokenizer.json",
            remedy="recréez-le",
        ) from None


def write_json(path: Path | str, document: dict[str, Any], *, indent: int | None = None) -> None:
    """Écrit un document en JSON (UTF-8) : en entier, ou pas du tout.

    Raises:
        OutputError: le système refuse ; ce qui était là n'a pas changé.
    """
    path = Path(path)
    temporary: Path | None = None
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    try:
        if path.exists():  # renommer par-dessus /dev/null le supprimerait
            check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0o022)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier existant, accessible en écriture, et assez de place",
            remedy="changez de fichier ou libérez de la place",
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # nom trop long pour ce système
        return False
