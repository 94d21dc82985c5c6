"""Les vocabulaires qui se lisent : des mots (`SimpleTokenizerV1` et `V2`), ou des caractères.

Ceux de mots viennent du livre de S. Raschka, et découpent sur les blancs et la ponctuation ;
`CharTokenizer` est celui de `shakespeare_char`, de nanoGPT (A. Karpathy, 2022). Leur vocabulaire
vient d'un texte.
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


class _ListedTokenizer:
    """Un vocabulaire qui n'est qu'une liste de tokens, dans l'ordre de leurs identifiants."""

    name: str

    def __init__(self, vocab: Iterable[str]) -> None:
        self._vocab = list(vocab)
        self.str_to_int: dict[str, int] = {token: i for i, token in enumerate(self._vocab)}
        self.vocab_size = len(self.str_to_int)
        self.eos_id: int | None = self.str_to_int.get(END_OF_TEXT)

    def to_dict(self) -> dict[str, Any]:
        """Nom et vocabulaire, dans l'ordre des identifiants."""
        return {"name": self.name, "vocab": list(self._vocab)}

    def save(self, path: Path | str) -> None:
        """Écrit le tokenizer en JSON (UTF-8), relu par `get_tokenizer(chemin)`."""
        write_json(path, self.to_dict())


class _WordTokenizer(_ListedTokenizer):
    """Découpage sur blancs et ponctuation, commun aux deux tokenizers de mots."""

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
        super().__init__(sorted(pairs, key=pairs.__getitem__))
        self.int_to_str: dict[int, str] = dict(enumerate(self._vocab))

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → mots séparés par une espace, ponctuation recollée.

        Raises:
            TokenizerError: un identifiant est hors du vocabulaire.
        """
        check_ids(tokens, self.vocab_size)
        return _CLOSING.sub(r"\1", " ".join(self.int_to_str[int(token)] for token in tokens))


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
        if not _separates(allowed_special):
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
        if not _separates(allowed_special):
            ids = [unknown if index == self.eos_id else index for index in ids]
        return ids


def split_words(text: str) -> list[str]:
    """Découpe en mots et signes de ponctuation ; les blancs disparaissent."""
    return [part for part in _SPLIT.split(text) if part and not part.isspace()]


def word_places(text: str) -> list[tuple[int, int]]:
    """Les octets, début et fin, de chaque mot que `split_words` rend."""
    found, done = list[tuple[int, int]](), 0
    for part in _SPLIT.split(text):
        start, done = done, done + len(part.encode("utf-8", "surrogatepass"))
        if part and not part.isspace():
            found.append((start, done))
    return found


def _separates(allowed_special: AllowedSpecial) -> bool:
    """Vrai si `<|endoftext|>`, écrit dans un texte, y est un token."""
    return allowed_special == "all" or END_OF_TEXT in allowed_special


class CharTokenizer(_ListedTokenizer):
    """Vocabulaire fermé : les caractères d'un texte ; un autre est une erreur qui le nomme.

    Args:
        vocab: caractères dans l'ordre de leurs identifiants ; `<|endoftext|>` peut en être.

    Raises:
        TokenizerError: vocabulaire vide, doublon, ou token de plusieurs caractères.
    """

    name = "char"

    def __init__(self, vocab: Sequence[str]) -> None:
        problem = _problem(vocab)
        if problem is not None:
            raise TokenizerError(
                f"tokenizer char invalide : {problem}",
                expected=f"des caractères distincts, et {END_OF_TEXT} s'il sépare des documents",
                remedy="recréez le fichier, ou recopiez-le depuis l'original",
            )
        super().__init__(vocab)

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """Les caractères distincts d'un texte, triés, puis `<|endoftext|>` s'il y sépare."""
        return cls.train([text], end_of_text=END_OF_TEXT in text)

    @classmethod
    def train(cls, texts: Iterable[str], *, end_of_text: bool = True) -> CharTokenizer:
        """Les caractères distincts de textes lus au fil de l'eau, triés.

        Args:
            texts: les textes.
            end_of_text: ajoute `<|endoftext|>`, dont plusieurs documents ont besoin.
        """
        characters: set[str] = set()
        for text in texts:
            characters.update(text.replace(END_OF_TEXT, ""))
        return cls([*sorted(characters), *([END_OF_TEXT] if end_of_text else [])])

    @classmethod
    def from_nanogpt(cls, meta: Mapping[str, Any]) -> CharTokenizer:
        """Le vocabulaire du `meta.pkl` de nanoGPT, une fois en JSON : `stoi`, `itos`, ou les deux.

        Raises:
            TokenizerError: ils ne disent pas un vocabulaire de caractères.
        """
        stoi, itos = meta.get("stoi"), meta.get("itos")
        if isinstance(itos, list):
            itos = dict(enumerate(itos))
        tables = list[dict[int, Any]]()
        try:
            if itos is not None:
                tables.append({int(index): token for index, token in itos.items()})
            if stoi is not None:
                tables.append({index: token for token, index in stoi.items()})
            vocab = [tables[0][index] for index in range(len(tables[0]))]
            sizes = {len(each) for each in (stoi, itos) if each is not None}
            texts = all(type(token) is str for token in vocab)
            if tables[0] != tables[-1] or sizes != {len(vocab)} or not texts:
                raise ValueError
        except (AttributeError, LookupError, TypeError, ValueError):
            raise TokenizerError(
                "stoi et itos ne disent pas un vocabulaire de caractères",
                expected="le contenu d'un meta.pkl de nanoGPT : chaque caractère et son "
                "identifiant, de 0 en 0 sans trou, le même dans les deux",
                remedy="refaites ce fichier depuis le meta.pkl",
            ) from None
        return cls(vocab)

    def to_nanogpt(self) -> dict[str, Any]:
        """Le contenu du `meta.pkl` de nanoGPT ; voir `from_nanogpt`."""
        itos = list(self._vocab)
        return {"vocab_size": self.vocab_size, "stoi": dict(self.str_to_int), "itos": itos}

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`.

        Raises:
            TokenizerError: un caractère n'est pas dans le vocabulaire.
        """
        special = self.eos_id is not None and _separates(allowed_special)
        ids: list[int] = []
        try:
            for index, document in enumerate(text.split(END_OF_TEXT) if special else [text]):
                if index and self.eos_id is not None:
                    ids.append(self.eos_id)
                ids += [self.str_to_int[character] for character in document]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"caractère inconnu du vocabulaire : {character!r} (U+{ord(character):04X})",
                expected=f"l'un des {self.vocab_size} caractères du texte d'origine",
                remedy="changez ce caractère, ou prenez un BPE par octets, qui sait tout coder",
            ) from None
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → texte.

        Raises:
            TokenizerError: un identifiant est hors du vocabulaire.
        """
        check_ids(tokens, self.vocab_size)
        return "".join(self._vocab[int(token)] for token in tokens)

    def token_bytes(self) -> list[bytes]:
        """Les octets de chaque identifiant ; voir `ByteTokenizer`."""
        return [token.encode() for token in self._vocab]


def _problem(vocab: Sequence[str]) -> str | None:
    if not set(vocab) - {END_OF_TEXT}:
        return "aucun caractère"
    if len(set(vocab)) < len(vocab):
        return "des doublons"
    for token in vocab:
        if token != END_OF_TEXT and (len(token) != 1 or "\ud800" <= token <= "\udfff"):
            return f"le token {token[:80]!r}"
    return None
