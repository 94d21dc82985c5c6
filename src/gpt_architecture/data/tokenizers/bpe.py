"""Son propre BPE par octets, appris sur un texte (Sennrich et al., 2016 ; Radford et al., 2019).

Le découpage est celui de GPT-2 ou de GPT-4 : tout texte se code, et se relit à l'identique. La
bibliothèque `tokenizers` apprend les fusions et les applique ; le vocabulaire et les fusions
restent des listes de textes, que le fichier de modèle et les points de reprise portent.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts.documents import cut_pieces
from gpt_architecture.data.tokenizers.gpt2 import (
    PATTERN_NAMES,
    PATTERNS,
    PatternName,
    byte_characters,
)
from gpt_architecture.data.tokenizers.json_file import BPELists, write_json
from gpt_architecture.data.tokenizers.protocol import AllowedSpecial, check_ids
from gpt_architecture.errors import MissingDependencyError, TokenizerError
from gpt_architecture.french import french_number

logger = logging.getLogger(__name__)

_OCTETS = 256
MIN_VOCAB_SIZE = _OCTETS + 1
"""Les 256 octets et `<|endoftext|>`."""

MAX_VOCAB_SIZE = 1 << 16
"""Un token tient sur 16 bits dans les fragments."""

END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""Les noms que les vocabulaires de la famille donnent à la fin d'un texte, le nôtre d'abord."""

_NEARLY_ALL = 0.9  # un vocabulaire presque complet n'est pas un fait à dire
_TRAINING_PIECE = 1 << 15  # caractères ; tokenizers en tient 256 en mémoire
_NAME = re.compile(r"bpe-([0-9]{1,9})")
_LONG_RUN = re.compile(r"(\S{512}|\s{512})")  # apprendre coûte le carré de la longueur d'un mot
_SPECIAL_NAME = re.compile(r"<[!-;=?-~]{1,64}>")  # ASCII visible
_SIZES = f"de {MIN_VOCAB_SIZE} (256 octets et {END_OF_TEXT}) à {MAX_VOCAB_SIZE} tokens"


