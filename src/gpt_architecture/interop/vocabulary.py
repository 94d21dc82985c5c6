"""Le vocabulaire et les gabarits de conversation qui accompagnent des poids venus d'ailleurs.

Transformers range les gabarits dans `chat_template.jinja`, dans `additional_chat_templates/`, ou
dans `tokenizer_config.json` : un texte, ou une liste de gabarits nommés. Celui qui se nomme
`default` sert ici ; les autres sont gardés pour l'export.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_architecture.config import PRESETS
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer, tokenizer_from_json
from gpt_architecture.data.tokenizers.json_file import lists_document
from gpt_architecture.errors import DataError, ModelFileError, TokenizerError, reason
from gpt_architecture.storage import open_regular, read_json_object, read_text

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_JSON = 64 << 20
"""Taille d'un fichier JSON, au plus : le `tokenizer.json` d'un grand vocabulaire en fait dix."""
OTHER_TEMPLATES = "other_chat_templates"
"""Clé, dans les métadonnées, des gabarits nommés autrement que `default`."""

_DEFAULT = "default"
_FILE, _FOLDER = "chat_template.jinja", "additional_chat_templates"
_MAX_BYTES = 1 << 20
_MAX_TEMPLATES = 32

_GPT2_SIZES = (PRESETS["gpt2-small"].vocab_size, 50304)
"""50 257 tokens, ou le multiple de 64 auquel nanoGPT les arrondit."""


def read_folder_json(path: Path | str) -> dict[str, Any]:
    """Un objet JSON d'un dossier de Transformers, dans des bornes.

    Raises:
        ModelFileError: fichier absent, trop gros, ou d'un autre contenu.
    """
    return read_json_object(
        path,
        MAX_JSON,
        error=ModelFileError,
        expected="un fichier JSON",
        remedy="recopiez le dossier d'origine",
    )


def folder_tokenizer(folder: Path | str, vocab_size: int) -> Tokenizer:
    """Le tokenizer d'un dossier de Transformers : `tokenizer.json`, sinon les fichiers de GPT-2.

    Raises:
        TokenizerError: aucun, ou d'un genre que ce projet ne lit pas.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        described = read_folder_json(folder / "tokenizer.json")
        return tokenizer_from_json(described, roles=_roles(folder))
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _from_vocabulary_files(folder)
    return assumed_tokenizer(vocab_size, folder)


def check_given(tokenizer: Tokenizer, vocab_size: int, path: Path | str) -> Tokenizer:
    """Le tokenizer donné pour ces poids ; dit s'il a moins de tokens qu'ils n'ont de lignes."""
    path = Path(path)
    missing = vocab_size - tokenizer.vocab_size
    if missing > 0:
        logger.warning(
            "%s : modèle de %d tokens, tokenizer %s de %d : les %d derniers n'ont pas de texte ; "
            "est-ce bien son vocabulaire ?",
            *(path, vocab_size, tokenizer.name, tokenizer.vocab_size, missing),
        )
    return tokenizer


def assumed_tokenizer(vocab_size: int, path: Path | str) -> Tokenizer:
    """Celui de GPT-2, si la taille du vocabulaire est la sienne.

    Raises:
        TokenizerError: elle ne l'est pas, et rien d'autre ne dit le vocabulaire.
    """
    path = Path(path)
    if vocab_size not in _GPT2_SIZES:
        raise TokenizerError(
            f"{path} ne dit rien de son vocabulaire de {vocab_size} tokens",
            expected="un fichier tokenizer.json, ou les 50257 tokens de GPT-2",
            remedy="convertissez-le en donnant `tokenizer`",
        )
    logger.info("%s ne porte pas de vocabulaire : sa taille est celle de GPT-2", path)
    return get_tokenizer("gpt2")


def _from_vocabulary_files(folder: Path) -> Tokenizer:
    """Le tokenizer de `vocab.json` et `merges.txt`."""
    path = folder / "merges.txt"
    text = read_text(path, expected="les fusions d'un BPE", limit=MAX_JSON, error=ModelFileError)
    lines = text.split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    added = folder / "added_tokens.json"
    document = lists_document(
        read_folder_json(folder / "vocab.json"),
        merges,
        added=read_folder_json(added) if added.is_file() else None,
    )
    return tokenizer_from_json(document, roles=_roles(folder))


def _roles(folder: Path) -> dict[str, str]:
    """Le nom des tokens spéciaux qui ont un rôle (`eos_token`…), d'après ce dossier.

    Un BPE par octets n'a pas de token inconnu : celui qu'un dossier nomme n'est pour lui qu'un nom.
    """
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):  # le second l'emporte
        document = read_folder_json(folder / name) if (folder / name).is_file() else {}
        named = {role: _content(value) for role, value in document.items() if role != "unk_token"}
        found |= {r: name for r, name in named.items() if r.endswith("_token") and name}
    return found


def _content(value: Any) -> str | None:
    """Le texte d'un token, écrit tel quel ou dans un objet."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


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
    found = {} if template is None else kept_template(template, folder)
    if named:
        found[OTHER_TEMPLATES] = named
    return found


def kept_template(template: str, origin: Path | str) -> dict[str, Any]:
    """Un gabarit en métadonnées de modèle ; dit s'il ne se rend pas ici."""
    try:
        check_template(template)
    except DataError as error:
        logger.warning(
            "%s : %s ; il est gardé pour l'export, mais ce modèle ne conversera pas ici",
            *(origin, error.found),
        )
    return {CHAT_TEMPLATE: template}


def config_templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """La clé `chat_template` de `tokenizer_config.json` : un gabarit, ou une liste nommée."""
    template, others = metadata.get(CHAT_TEMPLATE), metadata.get(OTHER_TEMPLATES)
    named = {_DEFAULT: template} if isinstance(template, str) else {}
    if not isinstance(others, Mapping):
        return named.get(_DEFAULT)
    return [{"name": str(k), "template": str(v)} for k, v in (named | dict(others)).items()]


def _from_config(path: Path) -> dict[str, str]:
    value = read_folder_json(path).get("chat_template") if path.is_file() else None
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
