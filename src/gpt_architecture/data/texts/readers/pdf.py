"""PDF : la couche de texte, page après page.

Un PDF ne connaît que des lignes, à des places : ses paragraphes sont devinés d'un écart plus grand
que les autres ou d'un retrait, et une ligne courte en finit un. Une image de texte n'a pas de
couche de texte : elle est dite vide.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpt_architecture.data.texts.documents import EMPTY, UNREADABLE, Rejected
from gpt_architecture.data.texts.readers.base import Format, register
from gpt_architecture.data.texts.readers.isolation import isolated, read_document
from gpt_architecture.data.texts.readers.markup import join_paragraphs

_HYPHENS = "\x02\ufffe"  # ce que PDFium met à une césure
_GAP = 1.35  # interlignes
_SHORT = 0.8  # part de la largeur de la page
_INDENT = 0.6  # hauteurs de ligne


@dataclass(frozen=True)
class _Line:
    """Une ligne : son texte et sa place, en points, l'ordonnée croissant vers le haut."""

    text: str
    left: float
    right: float
    bottom: float
    height: float


def parse(data: bytes) -> str:
    """Le texte des pages, une ligne vide entre les paragraphes."""
    import pypdfium2  # noqa: PLC0415 — facultatif

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        said = "PDF chiffré, à déchiffrer d'abord" if locked else "PDF abîmé"
        raise Rejected(UNREADABLE, said) from None
    pages = []
    for number in range(len(document)):
        try:
            page = document[number]
            layer = page.get_textpage()
            pages.append(_flow(_lines(layer)))
        except pypdfium2.PdfiumError:
            raise Rejected(UNREADABLE, f"PDF abîmé, page {number + 1}") from None
        layer.close()
        page.close()
    document.close()
    found = join_paragraphs(pages)
    if not found:
        raise Rejected(EMPTY, "un PDF sans couche de texte, à passer à un OCR")
    return found


def _lines(layer: Any) -> list[_Line]:
    found, start = [], 0
    for each in layer.get_text_range().replace("\0", " ").split("\r\n"):
        end = start + len(each)
        if text := each.strip(" "):
            first = start + len(each) - len(each.lstrip(" "))
            last = max(first, end - 1 - (len(each) - len(each.rstrip(" "))))
            last -= text[-1] in _HYPHENS and last > first
            if last < layer.count_chars():
                left, bottom, _, top = layer.get_charbox(first, loose=True)
                right = layer.get_charbox(last, loose=True)[2]
                found.append(_Line(text, left, right, bottom, top - bottom))
        start = end + 2
    return found


def _flow(lines: list[_Line]) -> str:
    """Les lignes d'une page, recollées en paragraphes."""
    if not lines:
        return ""
    drops = sorted(
        above.bottom - below.bottom
        for above, below in pairwise(lines)
        if above.bottom - below.bottom > 0.3 * above.height
    )
    spacing = drops[len(drops) // 3] if drops else 0.0
    left = min(each.left for each in lines)
    width = max(each.right for each in lines) - left
    text = lines[0].text
    for above, below in pairwise(lines):
        indented = below.left - left > _INDENT * below.height >= above.left - left
        if above.bottom - below.bottom > _GAP * spacing or indented:
            join = "\n\n"
        elif text[-1] in _HYPHENS:
            text, join = text[:-1], ""
        else:
            join = "\n" if above.right - left < _SHORT * width else " "
        text += join + below.text
    return text.translate(dict.fromkeys(map(ord, _HYPHENS)))


register(
    Format(
        name="pdf",
        suffixes=(".pdf",),
        read=read_document,
        extract=isolated("pdf"),
        parse=parse,
        magic=(b"%PDF-",),
        needs=(("pypdfium2", "pypdfium2"),),
    )
)
