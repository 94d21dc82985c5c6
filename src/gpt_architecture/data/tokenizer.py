"""Tokenizers : un protocole, ses réalisations, un seul point d'entrée.

`get_tokenizer("gpt2")` est le BPE de GPT-2 par tiktoken, construit sans réseau à partir
des rangs embarqués. `SimpleTokenizerV1` et `SimpleTokenizerV2` découpent sur les blancs et
la ponctuation ; leur vocabulaire vient d'un texte, comme celui d'un BPE à soi (`data.bpe`).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.split_patterns import GPT2_PATTERN
from gpt_architecture.errors import MissingDependencyError, TokenizerError

logger = logging.getLogger(__name__)

UNKNOWN = "<|unk|>"
GPT2_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
NAMES = ("gpt2", "simple-v1", "simple-v2", "bpe-N")

_SPLIT = re.compile(rf"({re.escape(END_OF_TEXT)}|{re.escape(UNKNOWN)}|--|[,.:;?_!\"()'«»…’—]|\s)")
_CLOSING = re.compile(r"\s+([,.:;?!\"()'…’])")

AllowedSpecial = AbstractSet[str] | Literal["all"]


class Tokenizer(Protocol):
    """Ce que chaque étape (données, entraînement, génération) demande à un tokenizer."""

    name: str
    vocab_size: int
    eos_id: int | None

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants dans [0, vocab_size[.

        Un token spécial écrit dans le texte n'est reconnu que s'il est dans
        `allowed_special` ; sinon ses caractères sont codés comme du texte ordinaire.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → texte."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Description sérialisable, relue par `tokenizer_from_dict`."""
        ...


@runtime_checkable
class ByteTokenizer(Tokenizer, Protocol):
    """Un tokenizer dont les tokens, mis bout à bout, sont les octets du texte."""

    def token_bytes(self) -> list[bytes]:
        """Les octets de chaque identifiant, fin de texte comprise."""
        ...


class GPT2Tokenizer:
    """BPE par octets de GPT-2 (Radford et al., 2019) : 50 257 tokens, sans perte."""

    name = "gpt2"

    def __init__(self) -> None:
        self._encoding = _gpt2_encoding()
        self.vocab_size: int = self._encoding.n_vocab
        self.eos_id: int | None = self._encoding.eot_token

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`."""
        ids: list[int] = self._encoding.encode(
            text, allowed_special=allowed_special, disallowed_special=()
        )
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
        Path(path).write_text(json.dumps(self.to_dict(), ensure_ascii=False), encoding="utf-8")


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


def get_tokenizer(name_or_path: str | Path = "gpt2", *, text: str | None = None) -> Tokenizer:
    """Le tokenizer d'un nom ou d'un fichier.

    Args:
        name_or_path: `gpt2`, `simple-v1`, `simple-v2`, `bpe-N` (un BPE de N tokens), ou un
            fichier JSON écrit par `save`, ou le `tokenizer.json` d'un BPE par octets.
        text: texte dont les tokenizers simples et bpe-N tirent leur vocabulaire. Il sert
            aussi de repli : si tiktoken manque, `gpt2` devient `SimpleTokenizerV2`, et un
            avertissement le dit.

    Raises:
        TokenizerError: nom inconnu, fichier illisible, ou texte manquant.
        MissingDependencyError: tiktoken manque et aucun texte ne permet le repli, ou
            tokenizers manque pour bpe-N.
    """
    from gpt_architecture.data.bpe import BPETokenizer, bpe_size

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
    size = bpe_size(name)
    if name in ("simple-v1", "simple-v2") or size is not None:
        if text is None:
            raise TokenizerError(
                f"le tokenizer {name} n'a pas de texte dont tirer son vocabulaire",
                expected="un texte, ou le fichier JSON d'un tokenizer enregistré",
                remedy="passez text=… ou le chemin du fichier",
            )
        if size is not None:
            return BPETokenizer.from_text(text, size)
        simple = SimpleTokenizerV1 if name == "simple-v1" else SimpleTokenizerV2
        return simple.from_text(text)
    path = Path(name)
    try:
        exists = path.is_file()
    except OSError:  # nom trop long pour ce système
        exists = False
    if not exists:
        raise TokenizerError(
            f"tokenizer inconnu : {name[:200]}",
            expected=f"{', '.join(NAMES)} ou un fichier JSON existant",
            remedy="corrigez --tokenizer",
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TokenizerError(
            f"{path} n'est pas un tokenizer lisible ({type(error).__name__})",
            expected="un fichier JSON écrit par save()",
            remedy="recréez-le",
        ) from None
    if isinstance(description, Mapping) and "model" in description:  # un tokenizer.json
        from gpt_architecture.data.tokenizer_json import tokenizer_from_json

        return tokenizer_from_json(description)
    return tokenizer_from_dict(description)


def tokenizer_from_dict(description: Any) -> Tokenizer:
    """Reconstruit un tokenizer depuis `Tokenizer.to_dict`.

    Raises:
        TokenizerError: description mal formée ou d'un genre inconnu.
    """
    name = description.get("name") if isinstance(description, Mapping) else None
    if name == "gpt2":
        return get_tokenizer("gpt2")
    if name == "bpe":
        from gpt_architecture.data.bpe import BPETokenizer

        return BPETokenizer.from_dict(description)
    vocab = description.get("vocab") if isinstance(description, Mapping) else None
    well_formed = isinstance(vocab, list) and all(isinstance(token, str) for token in vocab)
    if name in ("simple-v1", "simple-v2") and well_formed:
        return SimpleTokenizerV1(vocab) if name == "simple-v1" else SimpleTokenizerV2(vocab)  # type: ignore[arg-type]
    raise TokenizerError(
        f"description de tokenizer invalide (nom {name!r})",
        expected="un nom parmi gpt2, simple-v1, simple-v2, bpe et, sauf pour gpt2, sa liste vocab",
        remedy="recréez le fichier ou réentraînez le modèle",
    )


def check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    """Vérifie des identifiants.

    Raises:
        TokenizerError: l'un d'eux est hors de [0, vocab_size[.
    """
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise TokenizerError(
                f"identifiant de token {token}",
                expected=f"un entier de 0 à {vocab_size - 1}",
                remedy="décodez avec le tokenizer qui a servi à coder",
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
