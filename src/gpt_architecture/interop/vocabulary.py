"""Le vocabulaire qui accompagne des poids venus d'ailleurs."""

from __future__ import annotations

import logging
from pathlib import Path

from gpt_architecture.config import PRESETS
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer
from gpt_architecture.data.tokenizer_json import tokenizer_from_json, tokenizer_from_lists
from gpt_architecture.errors import ModelFileError, TokenizerError, reason
from gpt_architecture.interop.files import MAX_JSON, read_json

logger = logging.getLogger(__name__)

_GPT2_SIZES = (PRESETS["gpt2-small"].vocab_size, 50304)
"""50 257 tokens, ou le multiple de 64 auquel nanoGPT les arrondit."""


def folder_tokenizer(folder: Path | str, vocab_size: int) -> Tokenizer:
    """Le tokenizer d'un dossier de Transformers : `tokenizer.json`, sinon les fichiers de GPT-2.

    Raises:
        TokenizerError: aucun, ou d'un genre que ce projet ne lit pas.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return tokenizer_from_json(read_json(folder / "tokenizer.json"))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _from_vocabulary_files(folder)
    return assumed_tokenizer(vocab_size, folder)


def assumed_tokenizer(vocab_size: int, path: Path | str) -> Tokenizer:
    """Celui de GPT-2, si la taille du vocabulaire est la sienne.

    Raises:
        TokenizerError: elle ne l'est pas, et rien d'autre ne dit le vocabulaire.
    """
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
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(MAX_JSON).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path} est illisible ({reason(error)})",
            expected="les fusions d'un BPE",
            remedy="recopiez le dossier d'origine",
        ) from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    return tokenizer_from_lists(read_json(folder / "vocab.json"), merges)
