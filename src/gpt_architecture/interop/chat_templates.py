"""Les gabarits de conversation d'un dossier de Transformers : les lire, les rendre.

Transformers les range dans `chat_template.jinja`, dans `additional_chat_templates/`, ou dans
`tokenizer_config.json` : un texte, ou une liste de gabarits nommés. Celui qui se nomme `default`
sert ici ; les autres sont gardés pour l'export.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template
from gpt_architecture.errors import DataError, ModelFileError, reason
from gpt_architecture.formats.foreign_files import read_json
from gpt_architecture.interop.vocabulary import TOKENIZER_CONFIG
from gpt_architecture.storage import open_regular

logger = logging.getLogger(__name__)

OTHER_TEMPLATES = "other_chat_templates"
"""Clé, dans les métadonnées, des gabarits nommés autrement que `default`."""

_DEFAULT = "default"
_FILE, _FOLDER = "chat_template.jinja", "additional_chat_templates"
_MAX_BYTES = 1 << 20
_MAX_TEMPLATES = 32


def read_chat_templates(folder: Path | str) -> dict[str, Any]:
    """Les gabarits d'un dossier, en métadonnées de modèle ; vide s'il n'en a pas.

    Un gabarit que ce projet ne sait pas rendre n'empêche pas l'import : il est gardé, et c'est
    dit ; l'employer dira pourquoi.

    Raises:
        ModelFileError: un fichier de gabarit est illisible.
    """
    folder = Path(folder)
    named = _from_config(folder / TOKENIZER_CONFIG) | _from_files(folder)
    template = named.pop(_DEFAULT, None)
    found: dict[str, Any] = {}
    if template is not None:
        found[CHAT_TEMPLATE] = template
        try:
            check_template(template)
        except DataError as error:
            logger.warning(
                "%s : %s ; il est gardé pour l'export, mais ce modèle ne conversera pas ici",
                *(folder, error.found),
            )
    if named:
        found[OTHER_TEMPLATES] = named
    return found


def config_templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """La clé `chat_template` de `tokenizer_config.json` : un gabarit, ou une liste nommée."""
    template, others = metadata.get(CHAT_TEMPLATE), metadata.get(OTHER_TEMPLATES)
    named = {_DEFAULT: template} if isinstance(template, str) else {}
    if not isinstance(others, Mapping):
        return named.get(_DEFAULT)
    return [{"name": str(k), "template": str(v)} for k, v in (named | dict(others)).items()]


def _from_config(path: Path) -> dict[str, str]:
    value = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(value, str):
        return {_DEFAULT: value}
    listed = (
        [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
    )
    pairs = [(each.get("name"), each.get("template")) for each in listed[:_MAX_TEMPLATES]]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _from_files(folder: Path) -> dict[str, str]:
    files = sorted((folder / _FOLDER).glob("*.jinja"))[:_MAX_TEMPLATES]
    named = {path.stem: _read(path) for path in files}
    if (folder / _FILE).exists():
        named[_DEFAULT] = _read(folder / _FILE)
    return named


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"plus de {_MAX_BYTES >> 20} Mio")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} est illisible ({reason(error)})",
            expected="un gabarit de conversation, en UTF-8",
            remedy="recopiez le dossier d'origine",
        ) from None
