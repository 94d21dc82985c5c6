"""D'un arbre HTML ou XML à des paragraphes.

Le texte de chaque bloc est un paragraphe, séparé du suivant par une ligne vide ; `<br>` est une fin
de ligne, une tabulation sépare les cases d'un tableau. L'arbre est parcouru sans récursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gpt_architecture.data.texts.documents import UNREADABLE, Rejected

_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd"),
        *("details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer"),
        *("form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "item", "legend"),
        *("li", "list", "main", "nav", "ol", "p", "pre", "quote", "row", "section", "summary"),
        *("table", "tbody", "tfoot", "thead", "tr", "ul"),
    )
)
_CELLS = frozenset({"td", "th", "cell"})
_BREAKS = frozenset({"br", "lb"})
_DROPPED = frozenset(
    (
        *("script", "style", "template", "noscript", "iframe", "object", "svg", "math"),
        *("textarea", "select", "button", "title"),
    )
)
AROUND = frozenset({"nav", "header", "footer", "aside", "form"})
"""Ce qui entoure le texte d'une page."""

_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_CHARSET = re.compile(
    rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]+encoding=["']([\w.:-]+)"""
)
_LATIN = ("iso-8859-1", "latin1", "latin-1", "us-ascii")
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def join_paragraphs(paragraphs: Iterable[str]) -> str:
    """Un texte, où une ligne vide sépare les paragraphes ; les vides n'en sont pas."""
    return "\n\n".join(each for each in (one.strip() for one in paragraphs) if each)


def paragraphs_of(root: Any, *, dropped: frozenset[str] = frozenset()) -> list[str]:
    """Les paragraphes d'un arbre lxml."""
    from lxml import etree  # noqa: PLC0415 — facultatif

    found, pending = list[str](), list[str]()
    hidden = 0
    ignored = _DROPPED | dropped

    def close() -> None:
        found.append("".join(pending))
        pending.clear()

    def add(text: str | None, *, raw: bool) -> None:
        if text and not hidden:
            pending.append(text if raw else _SPACES.sub(" ", text))

    kept = 0  # dans un <pre>
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        name = element.tag if isinstance(element.tag, str) else ""
        name = name.rpartition("}")[2].lower()
        if event == "start":
            hidden += name in ignored
            kept += name == "pre"
            if name in _BLOCKS:
                close()
            elif name in _CELLS and "".join(pending).strip():
                pending.append("\t")
            elif name in _BREAKS:
                pending.append("\n")
            add(element.text, raw=kept > 0)
            continue
        if event == "end":
            hidden -= name in ignored
            kept -= name == "pre"
            if name in _BLOCKS:
                close()
        if element is not root:
            add(element.tail, raw=kept > 0)
    close()
    return ["\n".join(line.strip(" ") for line in each.split("\n")) for each in found]


def parse_html(text: str) -> Any:
    """L'arbre d'une page.

    Raises:
        Rejected: elle est trop imbriquée, ou vide.
    """
    from lxml import etree, html  # noqa: PLC0415

    parser = html.HTMLParser(encoding="utf-8")
    try:
        root = html.document_fromstring(text.encode("utf-8"), parser=parser)
    except etree.ParserError:
        raise Rejected(UNREADABLE, "aucun élément HTML") from None
    if any("depth" in each.message.lower() for each in parser.error_log):
        raise Rejected(UNREADABLE, "HTML trop imbriqué")
    return root


def decode_markup(data: bytes) -> str:
    """Le texte d'une page, dans l'encodage qu'elle annonce ; à défaut UTF-8.

    Raises:
        Rejected: encodage inconnu, ou octets qui n'en sont pas.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "")
    if not encoding and (found := _CHARSET.search(data[:2048])) is not None:
        encoding = (found[1] or found[2]).decode("ascii", "replace").lower()
        # Comme un navigateur : une page dont l'annonce se lit n'est pas en UTF-16
        encoding = "windows-1252" if encoding in _LATIN else encoding
        encoding = "utf-8" if encoding.startswith("utf-16") else encoding
    try:
        return data.decode(encoding or "utf-8")
    except (LookupError, ValueError):
        said = f"l'encodage annoncé, {encoding}," if encoding else "aucun encodage annoncé ; UTF-8"
        raise Rejected(UNREADABLE, f"{said} ne convient pas aux octets") from None
