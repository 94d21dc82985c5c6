"""Écrire du Markdown : tableaux et cellules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """Un texte sur une ligne, où une barre ne ferme pas la cellule et un chevron n'ouvre rien."""
    inside = False  # entre accents graves, le Markdown échappe lui-même les chevrons
    parts = " ".join(text.split()).split("`")
    for index, part in enumerate(parts):
        parts[index] = part if inside else part.replace("<", "&lt;").replace("*", "\\*")
        inside = not inside
    return "`".join(parts).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Un tableau ; chaque cellule est d'abord mise sur une ligne."""
    lines = [header, ["---"] * len(header), *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
