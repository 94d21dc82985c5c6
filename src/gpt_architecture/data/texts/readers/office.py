"""DOCX et ODT : les paragraphes et les tableaux d'un traitement de texte."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from gpt_architecture.data.texts.documents import EMPTY, UNREADABLE, Rejected
from gpt_architecture.data.texts.readers.base import Format, register
from gpt_architecture.data.texts.readers.isolation import isolated, read_document
from gpt_architecture.data.texts.readers.markup import join_paragraphs
from gpt_architecture.data.texts.readers.packages import opened_package


def parse_docx(data: bytes) -> str:
    """Les paragraphes et les tableaux du corps d'un DOCX."""
    import docx  # noqa: PLC0415 — facultatif

    with opened_package(data):
        document = docx.Document(io.BytesIO(data))
    return _text(_docx_blocks(document))


def _docx_blocks(container: Any) -> Iterator[str]:
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                yield "\t".join(cell.text.replace("\n", " ") for cell in row.cells)
        else:
            yield block.text


def parse_odt(data: bytes) -> str:
    """Les titres, paragraphes et tableaux d'un ODT."""
    from odf import opendocument, teletype  # noqa: PLC0415 — facultatif

    with opened_package(data) as archive:
        if "META-INF/manifest.xml" not in archive.namelist():
            raise Rejected(UNREADABLE, "ce n'est pas un document OpenDocument")
    return _text(_odt_blocks(opendocument.load(io.BytesIO(data)).text, teletype.extractText))


def _odt_blocks(root: Any, text_of: Any) -> Iterator[str]:
    pending = [root]
    while pending:
        node = pending.pop()
        name = getattr(node, "qname", ("", ""))[1]
        if name in ("p", "h"):
            yield text_of(node)
        elif name == "table-row":
            cells = [text_of(each) for each in node.childNodes]
            yield "\t".join(cells)
        elif name not in ("tracked-changes", "table-of-content"):
            pending += reversed(getattr(node, "childNodes", ()))


def _text(blocks: Iterator[str]) -> str:
    text = join_paragraphs(blocks)
    if not text:
        raise Rejected(EMPTY)
    return text


register(
    Format(
        name="docx",
        suffixes=(".docx",),
        read=read_document,
        extract=isolated("docx"),
        parse=parse_docx,
        needs=(("docx", "python-docx"),),
    )
)
register(
    Format(
        name="odt",
        suffixes=(".odt",),
        read=read_document,
        extract=isolated("odt"),
        parse=parse_odt,
        needs=(("odf", "odfpy"), ("defusedxml", "defusedxml")),
    )
)
