"""Le BPE de GPT-2, et ce que sa famille en garde : motifs de découpage, alphabet d'octets.

Une fusion n'enjambe jamais deux mots du découpage : le motif décide de ce qu'un token contient.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any, Literal, get_args

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts.documents import cut_pieces
from gpt_architecture.data.tokenizers.protocol import AllowedSpecial, check_ids
from gpt_architecture.errors import TokenizerError

GPT2_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
"""Empreinte des rangs embarqués."""

GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
"""Empreinte de `vocab.bpe`, le fichier des fusions publié par OpenAI."""

PatternName = Literal["gpt2", "moderne"]
PATTERN_NAMES: tuple[PatternName, ...] = get_args(PatternName)

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # motif de GPT-2
)
MODERN_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)"  # contractions, sans égard à la casse
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # des lettres, et le signe ou l'espace qui les précède
    r"|\p{N}{1,3}"  # les chiffres, par trois au plus
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # des signes, et les fins de ligne qui les suivent
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Le découpage de GPT-4 (`cl100k_base` de tiktoken, repris par Llama 3)."""

PATTERNS: dict[PatternName, str] = {"gpt2": GPT2_PATTERN, "moderne": MODERN_PATTERN}

SPELLINGS: dict[str, PatternName] = {
    GPT2_PATTERN: "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    MODERN_PATTERN: "moderne",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "moderne",
}
"""Les écritures connues d'un même motif, telles qu'un `tokenizer.json` les porte."""

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


def byte_characters() -> list[str]:
    """Le caractère qui écrit chaque octet : lui-même s'il se voit, sinon un autre, dès U+0100.

    Source : `bytes_to_unicode`, du code de GPT-2.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(octet if octet in visible else next(others)) for octet in range(256)]


def is_gpt2(tokens: Sequence[str], merges: Sequence[str]) -> bool:
    """Vrai si ces tokens et ces fusions sont ceux de GPT-2."""
    if len(tokens) != len(merges) + 257:
        return False
    published = "\n".join(["#version: 0.2", *merges, ""])
    return hashlib.sha256(published.encode()).hexdigest() == GPT2_MERGES_SHA256 and [
        *sorted(byte_characters()),
        *(merge.replace(" ", "") for merge in merges),
        END_OF_TEXT,
    ] == list(tokens)


def gpt2_vocab() -> list[str]:
    """Les tokens de GPT-2, octets écrits comme il les écrit, dans l'ordre des identifiants."""
    characters = byte_characters()
    *tokens, _ = GPT2Tokenizer().token_bytes()
    return [*("".join(characters[octet] for octet in token) for token in tokens), END_OF_TEXT]


@lru_cache(maxsize=1)
def gpt2_merges() -> tuple[str, ...]:
    """Les fusions de GPT-2, retrouvées des rangs : chaque token coupé par les seuls précédents."""
    vocab = gpt2_vocab()
    ranks = {token: rank for rank, token in enumerate(vocab[:-1])}
    return tuple(" ".join(_two_halves(token, ranks)) for token in vocab[256:-1])


def _two_halves(token: str, ranks: dict[str, int]) -> list[str]:
    parts, limit = list(token), ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


@lru_cache(maxsize=1)
def _gpt2_encoding() -> Any:
    """Construit `tiktoken.Encoding` depuis les rangs embarqués, vérifiés par empreinte."""
    import tiktoken  # noqa: PLC0415 — facultatif

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
