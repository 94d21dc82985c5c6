"""Un texte dont on sait qui a écrit chaque caractère : un gabarit, ou une personne.

`<|user|>` écrit par un gabarit est un token spécial ; les mêmes caractères, tapés par une personne
dans un message, sont du texte. Une fois rendus, rien ne les distingue plus : chaque caractère
garde donc son origine, à travers ce que les gabarits font des textes. Ce que ces opérations ne
savent pas suivre compte comme tapé : un token spécial peut s'y perdre, jamais s'y glisser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

from gpt_architecture.data.tokenizers.protocol import Tokenizer, special_names
from gpt_architecture.errors import ConfigurationError

_TYPED, _WRITTEN = b"\0", b"\1"
_WRITTEN_RUN = re.compile(b"\1+")


class MarkedText(str):
    """Un texte, et l'origine de ses caractères.

    `+` et `"".join` rendent un `str` ordinaire, entièrement tapé ; voir `concatenate`.

    Attributes:
        origins: un octet par caractère ; 1 : écrit par un gabarit, 0 : tapé.
    """

    __slots__ = ("origins",)
    origins: bytes

    def __new__(cls, text: str, origins: bytes) -> MarkedText:
        """Le texte, et ses origines."""
        found = super().__new__(cls, plain(text))
        found.origins = origins
        return found

    def __getnewargs__(self) -> tuple[str, bytes]:  # type: ignore[override]
        """De quoi se recopier dans un autre processus."""
        return plain(self), self.origins

    def __str__(self) -> str:
        """Lui-même : Jinja passe par `str` tout ce qu'il écrit."""
        return self

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> MarkedText:
        """Un caractère ou une tranche."""
        span = key if isinstance(key, slice) else slice(key, (key.__index__() + 1) or None)
        return MarkedText(super().__getitem__(key), self.origins[span])

    def lstrip(self, characters: str | None = None, /) -> MarkedText:
        """Sans ces caractères au début."""
        return self[len(self) - len(super().lstrip(characters)) :]

    def rstrip(self, characters: str | None = None, /) -> MarkedText:
        """Sans ces caractères à la fin."""
        return self[: len(super().rstrip(characters))]

    def strip(self, characters: str | None = None, /) -> MarkedText:
        """Sans ces caractères aux deux bouts."""
        return self.lstrip(characters).rstrip(characters)

    def removeprefix(self, prefix: str, /) -> MarkedText:
        """Sans ce début."""
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> MarkedText:
        """Sans cette fin."""
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def split(self, separator: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """Les morceaux, de gauche à droite."""
        return self._located(super().split(separator, maxsplit), separator)

    def rsplit(self, separator: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """Les morceaux, coupés de droite à gauche."""
        return self._located(super().rsplit(separator, maxsplit), separator)

    def splitlines(self, keepends: bool = False) -> list[str]:
        """Les lignes."""
        return self._located(super().splitlines(keepends), None)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """`new` à la place de `old` ; chacun garde son origine."""
        if not old:
            return super().replace(old, new, count)
        first, *others = self.split(old, count)
        return concatenate([first, *(part for other in others for part in (new, other))])

    def upper(self) -> str:
        """En majuscules."""
        return self._aligned(super().upper())

    def lower(self) -> str:
        """En minuscules."""
        return self._aligned(super().lower())

    def title(self) -> str:
        """Une majuscule à chaque mot."""
        return self._aligned(super().title())

    def capitalize(self) -> str:
        """Une majuscule au début."""
        return self._aligned(super().capitalize())

    def _aligned(self, text: str) -> str:
        """Un texte de même longueur correspond caractère à caractère ; sinon, il compte tapé."""
        return MarkedText(text, self.origins) if len(text) == len(self) else text

    def _located(self, pieces: Sequence[str], separator: str | None) -> list[str]:
        """Ces morceaux, à leur place : sans séparateur, seuls des blancs les séparent."""
        found: list[str] = []
        cursor = 0
        for piece in pieces:
            start = self.find(piece, cursor) if separator is None else cursor
            cursor = start + len(piece)
            found.append(self[start:cursor])
            cursor += len(separator or "")
        return found


def plain(text: str) -> str:
    """Le `str` ordinaire : les mêmes caractères, sans leur origine."""
    return str.__str__(text)


def written(text: str) -> MarkedText:
    """Ce texte, comme écrit par un gabarit : un nom de token spécial en est un."""
    return MarkedText(text, _WRITTEN * len(text))


def concatenate(parts: Iterable[str]) -> str:
    """Ces textes bout à bout ; chacun garde ses origines."""
    parts = list(parts)
    text = "".join(parts)
    if not any(isinstance(part, MarkedText) for part in parts):
        return text
    return MarkedText(text, b"".join(map(_origins, parts)))


def replace_in(text: str, old: str, new: str, count: int) -> str:
    """Comme `text.replace` ; ce qu'un gabarit met à la place reste écrit par lui."""
    return MarkedText(text, _origins(text)).replace(old, new, count)


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Texte → identifiants : un nom de token spécial en est un là où un gabarit l'a écrit.

    Un `str` ordinaire est entièrement tapé. Entre deux tokens spéciaux, tout se code d'un bloc,
    quelle qu'en soit l'origine, comme dans Transformers et llama.cpp.

    Raises:
        TokenizerError: un mot n'est pas dans un vocabulaire fermé.
    """
    if not isinstance(text, MarkedText):
        return tokenizer.encode(text)
    ids: list[int] = []
    done = 0
    bare = plain(text)
    for start, end in _special_spans(text, special_names(tokenizer)):
        if start > done:
            ids += tokenizer.encode(bare[done:start])
        name = bare[start:end]
        ids += tokenizer.encode(name, allowed_special={name})
        done = end
    return ids + tokenizer.encode(bare[done:]) if done < len(bare) else ids


def keep_prompt(prompt: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """L'invite des exemples d'un entraînement, en métadonnées que `own_prompt` relit."""
    ids = encode_text(prompt, tokenizer)
    typed = ids == tokenizer.encode(plain(prompt))
    special = not typed and ids == encode_text(written(prompt), tokenizer)
    return {"prompt": plain(prompt), "prompt_special": special}


def own_prompt(metadata: Mapping[str, Any]) -> str | None:
    """L'invite des exemples de l'entraînement, que les métadonnées d'un modèle gardent.

    Rendu par un gabarit, ses tokens spéciaux en sont, à moins qu'une question n'en imite un.
    """
    prompt = metadata.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return None
    return written(prompt) if metadata.get("prompt_special") is True else prompt


def chosen_prompt(prompt: str | None, metadata: Mapping[str, Any]) -> str:
    """L'invite demandée, sinon celle des exemples de l'entraînement.

    Raises:
        ConfigurationError: ni l'un ni l'autre.
    """
    chosen = own_prompt(metadata) if prompt is None else prompt
    if not chosen:
        raise ConfigurationError(
            "aucune invite", expected="quelques mots", remedy="donnez `prompt`"
        )
    return chosen


def _special_spans(text: MarkedText, names: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Les places des tokens spéciaux qu'un gabarit a écrits ; le plus long nom l'emporte."""
    if not names:
        return
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    for run in _WRITTEN_RUN.finditer(text.origins):
        for found in pattern.finditer(text, *run.span()):
            yield found.span()


def _origins(text: str) -> bytes:
    return text.origins if isinstance(text, MarkedText) else _TYPED * len(text)
