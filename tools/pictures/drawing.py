"""Un dessin SVG, lisible en clair comme en sombre, qui ne demande rien ailleurs.

Chaque couleur a un nom et deux valeurs ; le lecteur du fichier prend celle de son thème. Le fond
est peint : l'image se lit aussi dans une page dont le thème n'est pas celui du système.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

COLORS = {
    "paper": ("#ffffff", "#10151c"),
    "ink": ("#1b2430", "#e6edf5"),
    "soft": ("#566272", "#9fb0c3"),
    "line": ("#8b97a6", "#7d8b9c"),
    "rule": ("#dfe4ea", "#2a3441"),
    "box": ("#f1f5fa", "#1b2430"),
    "blue": ("#1f5fa8", "#6fb0ff"),
    "bluebox": ("#e4effc", "#13294a"),
    "orange": ("#b4480f", "#ff9d5c"),
    "orangebox": ("#fdf0e6", "#34210f"),
    "green": ("#1f7a4d", "#63d29a"),
    "greenbox": ("#e1f4ea", "#10301f"),
}
"""Nom → couleur en clair, couleur en sombre."""

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


def number(value: float) -> str:
    """Une coordonnée : un chiffre après le point, sans zéro inutile."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


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


class Drawing:
    """Un dessin auquel on ajoute des formes, coordonnées en unités du fichier, origine en haut.

    Args:
        width: largeur.
        height: hauteur.
        title: ce que montre le dessin, en une ligne.
        description: ce qu'il faudrait dire à qui ne le voit pas.
        tolerance: écart relatif permis à ses nombres, s'ils viennent d'un entraînement.
    """

    def __init__(
        self,
        width: float,
        height: float,
        *,
        title: str,
        description: str,
        tolerance: float = 0.0,
    ) -> None:
        self.width, self.height, self._tolerance = width, height, tolerance
        self._title, self._description = title, description
        self._parts: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str | None = "box",
        stroke: str | None = "line",
        radius: float = 7,
        dashed: bool = False,
        strength: float = 1.0,
    ) -> None:
        """Un rectangle aux coins arrondis ; `strength` est l'opacité de son fond, de 0 à 1."""
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        opacity = "" if strength == 1 else f' fill-opacity="{strength:.2f}"'
        painted = {"f": fill, "s": stroke}
        kind = " ".join(f"{part}-{name}" for part, name in painted.items() if name is not None)
        empty = ' fill="none"' * (fill is None)
        self._parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}" rx="{number(radius)}" class="{kind}"'
            f"{empty}{dash}{opacity}/>"
        )

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: float = 13,
        color: str = "ink",
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Une ligne de texte ; `y` est sa ligne de base."""
        weight = ' font-weight="600"' if bold else ""
        kind = f"f-{color} mono" if mono else f"f-{color}"
        self._parts.append(
            f'<text x="{number(x)}" y="{number(y)}" font-size="{number(size)}" '
            f'text-anchor="{anchor}" class="{kind}"{weight}>{escape(content)}</text>'
        )

    def path(
        self,
        points: Sequence[tuple[float, float]] | str,
        *,
        color: str = "line",
        width: float = 1.5,
        arrow: bool = False,
        dashed: bool = False,
    ) -> None:
        """Une ligne brisée, ou le chemin SVG donné, fléchée au bout si demandé."""
        if not isinstance(points, str):
            points = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        end = ' marker-end="url(#fleche)"' if arrow else ""
        self._parts.append(
            f'<path d="{points}" class="s-{color}" fill="none" '
            f'stroke-width="{number(width)}"{dash}{end}/>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str, stroke: str) -> None:
        """Un disque."""
        self._parts.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" '
            f'class="f-{fill} s-{stroke}"/>'
        )

    def svg(self) -> str:
        """Le fichier, toujours le même pour le même dessin."""
        size = f"{number(self.width)} {number(self.height)}"
        light = _rules(0)
        dark = _rules(1)
        tolerance = f' data-tolerance="{self._tolerance}"' if self._tolerance else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
            f'width="{number(self.width)}" height="{number(self.height)}" role="img" '
            f'aria-labelledby="titre description"{tolerance}>\n'
            f'<title id="titre">{escape(self._title)}</title>\n'
            f'<desc id="description">{escape(self._description)}</desc>\n'
            f"<style>\ntext{{font-family:{FONT}}}\n.mono{{font-family:{MONO}}}\n"
            f"{light}\n@media (prefers-color-scheme: dark){{\n{dark}\n}}\n</style>\n"
            '<defs><marker id="fleche" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" class="f-line"/></marker>'
            "</defs>\n"
            f'<rect width="{number(self.width)}" height="{number(self.height)}" rx="10" '
            'class="f-paper"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def _rules(theme: int) -> str:
    """Les couleurs d'un thème : remplissage et trait de chaque nom."""
    return "\n".join(
        f".f-{name}{{fill:{values[theme]}}}.s-{name}{{stroke:{values[theme]}}}"
        for name, values in COLORS.items()
    )
