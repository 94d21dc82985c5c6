"""Ce qui s'affiche : des tableaux simples, et visible ce qu'un écran cache ou montre mal.

Un token est un texte quelconque : une espace seule, une fin de ligne, un caractère de contrôle,
la moitié d'un caractère composé.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # ils lient les lettres de certaines écritures, et des émojis
_CONTROL_PICTURES = 0x2400


def visible_token(text: str) -> str:
    """Un token, où chaque espace, fin de ligne et caractère sans dessin devient un signe."""
    shown = "".join(_SIGNS.get(each) or _space(each) or _drawn(each) for each in text)
    if not shown:
        return "∅"
    # Un accent seul se poserait sur ce qui le précède.
    return f"◌{shown}" if unicodedata.category(shown[0]).startswith("M") else shown


def visible_text(text: str) -> str:
    """Un texte, espaces et fins de ligne laissées, où rien d'autre n'est caché."""
    return "".join(each if each == "\n" or each in _JOINERS else _drawn(each) for each in text)


def _space(character: str) -> str:
    """Le signe d'une espace autre que l'ordinaire : insécable, fine…"""
    return "⍽" if unicodedata.category(character) == "Zs" else ""


def _drawn(character: str) -> str:
    category, code = unicodedata.category(character), ord(character)
    if category not in _HIDDEN:
        return character
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return f"‹U+{code:04X}›"


def table(title: str | Text, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Un tableau simple : des noms à gauche, puis des nombres, jamais coupés."""
    found = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    found.add_column(headings[0])  # s'il faut de la place, les noms en rendent
    for heading in headings[1:]:
        found.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in rows:
        found.add_row(Text(name), *cells)
    return found
