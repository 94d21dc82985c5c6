"""HTML : le texte principal d'une page."""

from __future__ import annotations

from gpt_architecture.data.texts.documents import EMPTY, Rejected
from gpt_architecture.data.texts.readers.base import Format, register
from gpt_architecture.data.texts.readers.isolation import isolated, read_document
from gpt_architecture.data.texts.readers.markup import (
    AROUND,
    decode_markup,
    join_paragraphs,
    paragraphs_of,
    parse_html,
)


def parse(data: bytes) -> str:
    """Le texte principal d'une page ; d'une page courte, tout ce qui n'est pas autour du texte."""
    import trafilatura  # noqa: PLC0415 — facultatif

    page = decode_markup(data)
    root = parse_html(page)
    found = trafilatura.bare_extraction(
        page, include_comments=False, include_tables=True, with_metadata=False
    )
    body = getattr(found, "body", None)
    text = "" if body is None else join_paragraphs(paragraphs_of(body))
    if not text and (body := root.find("body")) is not None:
        text = join_paragraphs(paragraphs_of(body, dropped=AROUND))
    if not text:
        raise Rejected(EMPTY)
    return text


def _guess(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html"))


register(
    Format(
        name="html",
        suffixes=(".html", ".htm", ".xhtml"),
        read=read_document,
        extract=isolated("html"),
        parse=parse,
        guess=_guess,
        needs=(("lxml", "lxml"), ("trafilatura", "trafilatura")),
    )
)
