"""Les caractères d'un document : forme normale d'Unicode, contrôles, largeur nulle."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

_BREAKS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# U+200C et U+200D restent : le persan et les émojis composés s'écrivent avec eux
_SUSPECT = re.compile(f"{_BREAKS.pattern}|{_CONTROLS.pattern}|{_INVISIBLE.pattern}")

MAX_MARKS = 64
"""Accents sur une même lettre : les trier, pour la forme NFC, coûte le carré de leur nombre."""


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Un texte nettoyé, et ce qui y a changé.

    Attributes:
        text: le texte.
        controls: caractères de contrôle retirés, ou remplacés par une fin de ligne.
        invisible: caractères de largeur nulle retirés.
        marks: accents retirés d'une lettre qui en a plus de `MAX_MARKS`.
        recomposed: caractères que la forme NFC a réunis ou remplacés.
        example: premier mot changé par la forme NFC, points de code avant et après ; "" sans lui.
    """

    text: str
    controls: int = 0
    invisible: int = 0
    marks: int = 0
    recomposed: int = 0
    example: str = ""


def clean_characters(text: str, *, nfc: bool, controls: bool) -> Characters:
    """Met un texte sous la forme NFC et en retire ce qui ne se voit pas.

    Les séparateurs de ligne et de page (U+2028, saut de page…) deviennent des fins de ligne ; les
    autres contrôles, sauf la tabulation, disparaissent, comme les marques de sens d'écriture, le
    trait d'union conditionnel et les espaces de largeur nulle.

    Args:
        text: le document.
        nfc: demande la forme normale.
        controls: demande le retrait des contrôles et des caractères de largeur nulle.
    """
    breaks = removed = invisible = marks = recomposed = 0
    example = ""
    if controls and _SUSPECT.search(text):
        text, breaks = _BREAKS.subn("\n", text)
        text, removed = _CONTROLS.subn("", text)
        text, invisible = _INVISIBLE.subn("", text)
    if nfc and not text.isascii() and _perhaps_marks().search(text):
        before = len(text)
        text = _piled().sub(lambda found: found[0][:MAX_MARKS], text)
        marks = before - len(text)
    if nfc and not unicodedata.is_normalized("NFC", text):
        recomposed, example = _difference(text)
        text = unicodedata.normalize("NFC", text)
    return Characters(
        text=text,
        controls=breaks + removed,
        invisible=invisible,
        marks=marks,
        recomposed=recomposed,
        example=example,
    )


@cache
def _piled() -> re.Pattern[str]:
    """Plus de `MAX_MARKS` marques combinantes de suite ; aucune n'est au-delà de U+1FFFF."""
    return re.compile(f"[{_marks(0x300, 0x20000)}]{{{MAX_MARKS + 1},}}")


@cache
def _perhaps_marks() -> re.Pattern[str]:
    """Une marque, ou un caractère au-delà de U+FFFF.

    `re` range dans une table les seules classes des caractères d'avant : sur du français, cette
    recherche est quarante fois plus rapide que la précédente.
    """
    return re.compile(f"[{_marks(0x300, 0x10000)}\U00010000-\U0001ffff]")


def _marks(start: int, stop: int) -> str:
    """Les marques de cet intervalle, pour une classe de `re` : des intervalles."""
    marks = [code for code in range(start, stop) if is_mark(chr(code))]
    firsts = [code for code in marks if not is_mark(chr(code - 1))]
    lasts = [code for code in marks if not is_mark(chr(code + 1))]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(firsts, lasts, strict=True))


def is_mark(character: str) -> bool:
    """Vrai d'un caractère que la forme normale range avec d'autres, après une lettre."""
    if unicodedata.combining(character):
        return True
    parts = unicodedata.decomposition(character)  # U+0F73 n'en est pas un, mais en contient deux
    return bool(parts) and bool(unicodedata.combining(unicodedata.normalize("NFD", character)[0]))


def _difference(text: str) -> tuple[int, str]:
    """Les caractères qui changent sous NFC, et le premier mot où il y en a.

    Un blanc sépare : aucune composition ne l'enjambe.
    """
    count, example = 0, ""
    for word in text.split():
        normal = unicodedata.normalize("NFC", word)
        if normal != word:
            common = len(word) - _common_prefix(word, normal)
            count += max(1, common - (len(normal) - _common_prefix(word, normal)))
            example = example or f"{_points(word)} → {_points(normal)}"
    return max(count, 1), example


def _common_prefix(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _points(word: str) -> str:
    """« e + U+0301 » : ce qui n'est pas ASCII par son numéro, le reste tel quel."""
    parts = [each if each.isascii() else f"⟨U+{ord(each):04X}⟩" for each in word[:24]]
    return "".join(parts) + ("…" if len(word) > 24 else "")
