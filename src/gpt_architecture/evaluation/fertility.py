"""Ce qu'un vocabulaire fait d'un texte : sa fertilité, et le découpage token par token.

Source : Rust et al., « How Good is Your Tokenizer? » (2021), pour la fertilité.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpt_architecture.data.texts.documents import cut_pieces
from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Fertility:
    """Ce qu'un tokenizer a fait d'un texte.

    Attributes:
        label: nom sous lequel le montrer.
        vocab_size: tokens du vocabulaire.
        used: tokens différents que le texte emploie.
        tokens: tokens du texte.
        words: mots du texte : ce que séparent des blancs.
        text_bytes: octets UTF-8 du texte.
    """

    label: str
    vocab_size: int
    used: int
    tokens: int
    words: int
    text_bytes: int

    @property
    def tokens_per_word(self) -> float:
        """La fertilité : un vocabulaire fait pour la langue en a une basse."""
        return self.tokens / self.words

    @property
    def bytes_per_token(self) -> float:
        """Octets de texte que porte un token, en moyenne."""
        return self.text_bytes / self.tokens

    @property
    def share_used(self) -> float:
        """Part du vocabulaire que le texte emploie."""
        return self.used / self.vocab_size


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Un bout de texte et ses tokens : un seul, sauf si un caractère en couvre plusieurs."""

    text: str
    ids: tuple[int, ...]


def measure_fertility(text: str, tokenizer: Tokenizer, *, label: str | None = None) -> Fertility:
    """Code un texte et compte.

    Args:
        text: le texte.
        tokenizer: le tokenizer.
        label: nom sous lequel le montrer ; celui du tokenizer sinon.

    Raises:
        DataError: texte sans un mot.
        TokenizerError: le vocabulaire ne sait pas le coder.
    """
    words = len(text.split())
    if not words:
        raise DataError(
            "le texte n'a aucun mot", expected="quelques mots", remedy="donnez un autre texte"
        )
    used: set[int] = set()
    tokens = 0
    for piece in cut_pieces([text]):  # la liste d'un long texte pèserait cinquante fois celui-ci
        ids = tokenizer.encode(piece)
        used.update(ids)
        tokens += len(ids)
    return Fertility(
        label=label or tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        used=len(used),
        tokens=tokens,
        words=words,
        text_bytes=len(text.encode("utf-8")),
    )


def split_text(text: str, tokenizer: Tokenizer) -> Iterator[Segment]:
    """Le texte token par token ; un caractère qui en couvre plusieurs reste entier.

    Un tokenizer de mots ne garde pas les blancs : ses segments sont les mots.

    Raises:
        TokenizerError: le vocabulaire ne sait pas le coder.
    """
    ids = tokenizer.encode(text)
    if not isinstance(tokenizer, ByteTokenizer):
        yield from (Segment(text=tokenizer.decode([token]), ids=(token,)) for token in ids)
        return
    octets = tokenizer.token_bytes()
    pending, held = b"", list[int]()
    for token in ids:
        pending += octets[token]
        held.append(token)
        try:
            decoded = pending.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield Segment(text=decoded, ids=tuple(held))
        pending, held = b"", []
    if held:
        yield Segment(text=pending.decode("utf-8", "replace"), ids=tuple(held))
