"""Le nom d'un token pour un client : son texte, ou ses octets s'ils n'en forment pas un."""

from __future__ import annotations

from functools import cached_property

from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer


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

    def raw(self, token: int) -> bytes | None:
        """Octets du token ; None si le tokenizer découpe en mots."""
        return None if self._bytes is None else self._bytes[token]

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        tokenizer = self._tokenizer
        return tokenizer.token_bytes() if isinstance(tokenizer, ByteTokenizer) else None
