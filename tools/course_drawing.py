"""De quoi dessiner une figure du cours : un petit SVG, lisible en clair et en sombre.

Le texte reste du texte, les couleurs suivent la préférence du lecteur, et les coordonnées sont
arrondies au dixième : une figure refaite à partir des mêmes nombres est la même, octet pour octet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

Names = Mapping[str, Any]
"""Les variables d'un carnet."""

_STYLE = """
svg{--fond:#fff;--encre:#1d2430;--doux:#5b6675;--trait:#c3cbd6;--a:#1f62b8;--b:#b5480f;--c:#17703f}
@media (prefers-color-scheme:dark){
svg{--fond:#171b22;--encre:#e8ecf2;--doux:#a3aebd;--trait:#465264;--a:#7fb2f5;--b:#f2a066;--c:#74cf9b}}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--encre)}
.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.gras{font-weight:600}.doux{fill:var(--doux)}
.fond{fill:var(--fond)}.trait{fill:none;stroke:var(--trait)}
.fa{fill:var(--a)}.fb{fill:var(--b)}.fc{fill:var(--c)}
.sa{fill:none;stroke:var(--a)}.sb{fill:none;stroke:var(--b)}.sc{fill:none;stroke:var(--c)}
.bord{fill:var(--fond);stroke:var(--trait)}
""".strip()

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


class Drawing:
    """Une figure en cours ; les formes se posent dans l'ordre, la dernière au-dessus.

    Les couleurs sont des classes : `a`, `b`, `c` (remplies par `fa`…, tracées par `sa`…), `doux`
    pour ce qui est secondaire, `trait` pour une règle.

    Args:
        width, height: taille, en unités du dessin (des pixels à l'échelle 1).
        title: ce que c'est, en quelques mots.
        description: ce qu'on y voit, pour qui ne la voit pas.
        tolerance: écart relatif permis à ses nombres, s'ils viennent d'un entraînement.
    """

    def __init__(
        self, width: int, height: int, title: str, description: str, *, tolerance: float = 0.0
    ) -> None:
        self.width, self.height = width, height
        self._head = f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>"
        self._tolerance = tolerance
        self._shapes: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: int = 14,
        kind: str = "",
        anchor: str = "middle",
    ) -> None:
        """Une ligne de texte, sa ligne de base à la hauteur `y`."""
        self._shapes.append(
            f'<text x="{_at(x)}" y="{_at(y)}" font-size="{size}" text-anchor="{anchor}"'
            f'{_class(kind)} xml:space="preserve">{escape(content, quote=False)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        kind: str = "bord",
        strength: float = 1.0,
        round_: float = 4,
    ) -> None:
        """Un rectangle ; `strength` est l'opacité de son remplissage, de 0 à 1."""
        opacity = "" if strength == 1 else f' fill-opacity="{strength:.2f}"'
        self._shapes.append(
            f'<rect x="{_at(x)}" y="{_at(y)}" width="{_at(width)}" height="{_at(height)}" '
            f'rx="{_at(round_)}"{_class(kind)}{opacity}/>'
        )

    def path(
        self,
        points: list[tuple[float, float]] | str,
        *,
        kind: str = "trait",
        width: float = 1.5,
        dashes: str = "",
        arrow: bool = False,
    ) -> None:
        """Une ligne brisée, ou le chemin SVG donné."""
        if not isinstance(points, str):
            points = "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        end = ' marker-end="url(#fleche)"' if arrow else ""
        self._shapes.append(
            f'<path d="{points}" stroke-width="{_at(width)}"{_class(kind)}{dashed}{end}/>'
        )

    def svg(self) -> str:
        """Le fichier."""
        tolerance = f' data-tolerance="{self._tolerance}"' if self._tolerance else ""
        marker = (
            '<defs><marker id="fleche" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8Z" class="doux"/></marker></defs>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{self.width}" '
            f'height="{self.height}" viewBox="0 0 {self.width} {self.height}"{tolerance}>\n'
            f"{self._head}\n<style>{_STYLE}</style>\n{marker}\n"
            f'<rect width="{self.width}" height="{self.height}" rx="8" class="fond"/>\n'
            + "\n".join(self._shapes)
            + "\n</svg>\n"
        )


def same_drawing(found: str, wanted: str) -> bool:
    """Vrai si deux figures sont les mêmes : à l'octet, ou à la tolérance que dit la voulue."""
    stated = re.search(r'data-tolerance="([\d.]+)"', wanted)
    if found == wanted or stated is None:
        return found == wanted
    if _NUMBER.sub("#", found) != _NUMBER.sub("#", wanted):
        return False
    pairs = zip(_NUMBER.findall(found), _NUMBER.findall(wanted), strict=True)
    close = float(stated[1])
    return all(
        abs(a - b) <= max(close * abs(b), 40 * close)
        for a, b in ((float(x.replace(",", ".")), float(y.replace(",", "."))) for x, y in pairs)
    )


def _at(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
