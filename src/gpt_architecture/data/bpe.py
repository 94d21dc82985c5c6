"""Son propre BPE par octets, appris sur un texte (Sennrich et al., 2016 ; Radford et al., 2019).

Le découpage est celui de GPT-2 : tout texte se code, et se relit à l'identique. La bibliothèque
`tokenizers` apprend les fusions et les applique ; le vocabulaire et les fusions restent des listes
de textes, que le fichier de modèle et les points de reprise portent.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.documents import cut_pieces
from gpt_architecture.data.tokenizer import AllowedSpecial, check_ids
from gpt_architecture.errors import MissingDependencyError, TokenizerError

logger = logging.getLogger(__name__)

MIN_VOCAB_SIZE = 257
"""Les 256 octets et `<|endoftext|>`."""

MAX_VOCAB_SIZE = 1 << 16
"""Un token tient sur 16 bits dans les fragments."""

_NAME = re.compile(r"bpe-([0-9]{1,9})")
_LONG_RUN = re.compile(r"(\S{512}|\s{512})")  # apprendre coûte le carré de la longueur d'un mot
_SIZES = f"de {MIN_VOCAB_SIZE} (256 octets et {END_OF_TEXT}) à {MAX_VOCAB_SIZE} tokens"


class BPETokenizer:
    """BPE par octets au vocabulaire choisi, sans perte.

    `<|endoftext|>` n'est connu que de cette classe : `tokenizers` ne le reconnaît donc jamais
    dans un texte où il n'est pas permis.

    Args:
        vocab: tokens dans l'ordre de leurs identifiants, octets écrits comme GPT-2 les écrit.
        merges: fusions « gauche droite », de la première apprise à la dernière.

    Raises:
        TokenizerError: listes mal formées, incohérentes ou hors bornes.
        MissingDependencyError: le paquet tokenizers manque.
    """

    name = "bpe"

    def __init__(self, vocab: Sequence[str], merges: Sequence[str]) -> None:
        problem = _problem(vocab, merges)
        if problem is not None:
            raise TokenizerError(
                f"tokenizer bpe invalide : {problem}",
                expected=f"les listes vocab et merges d'un BPE par octets, {_SIZES}",
                remedy="recréez le fichier ou réentraînez le modèle",
            )
        self._vocab, self._merges = list(vocab), list(merges)
        ids = {token: index for index, token in enumerate(self._vocab)}
        self.vocab_size = len(ids)
        self._eos = ids[END_OF_TEXT]
        self.eos_id: int | None = self._eos
        octets = {character: octet for octet, character in enumerate(byte_characters())}
        self._bytes = [
            token.encode() if token == END_OF_TEXT else bytes(octets[c] for c in token)
            for token in self._vocab
        ]
        self._engine = _engine(ids, [_halves(merge) for merge in self._merges])

    @classmethod
    def from_text(cls, text: str, vocab_size: int) -> BPETokenizer:
        """Apprend les fusions d'un texte, des plus fréquentes aux moins fréquentes.

        Le résultat ne dépend que du texte et de la taille. Une paire vue une seule fois n'est pas
        fusionnée : un petit texte donne un vocabulaire plus petit que demandé.

        Args:
            text: le texte ; `<|endoftext|>` y sépare les documents.
            vocab_size: taille visée, de `MIN_VOCAB_SIZE` à `MAX_VOCAB_SIZE`.

        Raises:
            TokenizerError: taille hors bornes.
            MissingDependencyError: le paquet tokenizers manque.
        """
        if type(vocab_size) is not int or not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"un vocabulaire BPE de {vocab_size!r} tokens",
                expected=_SIZES,
                remedy="changez la taille, par exemple bpe-4096",
            )
        engine = _engine({}, [])
        trainer = _library().trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=2,
            initial_alphabet=sorted(byte_characters()),
            show_progress=False,
        )
        engine.train_from_iterator(_training_pieces(text), trainer)
        ids: dict[str, int] = engine.get_vocab(with_added_tokens=False)
        merges = [" ".join(pair) for pair in json.loads(engine.to_str())["model"]["merges"]]
        tokenizer = cls([*sorted(ids, key=ids.__getitem__), END_OF_TEXT], merges)
        if tokenizer.vocab_size < vocab_size:
            logger.info(
                "le texte n'a de quoi former que %d tokens, sur %d demandés",
                tokenizer.vocab_size,
                vocab_size,
            )
        return tokenizer

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`."""
        special = allowed_special == "all" or END_OF_TEXT in allowed_special
        documents = text.split(END_OF_TEXT) if special else [text]
        ids: list[int] = []
        for index, document in enumerate(documents):
            if index:
                ids.append(self._eos)
            for piece in cut_pieces([_without_surrogates(document)]):
                ids += self._engine.encode(piece, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → texte ; des octets qui ne forment pas d'UTF-8 deviennent U+FFFD.

        Raises:
            TokenizerError: un identifiant est hors du vocabulaire.
        """
        check_ids(tokens, self.vocab_size)
        return b"".join(self._bytes[int(token)] for token in tokens).decode("utf-8", "replace")

    def token_bytes(self) -> list[bytes]:
        """Les octets de chaque identifiant ; voir `tokenizer.ByteTokenizer`."""
        return list(self._bytes)

    def to_dict(self) -> dict[str, Any]:
        """Nom, vocabulaire dans l'ordre des identifiants, fusions dans l'ordre appris."""
        return {"name": self.name, "vocab": list(self._vocab), "merges": list(self._merges)}

    def save(self, path: Path | str) -> None:
        """Écrit le tokenizer en JSON (UTF-8), relu par `get_tokenizer(chemin)`."""
        Path(path).write_text(json.dumps(self.to_dict(), ensure_ascii=False), encoding="utf-8")


def bpe_size(name: str) -> int | None:
    """La taille que demande un nom `bpe-N` ; None pour tout autre nom."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def byte_characters() -> list[str]:
    """Le caractère qui écrit chaque octet : lui-même s'il se voit, sinon un autre, dès U+0100.

    Source : `bytes_to_unicode`, du code de GPT-2.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(octet if octet in visible else next(others)) for octet in range(256)]


def _problem(vocab: Any, merges: Any) -> str | None:
    """Ce qui ne va pas dans une description, ou None."""
    for name, items in (("vocab", vocab), ("merges", merges)):
        if not isinstance(items, (list, tuple)) or not all(type(item) is str for item in items):
            return f"{name} n'est pas une liste de textes"
        if len(set(items)) < len(items):
            return f"{name} contient des doublons"
    if not MIN_VOCAB_SIZE <= len(vocab) <= MAX_VOCAB_SIZE:
        return f"{len(vocab)} tokens"
    if END_OF_TEXT not in vocab:
        return f"pas de token {END_OF_TEXT}"
    return _merge_problem(set(vocab) - {END_OF_TEXT}, merges)


def _merge_problem(expected: set[str], merges: Sequence[str]) -> str | None:
    """Les fusions, dans leur ordre et depuis les octets, doivent former ces tokens et eux seuls."""
    known = set(byte_characters())
    if not known <= expected:
        return "il manque des octets"
    for merge in merges:
        left, right = _halves(merge)
        if not (left in known and right in known and left + right in expected):
            return f"fusion impossible {merge[:80]!r}"
        known.add(left + right)
    return None if known == expected else "des tokens qu'aucune fusion ne forme"


def _halves(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _library() -> Any:
    try:
        import tokenizers  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("tokenizers", purpose="un BPE à soi (bpe-N)") from None
    return tokenizers


def _engine(ids: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """Le `tokenizers.Tokenizer` : découpage de GPT-2, ces fusions, aucun token ajouté."""
    library = _library()
    engine = library.Tokenizer(library.models.BPE(ids, merges))
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return engine


def _training_pieces(text: str) -> Iterator[str]:
    """Le texte par morceaux, dont aucun n'est une suite démesurée sans blanc, ou de blancs."""
    for document in _without_surrogates(text).split(END_OF_TEXT):
        for piece in cut_pieces([document]):
            yield from filter(None, _LONG_RUN.split(piece))


def _without_surrogates(text: str) -> str:
    """Les demi-codets isolés, qu'UTF-8 ne sait pas écrire, deviennent U+FFFD, comme dans gpt2."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
