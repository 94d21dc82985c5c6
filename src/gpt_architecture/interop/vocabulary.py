"""Le vocabulaire qui accompagne des poids venus d'ailleurs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_architecture.config import PRESETS
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer, tokenizer_from_json
from gpt_architecture.data.tokenizers.json_file import lists_document
from gpt_architecture.errors import ModelFileError, TokenizerError
from gpt_architecture.formats.foreign_files import MAX_JSON, read_json
from gpt_architecture.storage import read_text

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG = "tokenizer_config.json"

_GPT2_SIZES = (PRESETS["gpt2-small"].vocab_size, 50304)
"""50 257 tokens, ou le multiple de 64 auquel nanoGPT les arrondit."""


def folder_tokenizer(folder: Path | str, vocab_size: int) -> Tokenizer:
    """Le tokenizer d'un dossier de Transformers : `tokenizer.json`, sinon les fichiers de GPT-2.

    Raises:
        TokenizerError: aucun, ou d'un genre que ce projet ne lit pas.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return tokenizer_from_json(read_json(folder / "tokenizer.json"), roles=_roles(folder))
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
        read_json(folder / "vocab.json"),
        merges,
        added=read_json(added) if added.is_file() else None,
    )
    return tokenizer_from_json(document, roles=_roles(folder))


def _roles(folder: Path) -> dict[str, str]:
    """Le nom des tokens spéciaux qui ont un rôle (`eos_token`…), d'après ce dossier.

    Un BPE par octets n'a pas de token inconnu : celui qu'un dossier nomme n'est pour lui qu'un nom.
    """
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):  # le second l'emporte
        document = read_json(folder / name) if (folder / name).is_file() else {}
        named = {role: _content(value) for role, value in document.items() if role != "unk_token"}
        found |= {r: name for r, name in named.items() if r.endswith("_token") and name}
    return found


def _content(value: Any) -> str | None:
    """Le texte d'un token, écrit tel quel ou dans un objet."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None
