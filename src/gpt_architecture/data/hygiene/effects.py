"""Ce que l'hygiène a retiré : combien, de quelle taille, et quelques exemples de chaque sorte."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gpt_architecture.data.texts.documents import printable

EXAMPLES = 20
"""Exemples gardés de chaque sorte de retrait."""
_EXCERPT = 280
_WHERE = 200
_CUT_WORD = re.compile(r"\s+\S*$")

DOCUMENTS, PASSAGES, CHARACTERS = "document", "passage", "caractère"
"""Ce qu'une sorte de retrait compte."""


@dataclass(kw_only=True)
class Effect:
    """Une sorte de retrait.

    Attributes:
        unit: ce que `count` compte.
        count: combien.
        characters: caractères de texte retirés.
        examples: (clé, où, précision, extrait) ; la clé fait le tirage et l'ordre.
    """

    unit: str
    count: int = 0
    characters: int = 0
    examples: list[list[Any]] = field(default_factory=list)


class Effects:
    """Les retraits d'un lot, ou d'un corpus ; leur somme ne dépend pas de l'ordre des lots.

    Attributes:
        by_reason: raison → retrait.
    """

    def __init__(self) -> None:
        self.by_reason: dict[str, Effect] = {}

    def add(
        self,
        reason: str,
        unit: str,
        where: str,
        text: str,
        *,
        detail: str = "",
        count: int = 1,
        characters: int = 0,
    ) -> None:
        """Compte un retrait, et le garde peut-être en exemple."""
        effect = self.by_reason.setdefault(reason, Effect(unit=unit))
        effect.count += count
        effect.characters += characters
        where = printable(where)
        key = zlib.crc32(f"{where}\0{text[:_EXCERPT]}".encode())
        examples = effect.examples
        if len(examples) < EXAMPLES or key < examples[-1][0]:
            examples.append([key, where[:_WHERE], detail[:_WHERE], excerpt(text)])
            examples.sort()
            del examples[EXAMPLES:]

    def merge(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Ajoute les retraits d'un autre lot, tels que `to_dict` les rend."""
        for reason, found in other.items():
            effect = self.by_reason.setdefault(reason, Effect(unit=found["unit"]))
            effect.count += found["count"]
            effect.characters += found["characters"]
            effect.examples = sorted([*effect.examples, *found["examples"]])[:EXAMPLES]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """En types simples, raisons triées."""
        return {reason: asdict(self.by_reason[reason]) for reason in sorted(self.by_reason)}


def excerpt(text: str) -> str:
    """Le début d'un texte, et sa fin s'il est long."""
    if len(text) <= _EXCERPT:
        return text
    start, end = text[: _EXCERPT * 3 // 4], text[-_EXCERPT // 4 :]
    return f"{_to_blank(start)} […] {_to_blank(end[::-1])[::-1]}"


def _to_blank(text: str) -> str:
    """Ce texte sans son dernier mot, peut-être coupé ; tel quel s'il n'en a qu'un."""
    found = _CUT_WORD.search(text)
    return text[: found.start()] if found and found.start() else text
