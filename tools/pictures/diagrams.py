"""Le schéma du modèle et la carte du paquet, dessinés d'après le code."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from drawing import Drawing

from gpt_architecture.config import GPTConfig
from gpt_architecture.french import thousands

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "gpt_architecture"

LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("les commandes", ("scripts", "main")),
    ("ce qu'elles partagent", ("cli", "reports", "api")),
    ("ce que fait le produit", ("training", "evaluation", "serving", "interop")),
    ("fichiers, décodage", ("formats", "decoding", "kernels")),
    ("le modèle et le texte", ("core", "data")),
    ("le socle", ("config", "storage", "errors", "french", "lazy")),
)
"""Les couches, de haut en bas ; `tests/test_architecture.py` vérifie le sens des imports."""

SAID = {
    "scripts": "une commande par fichier",
    "main": "le point d'entrée",
    "cli": "options, aide, progression",
    "reports": "pages, figures, tableaux",
    "api": "le produit depuis Python",
    "training": "entraîner, reprendre",
    "evaluation": "mesurer, comparer",
    "serving": "servir, studio",
    "interop": "importer, exporter",
    "formats": "nos fichiers sur disque",
    "decoding": "du modèle au texte",
    "kernels": "l'arithmétique rapide",
    "core": "attention, blocs, cache",
    "data": "textes, tokens, lots",
    "config": "réglages vérifiés",
    "storage": "lire, écrire sûrement",
    "errors": "les refus",
    "french": "nombres, accords",
    "lazy": "noms à la demande",
}
"""Ce que fait chaque paquet, en quelques mots."""


def block() -> str:
    """Le modèle, un de ses blocs et son attention, aux dimensions de GPT-2 124M."""
    cfg = GPTConfig()
    width, heads, head = cfg.emb_dim, cfg.n_heads, cfg.emb_dim // cfg.n_heads
    drawing = Drawing(
        960,
        640,
        title="Le modèle, un de ses blocs, et l'attention d'un bloc",
        description="À gauche, le modèle : identifiants de tokens, embeddings des tokens et des "
        f"positions, dropout, {cfg.n_layers} blocs, normalisation finale, tête de sortie, logits. "
        "Au milieu, un bloc : normalisation, attention, dropout et addition, puis normalisation, "
        "perceptron, dropout et addition. À droite, l'attention : requêtes, clés et valeurs, "
        f"{heads} têtes, scores, masque causal, softmax, dropout, mélange des valeurs, projection.",
    )
    whole = _column(
        drawing,
        40,
        "GPTModel",
        (
            ("identifiants de tokens", "(B, T)", "data"),
            ("tok_emb + pos_emb", f"→ (B, T, {width})", "box"),
            ("dropout", "", "box"),
            (f"trf_blocks : {cfg.n_layers} blocs", f"(B, T, {width})", "blue"),
            ("final_norm", "LayerNorm", "box"),
            ("out_head", f"{width} → {thousands(cfg.vocab_size)}", "box"),
            ("logits", f"(B, T, {thousands(cfg.vocab_size)})", "data"),
        ),
        step=76,
    )
    inner = _column(
        drawing,
        360,
        "TransformerBlock",
        (
            ("norm1", "LayerNorm", "box"),
            ("att", "MultiHeadAttention", "orange"),
            ("dropout", "", "box"),
            ("+", "", "sum"),
            ("norm2", "LayerNorm", "box"),
            ("ff", f"{width} → {4 * width} → GELU → {width}", "box"),
            ("dropout", "", "box"),
            ("+", "", "sum"),
        ),
        frame="blue",
        step=66,
    )
    attention = _column(
        drawing,
        680,
        "MultiHeadAttention",
        (
            ("W_query, W_key, W_value", f"{width} → {width}, trois fois", "box"),
            (f"{heads} têtes de {head}", f"(B, {heads}, T, {head})", "box"),
            (f"scores = Q·Kᵀ / √{head}", f"(B, {heads}, T, T)", "box"),
            ("masque causal", "le futur reçoit −∞", "box"),
            ("softmax, dropout", "poids d'attention", "box"),
            ("poids · V", f"(B, {heads}, T, {head})", "box"),
            ("out_proj", f"têtes réunies : {width} → {width}", "box"),
        ),
        frame="orange",
        step=76,
    )
    for start, (first, last) in ((whole[3], (inner[0], inner[-1])), (inner[1], attention[::6])):
        left = start[0] + 240
        for y, edge in ((start[1], first[1] - 34), (start[1] + 46, last[1] + 66)):
            drawing.path([(left, y), (first[0] - 20, edge)], color="soft", width=1, dashed=True)
    for place, sum_place in ((0, 3), (4, 7)):
        _residual(drawing, inner[place], inner[sum_place])
    drawing.text(
        40,
        622,
        "B : lot · T : tokens · le trait qui contourne est la connexion résiduelle : l'entrée "
        "s'ajoute à ce que la couche en a fait.",
        size=12.5,
        color="soft",
    )
    return drawing.svg()


_KINDS = {
    "box": ("box", "line"),
    "blue": ("bluebox", "blue"),
    "orange": ("orangebox", "orange"),
    "data": ("greenbox", "green"),
}


def _column(
    drawing: Drawing,
    left: float,
    name: str,
    rows: tuple[tuple[str, str, str], ...],
    *,
    step: float,
    frame: str | None = None,
) -> list[tuple[float, float]]:
    """Une colonne de boîtes reliées de haut en bas ; rend le coin haut gauche de chacune."""
    top, width, height = 72.0, 240.0, 46.0
    if frame is not None:
        bottom = top + step * (len(rows) - 1) + height
        drawing.box(
            left - 20,
            top - 34,
            width + 40,
            bottom - top + 54,
            fill="paper",
            stroke=frame,
            radius=12,
        )
    drawing.text(left + width / 2, 28, name, size=15, anchor="middle", bold=True, mono=True)
    places = []
    for rank, (label, note, kind) in enumerate(rows):
        y, middle = top + step * rank, left + width / 2
        places.append((left, y))
        above = y - 34 if rank == 0 else y - step + height
        if rank or frame is not None:
            reached = y + 7 if kind == "sum" else y - 1
            drawing.path([(middle, above), (middle, reached)], arrow=True)
        if kind == "sum":
            drawing.circle(middle, y + height / 2, 15, fill="bluebox", stroke="blue")
            drawing.path([(middle, y + 38), (middle, y + height)])
            drawing.text(middle, y + height / 2 + 6, label, size=18, anchor="middle", bold=True)
            continue
        fill, stroke = _KINDS[kind]
        drawing.box(left, y, width, height, fill=fill, stroke=stroke)
        baseline = y + 20 if note else y + 28
        drawing.text(middle, baseline, label, anchor="middle", bold=True)
        drawing.text(middle, y + 37, note, size=12, color="soft", anchor="middle")
    return places


def _residual(drawing: Drawing, start: tuple[float, float], end: tuple[float, float]) -> None:
    """La connexion qui contourne, du dessus d'une boîte jusqu'à l'addition."""
    middle, side = start[0] + 120, start[0] + 250
    drawing.path(
        [
            (middle, start[1] - 10),
            (side, start[1] - 10),
            (side, end[1] + 23),
            (middle + 17, end[1] + 23),
        ],
        color="blue",
        width=2,
        arrow=True,
    )


