"""Les figures du cours, chacune dessinée d'après les variables du carnet de son chapitre."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from course_charts import Names, cache, losses, reading, recited, strategies
from drawing import Drawing

from gpt_architecture.french import decimal


def cuts(names: Names) -> str:
    """Chapitre 1 : la même phrase coupée par quatre tokenizers."""
    labels = {
        "char": "caractères",
        "simple-v1": "mots",
        "gpt2": "BPE de GPT-2",
        "bpe-1024": "BPE de la nouvelle",
    }
    told = " ; ".join(f"{labels[name]} : {len(names['ids'][name])} tokens" for name in labels)
    draw = Drawing(
        780,
        268,
        title="La même phrase, quatre découpages",
        description=f"« {names['sentence']} » coupée. {told}.",
    )
    for row, (name, label) in enumerate(labels.items()):
        y, ids, pieces = 22 + 62 * row, names["ids"][name], names["pieces"][name]
        draw.text(16, y + 15, label, size=14, anchor="start", bold=True)
        draw.text(16, y + 33, f"{len(ids)} tokens", size=12, anchor="start", color="soft")
        room, letters = 592.0, sum(map(len, pieces))
        gap = 2 if len(ids) > 20 else 5
        unit = (room - gap * (len(ids) - 1)) / max(letters, 25)
        x = 172.0
        for place, (piece, identifier) in enumerate(zip(pieces, ids, strict=True)):
            width = unit * len(piece)
            draw.box(
                x,
                y,
                width,
                24,
                fill="orange" if place % 2 else "blue",
                stroke=None,
                radius=4,
                strength=0.18,
            )
            draw.text(
                x + width / 2, y + 17, piece.replace(" ", "␣"), size=14, anchor="middle", mono=True
            )
            draw.text(
                x + width / 2,
                y + 39,
                str(identifier),
                size=10 if len(ids) > 20 else 11,
                anchor="middle",
                color="soft",
            )
            x += width + gap
    return draw.svg()


def _grid(
    draw: Drawing,
    values: Sequence[Sequence[float]],
    x: float,
    y: float,
    *,
    side: float,
    color: str,
    digits: int = 1,
    height: float = 34,
) -> None:
    """Un tableau de nombres ; une case est d'autant plus teintée que son nombre est grand."""
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            at = x + side * j, y + height * i
            draw.box(*at, side - 3, height - 3, fill="paper", stroke="line", radius=4)
            draw.box(
                *at,
                side - 3,
                height - 3,
                fill=color,
                stroke=None,
                radius=4,
                strength=min(0.55, 0.5 * abs(value)),
            )
            draw.text(
                at[0] + (side - 3) / 2,
                at[1] + height / 2 + 3,
                decimal(value, digits),
                size=14,
                anchor="middle",
            )


def embeddings(names: Names) -> str:
    """Chapitre 2 : lire deux tables et additionner."""
    draw = Drawing(
        780,
        214,
        title="Embedding du token plus embedding de la position",
        description="Pour « le chien mord », trois lignes de la table des tokens, plus trois "
        "lignes de la table des positions, donnent les trois vecteurs que lit le premier bloc.",
    )
    parts = (
        ("table des tokens", names["table"][names["ids"][0]], "blue", 92),
        ("table des positions", names["positions"], "orange", 368),
        ("ce que lit le modèle", names["x"], "green", 596),
    )
    for title, values, color, x in parts:
        draw.text(x + 84, 30, title, size=14, anchor="middle", bold=True)
        _grid(draw, values.tolist(), x, 52, side=57, color=color)
    for row, word in enumerate(names["phrase"]):
        draw.text(80, 74 + 34 * row, word, size=14, anchor="end")
        draw.text(358, 74 + 34 * row, f"position {row}", size=12, anchor="end", color="soft")
    for x, sign in ((280, "+"), (566, "=")):
        draw.text(x, 110, sign, size=22, anchor="middle", bold=True)
    draw.text(
        92 + 84, 184, "une ligne par token du vocabulaire", size=12, anchor="middle", color="soft"
    )
    draw.text(368 + 84, 184, "une ligne par position", size=12, anchor="middle", color="soft")
    draw.text(
        596 + 84, 184, "trois tokens, trois dimensions", size=12, anchor="middle", color="soft"
    )
    return draw.svg()


