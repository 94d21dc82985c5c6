"""Un token par caractère, comme `shakespeare_char` de nanoGPT (A. Karpathy, 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.data.tokenizers.protocol import AllowedSpecial, check_ids
from gpt_architecture.errors import TokenizerError


class CharTokenizer:
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
        self._vocab = list(vocab)
        self._ids = {character: index for index, character in enumerate(self._vocab)}
        self.vocab_size = len(self._ids)
        self.eos_id: int | None = self._ids.get(END_OF_TEXT)

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
            if tables[0] != tables[-1] or sizes != {len(vocab)}:
                raise ValueError
            if not all(type(token) is str for token in vocab):
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
        return {"vocab_size": self.vocab_size, "stoi": dict(self._ids), "itos": list(self._vocab)}

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`.

        Raises:
            TokenizerError: un caractère n'est pas dans le vocabulaire.
        """
        special = allowed_special == "all" or END_OF_TEXT in allowed_special
        documents = text.split(END_OF_TEXT) if special and self.eos_id is not None else [text]
        ids: list[int] = []
        try:
            for index, document in enumerate(documents):
                if index and self.eos_id is not None:
                    ids.append(self.eos_id)
                ids += [self._ids[character] for character in document]
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
        """Les octets de chaque identifiant ; voir `tokenizer_protocol.ByteTokenizer`."""
        return [token.encode() for token in self._vocab]

    def to_dict(self) -> dict[str, Any]:
        """Nom et caractères, dans l'ordre des identifiants."""
        return {"name": self.name, "vocab": list(self._vocab)}

    def save(self, path: Path | str) -> None:
        """Écrit le tokenizer en JSON (UTF-8), relu par `get_tokenizer(chemin)`."""
        write_json(path, self.to_dict())


def _problem(vocab: Sequence[str]) -> str | None:
    if not set(vocab) - {END_OF_TEXT}:
        return "aucun caractère"
    if len(set(vocab)) < len(vocab):
        return "des doublons"
    for token in vocab:
        if token != END_OF_TEXT and (len(token) != 1 or "\ud800" <= token <= "\udfff"):
            return f"le token {token[:80]!r}"
    return None
