"""Ce qu'est un tokenizer pour tout le reste, et la vérification d'identifiants commune à tous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, Protocol, runtime_checkable

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.errors import TokenizerError

ROLES = ("bos_token", "eos_token", "pad_token")
"""Les rôles que la fin de texte tient, sauf mention contraire : début, fin, remplissage."""

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

    def __hash__(self) -> int:
        """De quoi retenir ce qu'on tire de lui."""
        ...

    def token_bytes(self) -> list[bytes]:
        """Les octets de chaque identifiant, fin de texte comprise."""
        ...


@runtime_checkable
class SpecialTokenizer(Tokenizer, Protocol):
    """Un tokenizer qui a d'autres tokens spéciaux que la fin de texte, ou d'autres noms."""

    @property
    def special(self) -> Mapping[str, int]:
        """Les tokens spéciaux et leurs identifiants, dans l'ordre de ceux-ci."""
        ...

    @property
    def roles(self) -> Mapping[str, str]:
        """Le nom des tokens spéciaux dont le rôle n'est pas celui de la fin de texte."""
        ...


def special_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Les noms des tokens spéciaux d'un tokenizer ; à défaut d'autres, sa fin de texte."""
    if isinstance(tokenizer, SpecialTokenizer):
        return tuple(tokenizer.special)
    return () if tokenizer.eos_id is None else (_end_name(tokenizer, tokenizer.eos_id),)


def role_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Les tokens spéciaux qu'un gabarit appelle par leur rôle : `eos_token`, `bos_token`…

    La fin de texte tient les rôles que le vocabulaire ne donne pas à un autre (son `roles`).
    """
    names: dict[str, str] = {}
    if tokenizer.eos_id is not None:
        names = dict.fromkeys(ROLES, _end_name(tokenizer, tokenizer.eos_id))
    return names | dict(tokenizer.roles) if isinstance(tokenizer, SpecialTokenizer) else names


def _end_name(tokenizer: Tokenizer, eos_id: int) -> str:
    return tokenizer.decode([eos_id]) or END_OF_TEXT  # un décodeur peut taire la fin de texte


def role_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """L'identifiant du token de chaque rôle ; voir `role_names`."""
    named = role_names(tokenizer).items()
    return {role: tokenizer.encode(name, allowed_special={name})[0] for role, name in named}


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