def attention(names: Names) -> str:
    """Chapitre 3 : la carte des poids, et ce que regarde le dernier mot."""
    words, weights = names["words"], names["weights"].tolist()
    last = ", ".join(f"{word} {decimal(w)}" for word, w in zip(words, weights[-1], strict=True))
    draw = Drawing(
        780,
        290,
        title="Les poids d'attention de « le chat noir dort »",
        description="À gauche, la carte des poids, triangulaire. "
        f"À droite, ce que regarde « dort » : {last}.",
    )
    draw.text(212, 30, "qui regarde qui", size=14, anchor="middle", bold=True)
    for j, word in enumerate(words):
        draw.text(120 + 62 * j, 56, word, size=13, anchor="middle", color="soft")
        draw.text(78, 92 + 48 * j, word, size=13, anchor="end")
    for i, line in enumerate(weights):
        for j, weight in enumerate(line):
            at = 90 + 62 * j, 66 + 48 * i
            draw.box(*at, 58, 44, fill="paper", stroke="line", radius=4)
            if j <= i:
                draw.box(*at, 58, 44, fill="blue", stroke=None, radius=4, strength=0.75 * weight)
                draw.text(at[0] + 29, at[1] + 27, decimal(weight), size=14, anchor="middle")
            else:
                draw.text(at[0] + 29, at[1] + 27, "—", size=14, anchor="middle", color="soft")
    draw.text(90, 278, "— : l'avenir, masqué", size=12, anchor="start", color="soft")
    draw.text(590, 30, "ce que regarde « dort »", size=14, anchor="middle", bold=True)
    centres = [424 + 100 * j for j in range(4)]
    for j, (word, weight) in enumerate(zip(words, weights[-1], strict=True)):
        draw.box(centres[j] - 40, 206, 80, 34, fill="paper", stroke="line", radius=6)
        draw.box(
            centres[j] - 40, 206, 80, 34, fill="blue", stroke=None, radius=6, strength=0.75 * weight
        )
        draw.text(centres[j], 228, word, size=14, anchor="middle")
        draw.text(centres[j], 262, decimal(weight), size=13, anchor="middle", color="soft")
        if j < 3:
            top = 206 - 46 * (3 - j)
            draw.path(
                f"M{centres[3]} 204C{centres[3]} {top} {centres[j]} {top} {centres[j]} 202",
                color="blue",
                width=1 + 9 * weight,
            )
    return draw.svg()


def model(names: Names) -> str:
    """Chapitre 4 : le chemin d'un lot, avec les formes mesurées par les crochets."""
    shapes, layers = names["shapes"], names["cfg"].n_layers
    batch = tuple(names["batch"].shape)
    draw = Drawing(
        780,
        640,
        title="Le chemin d'un lot à travers GPT-2",
        description="Tokens, embeddings, blocs (norme, attention, addition, norme, perceptron, "
        "addition), norme finale, tête de sortie, logits ; avec la forme du tableau à chaque "
        "étape.",
    )

    def step(y: float, label: str, shape: Sequence[int], *, color: str = "blue") -> None:
        x = 250
        draw.box(x, y, 270, 34, fill="paper", stroke="line", radius=6)
        draw.box(x, y, 270, 34, fill=color, stroke=None, radius=6, strength=0.16)
        draw.text(x + 135, y + 22, label, size=14, anchor="middle")
        draw.text(620, y + 22, _shape(shape), size=13, anchor="start", mono=True, color="soft")

    draw.text(620, 28, "forme", size=13, anchor="start", bold=True)
    draw.text(385, 34, "identifiants des tokens", size=14, anchor="middle")
    draw.text(620, 48, _shape(batch), size=13, anchor="start", mono=True, color="soft")
    step(62, "embeddings : token + position", shapes["tok_emb"], color="green")
    draw.box(104, 118, 496, 352, fill=None, stroke="line", radius=10)
    draw.text(586, 142, f"bloc, {layers} fois", size=13, anchor="end", bold=True)
    rows = (
        (150, "LayerNorm", shapes["trf_blocks.0.norm1"], "green"),
        (198, "attention causale", shapes["trf_blocks.0.att"], "blue"),
        (300, "LayerNorm", shapes["trf_blocks.0.norm2"], "green"),
        (348, "perceptron : D → 4·D", shapes["trf_blocks.0.ff.layers.0"], "orange"),
        (386, "GELU, puis 4·D → D", shapes["trf_blocks.0.ff"], "orange"),
    )
    for y, label, shape, color in rows:
        step(y, label, shape, color=color)
    for top, plus in ((126, 256), (276, 444)):
        draw.path(f"M385 {top}H200V{plus}H372", color="blue", width=2, arrow=True)
        draw.text(385, plus + 6, "+", size=20, anchor="middle", bold=True)
    draw.text(190, 200, "chemin", size=12, anchor="end", color="soft")
    draw.text(190, 216, "résiduel", size=12, anchor="end", color="soft")
    for start, end in (
        (42, 60),
        (96, 148),
        (184, 196),
        (232, 242),
        (262, 298),
        (334, 346),
        (420, 430),
        (450, 488),
    ):
        draw.path([(385, start), (385, end)], arrow=True)
    step(490, "LayerNorm finale", shapes["final_norm"], color="green")
    draw.path([(385, 524), (385, 540)], arrow=True)
    step(542, "tête de sortie", shapes["out_head"], color="orange")
    draw.path([(385, 576), (385, 594)], arrow=True)
    draw.text(385, 614, "logits : une note par token du vocabulaire", size=14, anchor="middle")
    return draw.svg()


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


FIGURES: dict[str, tuple[str, Callable[[Names], str]]] = {
    "1-coupes": ("1-tokens", cuts),
    "2-embeddings": ("2-embeddings", embeddings),
    "3-attention": ("3-attention", attention),
    "4-modele": ("4-modele", model),
    "5-pertes": ("5-entrainement", losses),
    "6-strategies": ("6-decodage", strategies),
    "7-cache": ("7-cache", cache),
    "8-recitation": ("8-par-coeur", recited),
    "9-lecture": ("9-lire-le-code", reading),
}
"""Nom du fichier, sans `.svg` → le carnet dont il montre les nombres, et ce qui le dessine."""
