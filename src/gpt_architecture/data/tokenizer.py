"""Le point d'entrée de tous les tokenizers : par leur nom, leur fichier ou leur description.

`get_tokenizer("gpt2")` est le BPE de GPT-2 (`data.tokenizers.gpt2`). Les autres tirent leur
vocabulaire d'un texte : des mots ou des caractères (`simple`), un BPE à soi (`bpe`).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizers.bpe import BPETokenizer, bpe_size
from gpt_architecture.data.tokenizers.gpt2 import GPT2Tokenizer, gpt2_merges, gpt2_vocab, is_gpt2
from gpt_architecture.data.tokenizers.json_file import BPELists, read_tokenizer_json
from gpt_architecture.data.tokenizers.protocol import ByteTokenizer, Tokenizer
from gpt_architecture.data.tokenizers.simple import (
    UNKNOWN,
    CharTokenizer,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
)
from gpt_architecture.errors import MissingDependencyError, TokenizerError

__all__ = [
    "UNKNOWN",
    "ByteTokenizer",
    "GPT2Tokenizer",
    "SimpleTokenizerV1",
    "SimpleTokenizerV2",
    "Tokenizer",
    "get_tokenizer",
    "learns_from_text",
    "tokenizer_from_dict",
    "tokenizer_from_json",
    "tokenizer_json",
]

logger = logging.getLogger(__name__)

NAMES = ("gpt2", "simple-v1", "simple-v2", "char", "bpe-N")
_SIMPLE: dict[str, type[SimpleTokenizerV1 | SimpleTokenizerV2 | CharTokenizer]] = {
    each.name: each for each in (SimpleTokenizerV1, SimpleTokenizerV2, CharTokenizer)
}


def learns_from_text(name: str) -> bool:
    """Vrai si ce nom désigne un tokenizer dont le vocabulaire vient d'un texte."""
    return name in _SIMPLE or bpe_size(name) is not None


def get_tokenizer(name_or_path: str | Path = "gpt2", *, text: str | None = None) -> Tokenizer:
    """Le tokenizer d'un nom, d'un fichier ou d'un dossier.

    Args:
        name_or_path: `gpt2`, `simple-v1`, `simple-v2`, `char`, `bpe-N` (un BPE de N tokens), un
            fichier JSON écrit par `save`, le `tokenizer.json` d'un BPE par octets, un dossier
            qui en contient un, ou le `meta.pkl` de nanoGPT récrit en JSON.
        text: texte dont le vocabulaire est tiré, s'il ne vient pas d'un fichier. Il sert
            aussi de repli : si tiktoken manque, `gpt2` devient `SimpleTokenizerV2`, et un
            avertissement le dit.

    Raises:
        TokenizerError: nom inconnu, fichier illisible, ou texte manquant.
        MissingDependencyError: tiktoken manque et aucun texte ne permet le repli, ou
            tokenizers manque pour un BPE.
    """
    name = str(name_or_path)
    if name == "gpt2":
        if importlib.util.find_spec("tiktoken") is not None:
            return GPT2Tokenizer()
        if text is None:
            raise MissingDependencyError("tiktoken", purpose="le tokenizer gpt2")
        logger.warning(
            "tiktoken n'est pas installé : repli sur le tokenizer simple-v2, construit sur le "
            "texte (pip install tiktoken pour celui de GPT-2)"
        )
        return SimpleTokenizerV2.from_text(text)
    if learns_from_text(name):
        if text is None:
            raise TokenizerError(
                f"le tokenizer {name} n'a pas de texte dont tirer son vocabulaire",
                expected="un texte, ou le fichier JSON d'un tokenizer enregistré",
                remedy="passez text=… ou le chemin du fichier",
            )
        size = bpe_size(name)
        return _SIMPLE[name].from_text(text) if size is None else BPETokenizer.from_text(text, size)
    description = read_tokenizer_json(Path(name), names=NAMES)
    if isinstance(description, Mapping) and "model" in description:  # un tokenizer.json
        return tokenizer_from_json(description)
    if isinstance(description, Mapping) and {"stoi", "itos"} & set(description):  # de nanoGPT
        return CharTokenizer.from_nanogpt(description)
    return tokenizer_from_dict(description)


def tokenizer_from_dict(description: Any) -> Tokenizer:
    """Reconstruit un tokenizer depuis `Tokenizer.to_dict`.

    Raises:
        TokenizerError: description mal formée ou d'un genre inconnu.
    """
    given = description if isinstance(description, Mapping) else {}
    name, vocab = given.get("name"), given.get("vocab")
    if name == "gpt2":
        return get_tokenizer("gpt2")
    if name == "bpe":
        return BPETokenizer.from_dict(given)
    kind = _SIMPLE.get(str(name))
    if kind and isinstance(vocab, list) and all(isinstance(token, str) for token in vocab):
        return kind(vocab)
    raise TokenizerError(
        f"description de tokenizer invalide (nom {name!r})",
        expected="un nom parmi gpt2, simple-v1, simple-v2, char, bpe et, sauf pour gpt2, sa liste "
        "vocab",
        remedy="recréez le fichier, ou recopiez-le depuis l'original",
    )


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Le document `tokenizer.json` d'un tokenizer gpt2 ou bpe, que `tokenizers` sait charger.

    Raises:
        TokenizerError: tokenizer de mots ou de caractères, que ce format ne sait pas dire.
    """
    if isinstance(tokenizer, BPETokenizer):
        return tokenizer.lists().document()
    if isinstance(tokenizer, GPT2Tokenizer):
        vocab, merges = gpt2_vocab(), list(gpt2_merges())
        special = {END_OF_TEXT: len(vocab) - 1}
        return BPELists(vocab=vocab, merges=merges, pattern="gpt2", special=special).document()
    raise TokenizerError(
        f"le tokenizer {tokenizer.name} n'a pas d'équivalent en tokenizer.json : il ne code "
        "pas les octets du texte",
        expected="gpt2 ou un BPE par octets",
        remedy="entraînez le modèle avec gpt2 ou avec « gpt-architecture tokenizer train »",
    )


def tokenizer_from_json(
    document: Mapping[str, Any], *, roles: Mapping[str, str] | None = None
) -> Tokenizer:
    """Le tokenizer d'un document `tokenizer.json` : celui de GPT-2, ou un BPE par octets.

    Celui de GPT-2 se reconnaît à son contenu, et devient `GPT2Tokenizer`.

    Args:
        document: le contenu du fichier.
        roles: le nom des tokens spéciaux qui ont un rôle ; voir `BPETokenizer`.

    Raises:
        TokenizerError: autre genre de tokenizer, ou document incohérent ; le message dit quoi.
        MissingDependencyError: tiktoken (GPT-2) ou tokenizers (BPE) manque.
    """
    found = BPELists.of_document(document)
    special = tuple(found.special)
    if found.pattern == "gpt2" and special == (END_OF_TEXT,) and is_gpt2(found.vocab, found.merges):
        return GPT2Tokenizer()
    return BPETokenizer(
        found.vocab, found.merges, pattern=found.pattern, special=special, roles=roles
    )