class BPETokenizer:
    """BPE par octets au vocabulaire choisi, sans perte.

    Les tokens spéciaux ne sont connus que de cette classe : `tokenizers` ne les reconnaît donc
    jamais dans un texte où ils ne sont pas permis.

    Args:
        vocab: tokens dans l'ordre de leurs identifiants, octets écrits comme GPT-2 les écrit.
        merges: fusions « gauche droite », de la première apprise à la dernière.
        pattern: découpage en mots ; voir `data.tokenizers.gpt2`.
        special: tokens de `vocab` qu'aucune fusion ne forme ; le premier de `END_NAMES` qui s'y
            trouve finit un texte, si `roles` n'en nomme pas un autre.
        roles: le nom des tokens spéciaux qui ont un rôle (`eos_token`, `bos_token`…) ; la fin de
            texte tient les autres. Un rôle donné à un token absent est ignoré.

    Raises:
        TokenizerError: listes mal formées, incohérentes ou hors bornes.
        MissingDependencyError: le paquet tokenizers manque.
    """

    name = "bpe"

    def __init__(
        self,
        vocab: Sequence[str],
        merges: Sequence[str],
        *,
        pattern: PatternName = "gpt2",
        special: Sequence[str] = (END_OF_TEXT,),
        roles: Mapping[str, str] | None = None,
    ) -> None:
        problem = _problem(vocab, merges, pattern, special) or _roles_problem(roles or {})
        if problem is not None:
            raise TokenizerError(
                f"tokenizer bpe invalide : {problem}",
                expected=f"les listes vocab et merges d'un BPE par octets, {_SIZES}",
                remedy="recréez le fichier, ou recopiez-le depuis l'original",
            )
        self._vocab, self._merges = list(vocab), list(merges)
        ids = {token: index for index, token in enumerate(self._vocab)}
        self.vocab_size = len(ids)
        self.pattern: PatternName = pattern
        self._special = {name: ids[name] for name in sorted(special, key=ids.__getitem__)}
        usual = next((name for name in END_NAMES if name in self._special), None)
        known = {role: name for role, name in (roles or {}).items() if name in self._special}
        end = known.get("eos_token", usual)
        # ce que la fin de texte dit déjà n'est pas gardé : l'empreinte d'un vocabulaire en dépend
        self.roles = {
            role: name
            for role, name in known.items()
            if name != (usual if role == "eos_token" else end)
        }
        self.eos_id: int | None = None if end is None else ids[end]
        octets = {character: octet for octet, character in enumerate(byte_characters())}
        self._bytes = [
            token.encode() if token in self._special else bytes(octets[c] for c in token)
            for token in self._vocab
        ]
        self._engine = _engine(ids, [tuple(merge.split(" ", 1)) for merge in merges], pattern)

    @classmethod
    def from_text(cls, text: str, vocab_size: int, **options: Any) -> BPETokenizer:
        """Apprend les fusions d'un texte ; voir `train`."""
        return cls.train([text], vocab_size, **options)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        pattern: PatternName = "gpt2",
        special: Sequence[str] = (),
        tells: bool = True,
    ) -> BPETokenizer:
        """Apprend les fusions de textes lus au fil de l'eau, des plus fréquentes aux plus rares.

        Le résultat ne dépend que des textes et des réglages. Une paire vue une seule fois n'est
        pas fusionnée : un petit texte donne un vocabulaire plus petit que demandé. La mémoire
        croît avec les mots distincts, non avec la longueur des textes.

        Args:
            texts: les textes ; un token spécial qui s'y trouve sépare, et n'apprend rien.
            vocab_size: taille visée, tokens spéciaux compris, au plus `MAX_VOCAB_SIZE`.
            pattern: découpage en mots ; voir `data.tokenizers.gpt2`.
            special: tokens spéciaux à ajouter à `<|endoftext|>`, dans cet ordre.
            tells: dit si le texte donne bien moins de tokens que demandé.

        Raises:
            TokenizerError: taille hors bornes, token spécial ou motif qui ne convient pas.
            MissingDependencyError: le paquet tokenizers manque.
        """
        names = tuple(dict.fromkeys((END_OF_TEXT, *special)))
        _check_training(vocab_size, pattern, names)
        engine = _engine({}, [], pattern)
        trainer = _library().trainers.BpeTrainer(
            vocab_size=vocab_size - len(names),
            min_frequency=2,
            initial_alphabet=sorted(byte_characters()),
            show_progress=False,
        )
        engine.train_from_iterator(_training_pieces(texts, names), trainer)
        ids: dict[str, int] = engine.get_vocab(with_added_tokens=False)
        merges = [" ".join(pair) for pair in json.loads(engine.to_str())["model"]["merges"]]
        vocab = [*sorted(ids, key=ids.__getitem__), *names]
        tokenizer = cls(vocab, merges, pattern=pattern, special=names)
        if tells and tokenizer.vocab_size < _NEARLY_ALL * vocab_size:
            logger.info(
                "le texte n'a pas de quoi former les %s tokens demandés : le vocabulaire en a %s",
                french_number(vocab_size),
                french_number(tokenizer.vocab_size),
            )
        return tokenizer

    @property
    def special(self) -> dict[str, int]:
        """Les tokens spéciaux et leurs identifiants, dans l'ordre de ceux-ci."""
        return dict(self._special)

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Texte → identifiants ; voir `Tokenizer.encode`."""
        allowed = [
            name for name in self._special if allowed_special == "all" or name in allowed_special
        ]
        ids: list[int] = []
        for index, part in enumerate(_split_at(text, allowed)):
            if index % 2:
                ids.append(self._special[part])
                continue
            for piece in cut_pieces([_without_surrogates(part)]):
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
        """Les octets de chaque identifiant ; voir `ByteTokenizer`."""
        return list(self._bytes)

    def to_dict(self) -> dict[str, Any]:
        """Nom, vocabulaire dans l'ordre des identifiants, fusions dans l'ordre appris.

        Motif, tokens spéciaux et rôles n'y sont que s'ils ne sont pas ceux de GPT-2 : l'empreinte
        d'un vocabulaire ne change pas d'une version à l'autre.
        """
        vocab, merges = list(self._vocab), list(self._merges)
        description: dict[str, Any] = {"name": self.name, "vocab": vocab, "merges": merges}
        if self.pattern != "gpt2":
            description["pattern"] = self.pattern
        if list(self._special) != [END_OF_TEXT]:
            description["special"] = list(self._special)
        if self.roles:
            description["roles"] = dict(self.roles)
        return description

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> BPETokenizer:
        """Relit `to_dict`.

        Raises:
            TokenizerError: listes mal formées, incohérentes ou hors bornes.
        """
        return cls(
            description.get("vocab"),  # type: ignore[arg-type]
            description.get("merges"),  # type: ignore[arg-type]
            pattern=description.get("pattern", "gpt2"),
            special=description.get("special", (END_OF_TEXT,)),
            roles=description.get("roles"),
        )

    def save(self, path: Path | str) -> None:
        """Écrit le `tokenizer.json` de ce tokenizer, relu par `get_tokenizer(chemin)`."""
        write_json(path, self.lists().document(), indent=1)

    def lists(self) -> BPELists:
        """Le vocabulaire, les fusions, le motif et les tokens spéciaux, tels que gardés."""
        vocab, merges = list(self._vocab), list(self._merges)
        return BPELists(vocab=vocab, merges=merges, pattern=self.pattern, special=self.special)


def bpe_size(name: str) -> int | None:
    """La taille que demande un nom `bpe-N` ; None pour tout autre nom."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def _problem(vocab: Any, merges: Any, pattern: Any, special: Any) -> str | None:
    """Ce qui ne va pas dans une description, ou None."""
    for name, items in (("vocab", vocab), ("merges", merges), ("special", special)):
        if not isinstance(items, (list, tuple)) or not all(type(item) is str for item in items):
            return f"{name} n'est pas une liste de textes"
        if len(set(items)) < len(items):
            return f"{name} contient des doublons"
    if pattern not in PATTERN_NAMES:
        return f"motif inconnu {str(pattern)[:80]!r}"
    if not _OCTETS <= len(vocab) <= MAX_VOCAB_SIZE:
        return f"{len(vocab)} tokens"
    absent = sorted(set(special) - set(vocab))
    if absent:
        return f"pas de token {absent[0][:80]}"
    return _merge_problem(set(vocab) - set(special), merges)


