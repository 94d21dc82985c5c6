"""Lire les pages de la documentation, et les outils du site."""

import importlib
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deploy/LISEZMOI.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page):
    """Le texte d'une page."""
    return page.read_text(encoding="utf-8")


def name_of(page):
    """Le chemin d'une page, depuis la racine."""
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """Contenus des blocs de code d'une langue."""
    return [body for name, body in FENCE.findall(text_of(page)) if name == language]


@cache
def anchors(page):
    """Les ancres des titres d'une page, comme GitHub et le site les font."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tool(name):
    """Un module de tools/docsite."""
    folder = str(ROOT / "tools" / "docsite")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)
