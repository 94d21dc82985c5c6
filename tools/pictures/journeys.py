"""Les deux trajets de la page Architecture : une requête, une étape d'entraînement.

Les noms des huit étapes sont lus dans la page ; le dessin n'y ajoute que deux notes par étape.
"""

from __future__ import annotations

import re
from pathlib import Path

from drawing import Drawing

PAGES = Path(__file__).resolve().parents[2] / "docs" / "architecture"
_STEP = re.compile(r"^\d\. \*\*(.+?)\.\*\*", re.MULTILINE)
_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 28, 28, 202, 92, 32


def request() -> str:
    """De la requête HTTP à sa réponse ; en orange, ce que fait le thread du moteur."""
    return _draw(
        "requete.md",
        title="La vie d'une requête",
        notes=(
            ("clé, limites, taille", "sinon 401, 413 ou 429"),
            ("JSON, types stricts", "sinon 400, champ nommé"),
            ("l'invite devient des tokens", "bornes vérifiées, graines"),
            ("contrainte essayée à part", "les clients à tour de rôle"),
            ("une ligne du cache", "invites déjà lues reprises"),
            ("une seule passe avant", "pour toutes les requêtes"),
            ("filtres, dans leur ordre", "un token, et son texte"),
            ("un objet, ou un flux SSE", "journal et compteurs"),
        ),
        special=(5, 6, 7),
        legend=("la boucle du serveur HTTP", "le thread du moteur, seul à toucher au modèle"),
    )


def training_step() -> str:
    """D'une étape d'entraînement à la suivante ; en orange, ce que calcule le moteur."""
    return _draw(
        "pas.md",
        title="Une étape d'entraînement",
        notes=(
            ("une fonction de l'étape", "rien n'est accumulé"),
            ("fonction de (graine, étape)", "des tokens (B, T)"),
            ("douze blocs", "des activations (B, T, D)"),
            ("entropie croisée moyenne", "en nats par token"),
            ("les gradients", "réunis entre processus"),
            ("tout est-il fini ?", "gradient borné par --clip"),
            ("AdamW ou Muon", "de nouveaux poids"),
            ("journal, point de reprise", "évaluation, exemple"),
        ),
        special=(3, 4, 5),
        legend=("la boucle", "le moteur : étape fusionnée, ou autograd"),
    )


def _draw(
    page: str,
    *,
    title: str,
    notes: tuple[tuple[str, str], ...],
    special: tuple[int, ...],
    legend: tuple[str, str],
) -> str:
    """Huit boîtes en deux rangées : la première va vers la droite, la seconde en revient."""
    names = _STEP.findall((PAGES / page).read_text(encoding="utf-8"))
    steps = list(zip(names, notes, strict=True))
    drawing = Drawing(
        960,
        330,
        title=title,
        description=f"Huit étapes : {' ; '.join(names)}. {legend[1].capitalize()} : "
        f"étapes {special[0]} à {special[-1]}.",
    )
    places = [
        (_LEFT + (_WIDTH + _GAP) * min(rank, 7 - rank), _TOP + (146 if rank > 3 else 0))
        for rank in range(8)
    ]
    for rank, (name, lines) in enumerate(steps):
        left, top = places[rank]
        color = "orange" if rank + 1 in special else "blue"
        drawing.box(left, top, _WIDTH, _HEIGHT, fill=f"{color}box", stroke=color)
        drawing.text(left + 14, top + 26, str(rank + 1), color=color, bold=True)
        drawing.text(left + 32, top + 26, name, size=14, bold=True)
        for line, note in enumerate(lines):
            drawing.text(left + 14, top + 54 + 21 * line, note, color="soft")
    points: list[tuple[float, float]]
    for rank in range(7):
        left, top = places[rank]
        middle = top + _HEIGHT / 2
        if rank < 3:
            points = [(left + _WIDTH + 3, middle), (left + _WIDTH + _GAP - 2, middle)]
        elif rank == 3:
            center = left + _WIDTH / 2
            points = [(center, float(top + _HEIGHT + 3)), (center, float(places[4][1] - 2))]
        else:
            points = [(left - 3, middle), (left - _GAP + 2, middle)]
        drawing.path(points, arrow=True)
    for color, left, text in (("blue", _LEFT, legend[0]), ("orange", 400, legend[1])):
        drawing.box(left, 292, 18, 14, fill=f"{color}box", stroke=color, radius=3)
        drawing.text(left + 26, 304, text, color="soft")
    return drawing.svg()
