"""Tokenizers de mots : `SimpleTokenizerV1` et `SimpleTokenizerV2`, du livre de S. Raschka.

Ils découpent sur les blancs et la ponctuation ; leur vocabulaire vient d'un texte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.data.tokenizers.protocol import AllowedSpecial, check_ids
from gpt_architecture.errors import TokenizerError

UNKNOWN = "<|unk|>"

_SPLIT = re.compile(rf"({re.escape(END_OF_TEXT)}|{re.escape(UNKNOWN)}|--|[,.:;?_!\"()'«»…’—]|\s)")
_CLOSING = re.compile(r"\s+([,.:;?!\"()'…’])")


class _WordTokenizer:
    """Découpage sur blancs et ponctuation, commun aux deux tokenizers simples."""

    name: str

    def __init__(self, vocab: Mapping[str, int] | Iterable[str]) -> None:
        pairs = dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, t in enumerate(vocab)}
        if {type(index) for index in pairs.values()} - {int} or (
            sorted(pairs.values()) != list(range(len(pairs)))
        ):
            raise TokenizerError(
                "vocabulaire mal numéroté",
                expected="des identifiants 0, 1, 2 … sans trou ni doublon",
                remedy="reconstruisez-le avec from_text",
            )
        self.str_to_int: dict[str, int] = pairs
        self.int_to_str: dict[int, str] = {index: token for token, index in pairs.items()}
        self.vocab_size = len(pairs)
        self.eos_id: int | None = pairs.get(END_OF_TEXT)

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → mots séparés par une espace, ponctuation recollée.

        Raises:
            TokenizerError: un identifiant est hors du vocabulaire.
        """
        check_ids(tokens, self.vocab_size)
        text = " ".join(self.int_to_str[int(token)] for token in tokens)
        return _CLOSING.sub(r"\1", text)

    def to_dict(self) -> dict[str, Any]:
        """Nom et vocabulaire, dans l'ordre des identifiants."""
        return {
            "name": self.name,
            "vocab": [self.int_to_str[index] for index in range(self.vocab_size)],
        }

    def save(self, path: Path | str) -> None:
        """Écrit le tokenizer en JSON (UTF-8), relu par `get_tokenizer(chemin)`."""
        write_json(path, self.to_dict())


class SimpleTokenizerV1(_WordTokenizer):
    """Vocabulaire fermé : un mot jamais vu est une erreur qui le nomme.

    Args:
        vocab: token → identifiant, ou tokens dans l'ordre de leurs identifiants.
    """

    name = "simple-v1"

    @classmethod
    def from_text(cls, text: str) -> SimpleTokenizerV1:
        """Vocabulaire : les tokens distincts de `text`, triés."""
        return cls(sorted(set(split_words(text))))

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants.

        Raises:
            TokenizerError: un mot n'est pas dans le vocabulaire.
        """
        tokens = split_words(text)
        known = set(self.str_to_int)
        if allowed_special != "all" and END_OF_TEXT not in allowed_special:
            known.discard(END_OF_TEXT)
        for token in tokens:
            if token not in known:
                raise TokenizerError(
                    f"mot inconnu du vocabulaire : {token!r}",
                    expected=f"l'un des {self.vocab_size} tokens du texte d'origine",
                    remedy="changez ce mot ou prenez le tokenizer simple-v2 ou gpt2",
                )
        return [self.str_to_int[token] for token in tokens]


class SimpleTokenizerV2(_WordTokenizer):
    """Comme `SimpleTokenizerV1`, avec `<|endoftext|>` et `<|unk|>` pour les mots inconnus.

    Args:
        vocab: token → identifiant, ou tokens dans l'ordre de leurs identifiants ; doit
            contenir `<|unk|>`.
    """

    name = "simple-v2"

    def __init__(self, vocab: Mapping[str, int] | Iterable[str]) -> None:
        super().__init__(vocab)
        if UNKNOWN not in self.str_to_int:
            raise TokenizerError(
                f"le vocabulaire n'a pas de token {UNKNOWN}",
                expected=f"un vocabulaire avec {END_OF_TEXT} et {UNKNOWN}",
                remedy="construisez-le avec SimpleTokenizerV2.from_text",
            )

    @classmethod
    def from_text(cls, text: str) -> SimpleTokenizerV2:
        """Vocabulaire : les tokens distincts de `text`, triés, puis les deux spéciaux."""
        words = sorted(set(split_words(text)) - {END_OF_TEXT, UNKNOWN})
        return cls([*words, END_OF_TEXT, UNKNOWN])

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; un mot inconnu devient `<|unk|>`.

        `<|endoftext|>` écrit dans le texte n'est reconnu que s'il est permis ; `<|unk|>`
        reste inconnu dans tous les cas, ce qui revient au même.
        """
        unknown = self.str_to_int[UNKNOWN]
        ids = [self.str_to_int.get(token, unknown) for token in split_words(text)]
        if (
            self.eos_id is not None
            and allowed_special != "all"
            and END_OF_TEXT not in allowed_special
        ):
            ids = [unknown if index == self.eos_id else index for index in ids]
        return ids


def split_words(text: str) -> list[str]:
    """Découpe en mots et signes de ponctuation ; les blancs disparaissent."""
    return [part for part in _SPLIT.split(text) if part and not part.isspace()]