def package_map() -> str:
    """Les paquets par couche, chacun avec ceux d'en dessous qu'il emploie vraiment."""
    graph = unit_graph()
    row, gap, left, right = 106.0, 12.0, 214.0, 24.0
    width, top = 1080.0, 66.0
    drawing = Drawing(
        width,
        top + row * len(LAYERS) + 14,
        title="La carte du paquet : qui emploie qui",
        description=" ; ".join(
            f"{unit} emploie {', '.join(used) or 'rien'}" for unit, used in graph.items()
        ),
    )
    drawing.text(24, 30, "Les imports ne vont que vers le bas", size=17, bold=True)
    drawing.text(
        24,
        50,
        "Sous chaque nom : ce que fait le paquet, puis ceux d'en dessous qu'il emploie, outre le "
        "socle ; après une flèche, un voisin.",
        color="soft",
        size=12.5,
    )
    for rank, (label, units) in enumerate(LAYERS):
        y = top + row * rank
        tint = ("orange", "orange", "blue", "blue", "green", "line")[rank]
        drawing.text(24, y + 46, label, color="soft", bold=True)
        size = (width - left - right - gap * (len(units) - 1)) / len(units)
        for place, unit in enumerate(units):
            x = left + (size + gap) * place
            fill = "box" if tint == "line" else f"{tint}box"
            drawing.box(x, y + 6, size, row - 14, fill=fill, stroke=tint)
            drawing.text(x + 12, y + 27, unit, size=14.5, bold=True, mono=True)
            drawing.text(x + 12, y + 45, SAID[unit], size=12)
            beside = [f"→ {each}" for each in graph[unit] if each in units]
            below = [each for _, layer in LAYERS[rank + 1 : -1] for each in layer]
            words = beside + [each for each in below if each in graph[unit]]
            for line, used in enumerate(_lines(words, int((size - 20) / _LETTER))):
                drawing.text(x + 12, y + 62 + 14 * line, used, size=11, color="soft", mono=True)
    return drawing.svg()


_LETTER = 6.7  # largeur d'une lettre à chasse fixe de taille 11


def _lines(words: list[str], room: int) -> list[str]:
    """Des mots mis en lignes d'au plus `room` lettres."""
    lines = [""]
    for word in words:
        joined = f"{lines[-1]}  {word}".strip()
        if lines[-1] and len(joined) > room:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


@functools.cache
def unit_graph() -> dict[str, list[str]]:
    """Les paquets et modules de la racine, chacun avec ceux qu'il importe, lus dans l'AST."""
    units = [unit for _, layer in LAYERS for unit in layer]
    graph = {}
    for unit in units:
        path = PACKAGE / unit
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        found = {name for file in files for name in _imports(file)}
        graph[unit] = [each for each in units if each in found and each != unit]
    return graph


def _imports(path: Path) -> Iterator[str]:
    """Les paquets de la racine qu'un fichier importe, imports tardifs et de types compris."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            parts = node.module.split(".")
            if parts[0] == PACKAGE.name:
                yield from parts[1:2] or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == PACKAGE.name:
                    yield from parts[1:2]
