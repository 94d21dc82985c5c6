"""Lire une page HTML, et s'assurer qu'elle se suffit à elle-même."""

import re
from html.parser import HTMLParser

HOSTILE = "</script><img src=x onerror=alert(1)>\x00\u202e\"'&"
_VOID = {"meta", "link", "br", "img", "input", "use", "circle", "rect", "path", "line"}


class Reader(HTMLParser):
    """Éléments bien emboîtés, attributs, texte visible."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def read_page(page):
    """La page lue ; elle ne demande rien à personne et n'a ni image ni gestionnaire."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not {"img", "link", "iframe", "object"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "src"):
            assert value.startswith("#"), value
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    return reader


def read_cell(html, links=()):
    """Le fragment d'un carnet, lu ; il n'exécute rien, ne demande rien, et n'habille que lui."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert not {"script", "img", "link", "iframe", "object", "html", "body"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "src"):
            assert value in links, value
    assert not re.search(r"@import|url\(", html)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    for rule in re.findall(r"([^{}]+)\{", style):
        assert all(each.strip().startswith(".gpta") for each in rule.split(",")), rule
    return reader
