"""Le nom d'un token pour un client : son texte, ou ses octets s'ils n'en forment pas un."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import cached_property

from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.decoding.streaming import TextStream


class TokenNames:
    """Nomme les tokens comme le fait OpenAI.

    Deux tokens différents gardent deux noms : un bout de caractère se nomme par ses octets,
    `bytes:\\xc3`, et non par le même U+FFFD que tous les autres.

    Args:
        tokenizer: celui du modèle.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __contains__(self, token: int) -> bool:
        return 0 <= token < self._tokenizer.vocab_size

    def text(self, token: int) -> str:
        """Texte du token, tel qu'il s'écrit seul."""
        raw = self.raw(token)
        if raw is None:
            return self._tokenizer.decode([token])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def places(self, prompt: Sequence[int] = ()) -> Places:
        """De quoi situer les tokens du texte qui suit un début."""
        return Places(self, self._tokenizer, prompt)

    def raw(self, token: int) -> bytes | None:
        """Octets du token ; None si le tokenizer découpe en mots."""
        return None if self._bytes is None else self._bytes[token]

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        tokenizer = self._tokenizer
        return tokenizer.token_bytes() if isinstance(tokenizer, ByteTokenizer) else None


class Places:
    """Situe des tokens dans leur texte, en caractères ; un bout de caractère est où est le sien.

    Args:
        names: nom des tokens.
        tokenizer: celui du modèle.
        prompt: identifiants qui précèdent le texte.
    """

    def __init__(self, names: TokenNames, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._names = names
        self._words = TextStream(tokenizer.decode, prompt)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        for token in prompt[-4:]:  # un caractère compte au plus quatre octets
            self._characters.decode(names.raw(token) or b"")
        # Le début montre déjà, par un U+FFFD, le caractère qu'il ne finit pas.
        self._next = -1 if self._characters.getstate()[0] else 0

    def add(self, token: int) -> int:
        """Le rang, dans le texte, du premier caractère d'un token, qui suit les précédents."""
        raw = self._names.raw(token)
        if raw is None:
            place = self._next
            self._next += len(self._words.push(token))
            return place
        self._next += len(self._characters.decode(raw[:1]))
        # Le caractère du premier octet est en cours, ou c'est le dernier que cet octet finit.
        place = self._next if self._characters.getstate()[0] or not raw else self._next - 1
        self._next += len(self._characters.decode(raw[1:]))
        return max(0, place)
