"""Tokenizers : celui de GPT-2, et le point d'entrée de tous.

`get_tokenizer("gpt2")` est le BPE de GPT-2 par tiktoken, construit sans réseau à partir
des rangs embarqués. Les autres tirent leur vocabulaire d'un texte : les mots
(`data.tokenizers.words`), les caractères (`characters`), un BPE à soi (`bpe`).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts.documents import cut_pieces
from gpt_architecture.data.tokenizers.bpe import BPETokenizer, bpe_size
from gpt_architecture.data.tokenizers.characters import CharTokenizer
from gpt_architecture.data.tokenizers.files import read_json
from gpt_architecture.data.tokenizers.patterns import GPT2_PATTERN
from gpt_architecture.data.tokenizers.protocol import (
    AllowedSpecial,
    ByteTokenizer,
    Tokenizer,
    check_ids,
)
from gpt_architecture.data.tokenizers.words import (
    UNKNOWN,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    split_words,
)
from gpt_architecture.errors import MissingDependencyError, TokenizerError

__all__ = [
    "GPT2_RANKS_SHA256",
    "NAMES",
    "UNKNOWN",
    "AllowedSpecial",
    "ByteTokenizer",
    "GPT2Tokenizer",
    "SimpleTokenizerV1",
    "SimpleTokenizerV2",
    "Tokenizer",
    "check_ids",
    "get_tokenizer",
    "learns_from_text",
    "split_words",
    "tokenizer_from_dict",
]

logger = logging.getLogger(__name__)

GPT2_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
NAMES = ("gpt2", "simple-v1", "simple-v2", "char", "bpe-N")
_SHORT_TEXT = 1 << 16  # caractères
_LONG_BLANK = re.compile(  # les blancs selon Unicode : l'espèce `\s` de Python en a quatre de plus
    r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{65536,}"
)


class GPT2Tokenizer:
    """BPE par octets de GPT-2 (Radford et al., 2019) : 50 257 tokens, sans perte."""

    name = "gpt2"

    def __init__(self) -> None:
        self._encoding = _gpt2_encoding()
        self.vocab_size: int = self._encoding.n_vocab
        self.eos_id: int | None = self._encoding.eot_token

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`."""
        if len(text) <= _SHORT_TEXT:
            found: list[int] = self._encoding.encode(
                text, allowed_special=allowed_special, disallowed_special=()
            )
            return found
        special = allowed_special == "all" or END_OF_TEXT in allowed_special
        ids: list[int] = []
        for rank, document in enumerate(text.split(END_OF_TEXT) if special else [text]):
            if rank:
                ids.append(self._encoding.eot_token)
            for piece in cut_pieces([document]):
                ids += self._encode_piece(piece)
        return ids

    def _encode_piece(self, text: str) -> list[int]:
        """Les identifiants d'un long texte, sans token spécial.

        Le motif de GPT-2 parcourt les blancs en s'en souvenant un à un, et sa pile déborde vers un
        million. Une longue suite est donc découpée comme il le ferait : entière à la fin du texte,
        sinon moins le dernier blanc, que le mot suivant prend peut-être.
        """
        ids: list[int] = []
        start = 0
        for blank in _LONG_BLANK.finditer(text):
            end = blank.end() - (blank.end() < len(text))
            ids += self._encoding.encode_ordinary(text[start : blank.start()])
            ids += self._encoding._encode_single_piece(text[blank.start() : end])
            start = end
        ids += self._encoding.encode_ordinary(text[start:])
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → texte ; des octets qui ne forment pas d'UTF-8 deviennent U+FFFD.

        Raises:
            TokenizerError: un identifiant est hors du vocabulaire.
        """
        check_ids(tokens, self.vocab_size)
        text: str = self._encoding.decode(tokens)
        return text

    def token_bytes(self) -> list[bytes]:
        """Les octets de chaque identifiant ; voir `ByteTokenizer`."""
        decode = self._encoding.decode_single_token_bytes
        return [decode(token) for token in range(self.vocab_size)]

    def to_dict(self) -> dict[str, Any]:
        """Le nom suffit : les rangs sont embarqués."""
        return {"name": self.name}


def learns_from_text(name: str) -> bool:
    """Vrai si ce nom désigne un tokenizer dont le vocabulaire vient d'un texte."""
    return name in ("simple-v1", "simple-v2", "char") or bpe_size(name) is not None


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
        return _learn(name, text)
    description = read_json(Path(name), names=NAMES)
    if isinstance(description, Mapping) and "model" in description:  # un tokenizer.json
        from gpt_architecture.data.tokenizers.json_file import tokenizer_from_json

        return tokenizer_from_json(description)
    if isinstance(description, Mapping) and {"stoi", "itos"} & set(description):  # de nanoGPT
        return CharTokenizer.from_nanogpt(description)
    return tokenizer_from_dict(description)


def _learn(name: str, text: str) -> Tokenizer:
    size = bpe_size(name)
    if size is not None:
        return BPETokenizer.from_text(text, size)
    if name == "char":
        return CharTokenizer.from_text(text)
    return (SimpleTokenizerV1 if name == "simple-v1" else SimpleTokenizerV2).from_text(text)


def tokenizer_from_dict(description: Any) -> Tokenizer:
    """Reconstruit un tokenizer depuis `Tokenizer.to_dict`.

    Raises:
        TokenizerError: description mal formée ou d'un genre inconnu.
    """
    name = description.get("name") if isinstance(description, Mapping) else None
    if name == "gpt2":
        return get_tokenizer("gpt2")
    if name == "bpe":
        return BPETokenizer.from_dict(description)
    vocab = description.get("vocab") if isinstance(description, Mapping) else None
    if isinstance(vocab, list) and all(isinstance(token, str) for token in vocab):
        if name == "char":
            return CharTokenizer(vocab)
        if name in ("simple-v1", "simple-v2"):
            return SimpleTokenizerV1(vocab) if name == "simple-v1" else SimpleTokenizerV2(vocab)
    raise TokenizerError(
        f"description de tokenizer invalide (nom {name!r})",
        expected="un nom parmi gpt2, simple-v1, simple-v2, char, bpe et, sauf pour gpt2, sa liste "
        "vocab",
        remedy="recréez le fichier, ou recopiez-le depuis l'original",
    )


@lru_cache(maxsize=1)
def _gpt2_encoding() -> Any:
    """Construit `tiktoken.Encoding` depuis les rangs embarqués, vérifiés par empreinte."""
    import tiktoken

    data = resources.files("gpt_architecture.data").joinpath("assets/gpt2.tiktoken").read_bytes()
    if hashlib.sha256(data).hexdigest() != GPT2_RANKS_SHA256:
        raise TokenizerError(
            "les rangs GPT-2 embarqués sont abîmés (empreinte différente)",
            expected=f"sha256 {GPT2_RANKS_SHA256}",
            remedy="réinstallez gpt-architecture",
        )
    ranks = {}
    for line in data.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )
