"""Ce qu'un terminal montre : des tableaux, et visible ce qu'un écran cache.

Un token est un texte quelconque : une espace seule, une fin de ligne, un caractère de contrôle,
la moitié d'un caractère composé.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # ils lient les lettres de certaines écritures, et des émojis
_CONTROL_PICTURES = 0x2400
_NO_BREAK = "\u00a0"
_QUOTE_SPACE = re.compile("(?<=«) | (?=»)")


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
        label = name.lstrip(" ")  # la suite d'un nom coupé s'aligne sur son début
        found.add_row(Padding(_Name(label), (0, 0, 0, len(name) - len(label))), *cells)
    return found


class _Name:
    """Un nom, coupé s'il le faut entre ses mots ; jamais après « ni avant », comme le ferait rich.

    Args:
        text: le nom ; ses espaces insécables sont tenues pour telles, rich y couperait.
    """

    def __init__(self, text: str) -> None:
        self._text = _QUOTE_SPACE.sub(_NO_BREAK, text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *words = self._text.split(" ")
        lines = [first]
        for word in words:
            longer = f"{lines[-1]} {word}"
            if cell_len(longer) <= options.max_width:
                lines[-1] = longer
            else:
                lines.append(word)
        yield from (Text(line, overflow="ellipsis", no_wrap=True) for line in lines)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        words = [cell_len(each) for each in self._text.split(" ")]
        return Measurement(max(words), cell_len(self._text)).with_maximum(options.max_width)


TableData = tuple[str, Sequence[str], Iterable[Sequence[str]]]
"""Titre, en-têtes, lignes ; le premier élément de chaque ligne la nomme."""