def _roles_problem(roles: Any) -> str | None:
    if isinstance(roles, Mapping) and all(type(t) is str for pair in roles.items() for t in pair):
        return None
    return "roles n'est pas un dictionnaire de textes"


def _check_training(vocab_size: int, pattern: PatternName, special: Sequence[str]) -> None:
    """Les réglages d'un apprentissage."""
    least = _OCTETS + len(special)
    if type(vocab_size) is not int or not least <= vocab_size <= MAX_VOCAB_SIZE:
        sizes = f"de {least} ({_OCTETS} octets et {', '.join(special)}) à {MAX_VOCAB_SIZE} tokens"
        raise TokenizerError(
            f"un vocabulaire BPE de {vocab_size!r} tokens",
            expected=sizes,
            remedy="changez la taille, par exemple bpe-4096",
        )
    if pattern not in PATTERN_NAMES:
        raise TokenizerError(
            f"motif de découpage {pattern!r}",
            expected=" ou ".join(PATTERN_NAMES),
            remedy="corrigez le motif",
        )
    for name in special:
        if not _SPECIAL_NAME.fullmatch(name):
            raise TokenizerError(
                f"token spécial {name[:80]!r}",
                expected="un nom sans blanc entre < et >, comme <|user|>",
                remedy="changez ce nom",
            )


def _merge_problem(expected: set[str], merges: Sequence[str]) -> str | None:
    """Les fusions, dans leur ordre et depuis les octets, doivent former ces tokens et eux seuls."""
    known = set(byte_characters())
    if not known <= expected:
        return "il manque des octets"
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not (left in known and right in known and left + right in expected):
            return f"fusion impossible {merge[:80]!r}"
        known.add(left + right)
    return None if known == expected else "des tokens qu'aucune fusion ne forme"


def _library() -> Any:
    try:
        import tokenizers  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("tokenizers", purpose="un BPE à soi (bpe-N)") from None
    return tokenizers


def _engine(ids: dict[str, int], merges: list[tuple[str, ...]], pattern: PatternName) -> Any:
    """Le `tokenizers.Tokenizer` : ce découpage, ces fusions, aucun token ajouté."""
    library = _library()
    engine = library.Tokenizer(library.models.BPE(ids, merges))
    steps = library.pre_tokenizers
    if pattern == "gpt2":  # le motif que ByteLevel porte en lui, plus rapide
        engine.pre_tokenizer = steps.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        split = steps.Split(library.Regex(PATTERNS[pattern]), behavior="isolated")
        octets = steps.ByteLevel(add_prefix_space=False, use_regex=False)
        engine.pre_tokenizer = steps.Sequence([split, octets])
    return engine


def _training_pieces(texts: Iterable[str], special: Sequence[str]) -> Iterator[str]:
    """Les textes par morceaux, dont aucun n'est une suite démesurée sans blanc, ou de blancs."""
    for text in texts:
        for document in _split_at(_without_surrogates(text), special)[::2]:
            for piece in cut_pieces([document], _TRAINING_PIECE):
                yield from filter(None, _LONG_RUN.split(piece))


def _split_at(text: str, names: Sequence[str]) -> list[str]:
    """Coupe un texte à ces noms, gardés aux rangs impairs ; le plus long nom l'emporte."""
    if not names:
        return [text]
    longest_first = sorted(names, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def _without_surrogates(text: str) -> str:
    """Les demi-codets isolés, qu'UTF-8 ne sait pas écrire, deviennent U+FFFD, comme dans gpt2."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
