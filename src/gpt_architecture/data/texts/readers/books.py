"""EPUB : les chapitres d'un livre, dans l'ordre de sa lecture."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from gpt_architecture.data.texts.documents import EMPTY, UNREADABLE, Rejected
from gpt_architecture.data.texts.readers.base import Format, register
from gpt_architecture.data.texts.readers.isolation import isolated, read_document
from gpt_architecture.data.texts.readers.markup import (
    decode_markup,
    join_paragraphs,
    paragraphs_of,
    parse_html,
)
from gpt_architecture.data.texts.readers.packages import opened_package, read_member

_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html")


def parse(data: bytes) -> str:
    """Les chapitres, dans l'ordre que donne l'épine du livre ; sa table n'en est pas un."""
    from defusedxml import ElementTree  # noqa: PLC0415 — facultatif

    with opened_package(data) as book:
        container = ElementTree.fromstring(read_member(book, _CONTAINER))
        root = next((each.get("full-path", "") for each in _named(container, "rootfile")), "")
        package = ElementTree.fromstring(read_member(book, root))
        pages = {
            each.get("id"): each.get("href", "")
            for each in _named(package, "item")
            if each.get("media-type") in _PAGES and "nav" not in (each.get("properties") or "")
        }
        folder = posixpath.dirname(root)
        paragraphs = list[str]()
        for each in _named(package, "itemref"):
            if (page := pages.get(each.get("idref"))) is not None:
                paragraphs += _chapter(book, posixpath.join(folder, unquote(page)))
    text = join_paragraphs(paragraphs)
    if not text:
        raise Rejected(EMPTY)
    return text


def _chapter(book: zipfile.ZipFile, name: str) -> list[str]:
    page = parse_html(decode_markup(read_member(book, posixpath.normpath(name))))
    body = page.find("body")
    if body is None:
        raise Rejected(UNREADABLE, f"{name} n'a pas de corps")
    return paragraphs_of(body)


def _named(root: Any, name: str) -> Iterator[Any]:
    """Les éléments de ce nom, quel que soit leur espace de noms."""
    return (each for each in root.iter() if each.tag.rpartition("}")[2] == name)


register(
    Format(
        name="epub",
        suffixes=(".epub",),
        read=read_document,
        extract=isolated("epub"),
        parse=parse,
        needs=(("lxml", "lxml"), ("defusedxml", "defusedxml")),
    )
)
