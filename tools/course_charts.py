"""Les figures du cours qui montrent des mesures : pertes, distributions, comptes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drawing import Drawing

from gpt_architecture.french import decimal

Names = Mapping[str, Any]
"""Les variables d'un carnet."""


def losses(names: Names) -> str:
    """Chapitre 5 : les courbes du préréglage éclair, entre les marches qui se comptent."""
    stairs = (
        ("au hasard : ln V", names["uniform"]),
        ("fréquences", names["unigram"]["val"]),
        ("token précédent", names["bigram"]["val"]),
    )
    told = ", ".join(f"{label} {decimal(value)}" for label, value in stairs)
    draw = Drawing(
        780,
        400,
        title="Pertes du modèle éclair, en nats par token",
        description=f"Marches de la validation : {told}. La perte d'entraînement les descend "
        "toutes ; celle de validation s'arrête à la marche des paires, puis remonte.",
        tolerance=0.1,
    )
    left, right, top, bottom, highest = 70.0, 560.0, 40.0, 340.0, 8.0
    steps = names["steps"]

    def at(step: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * step / steps[-1]
        return x, bottom - (bottom - top) * value / highest

    for value in range(0, 9, 2):
        y = at(0, value)[1]
        draw.path([(left, y), (right, y)], width=0.6)
        draw.text(left - 10, y + 5, str(value), size=12, anchor="end", color="soft")
    for step in range(0, int(steps[-1]) + 1, 25):
        draw.text(at(step, 0)[0], bottom + 22, str(step), size=12, anchor="middle", color="soft")
    draw.text((left + right) / 2, bottom + 44, "étapes", size=13, anchor="middle", color="soft")
    draw.text(left - 40, 24, "perte (nats par token)", size=13, anchor="start", color="soft")
    for label, value in stairs:
        y = at(0, value)[1]
        draw.path([(left, y), (right, y)], color="green", dashed=True)
        draw.text(right + 12, y + 3, f"{label} : {decimal(value)}", size=13, anchor="start")
    for label, key, color, shift in (
        ("validation", "val_losses", "orange", 6),
        ("entraînement", "train_losses", "blue", 5),
    ):
        values = names[key]
        draw.path([at(*point) for point in zip(steps, values, strict=True)], color=color, width=3)
        for point in zip(steps, values, strict=True):
            x, y = at(*point)
            draw.box(x - 4, y - 4, 8, 8, fill=color, stroke=None, radius=4)
        y = at(0, values[-1])[1]
        draw.text(
            right + 12,
            y + shift,
            f"{label} : {decimal(values[-1], 1)}",
            size=14,
            anchor="start",
            bold=True,
        )
    return draw.svg()


def strategies(names: Names) -> str:
    """Chapitre 6 : les six candidats sous cinq réglages."""
    words, count = names["words"], len(names["words"])
    panels = (
        ("T = 0,3", names["cold"], "blue"),
        ("T = 1", names["plain"], "blue"),
        ("T = 2", names["hot"], "blue"),
        (f"top-k, k = {names['k']}", names["by_k"], "orange"),
        (f"top-p, p = {decimal(names['p'], 1)}", names["by_p"], "green"),
    )
    told = " ; ".join(f"{label} : {words[0]} {decimal(each[0])}" for label, each, _ in panels)
    draw = Drawing(
        780,
        230,
        title="Six candidats sous cinq réglages",
        description=f"Une barre par candidat. La probabilité du premier : {told}. "
        "Les filtres ramènent les derniers à zéro.",
    )
    for row, word in enumerate(words):
        draw.text(84, 68 + 26 * row, word, size=13, anchor="end")
    for column, (label, values, color) in enumerate(panels):
        x = 96 + 136 * column
        draw.text(x + 40, 32, label, size=14, anchor="middle", bold=True)
        draw.path([(x, 46), (x, 50 + 26 * count)], width=1)
        for row, value in enumerate(values.tolist()):
            y = 52 + 26 * row
            if value > 0:
                draw.box(
                    x, y, max(1.5, 84 * value), 20, fill=color, stroke=None, radius=2, strength=0.75
                )
            shown = decimal(value) if value > 0 else "retiré"
            draw.text(x + 6 + 84 * value, y + 15, shown, size=11, anchor="start", color="soft")
    return draw.svg()


def cache(names: Names) -> str:
    """Chapitre 7 : les positions calculées à chaque pas, sans et avec cache."""
    draw = Drawing(
        780,
        300,
        title="Positions calculées à chaque pas de décodage",
        description=f"Sans cache, de {names['lengths_without'][0]} à "
        f"{names['lengths_without'][-1]} positions, "
        f"{names['total_without']} en tout. Avec cache, {names['lengths_with'][0]} au "
        f"préremplissage puis une par pas, {names['total_with']} en tout.",
    )
    bottom, unit, step = 250.0, 5.6, 14.0
    for x, label, lengths, total, color in (
        (40, "sans cache", names["lengths_without"], names["total_without"], "orange"),
        (420, "avec cache", names["lengths_with"], names["total_with"], "blue"),
    ):
        draw.text(x, 32, label, size=14, anchor="start", bold=True)
        draw.text(x, 52, f"{total} positions en tout", size=13, anchor="start", color="soft")
        for place, length in enumerate(lengths):
            height = unit * length
            draw.box(
                x + step * place,
                bottom - height,
                step - 3,
                height,
                fill=color,
                stroke=None,
                radius=4,
                strength=0.75,
            )
        draw.path([(x - 6, bottom), (x + step * len(lengths), bottom)])
        draw.text(x + 5, bottom - unit * lengths[0] - 6, str(lengths[0]), size=12, anchor="middle")
        last = x + step * (len(lengths) - 1) + 5
        draw.text(last, bottom - unit * lengths[-1] - 6, str(lengths[-1]), size=12, anchor="middle")
        middle = x + step * len(lengths) / 2
        draw.text(
            middle, bottom + 24, f"{len(lengths)} pas", size=13, anchor="middle", color="soft"
        )
    return draw.svg()


def recited(names: Names) -> str:
    """Chapitre 8 : la part des n-grammes copiés, d'un modèle à l'autre, et par hasard."""
    series = (
        ("modèle allé au bout, glouton", names["share_late"], "orange"),
        ("modèle arrêté tôt, glouton", names["share_early"], "blue"),
        ("texte inédit : ce que le hasard donne", names["chance"], "green"),
    )
    told = " ; ".join(f"{label} : {decimal(each[4], 0)} %" for label, each, _ in series)
    draw = Drawing(
        780,
        340,
        title="Part des suites de n tokens copiées du texte appris",
        description=f"Pour n = 2, 4, 8 et 16. Pour n = 4 : {told}. "
        "Seul le modèle allé au bout copie de longs passages.",
        tolerance=0.5,
    )
    left, bottom, high, bar = 60.0, 250.0, 190.0, 46.0
    for value in (0, 50, 100):
        y = bottom - high * value / 100
        draw.path([(left, y), (760, y)], width=0.6)
        draw.text(left - 8, y + 5, f"{value} %", size=12, anchor="end", color="soft")
    for group, n in enumerate(names["orders"]):
        x = left + 24 + 176 * group
        for place, (_, shares, color) in enumerate(series):
            height, at = high * shares[n] / 100, x + (bar + 2) * place
            draw.box(
                at,
                bottom - height,
                bar,
                max(height, 1),
                fill=color,
                stroke=None,
                radius=2,
                strength=0.8,
            )
            draw.text(
                at + bar / 2, bottom - height - 6, decimal(shares[n], 0), size=12, anchor="middle"
            )
        draw.text(x + 1.5 * bar, bottom + 22, f"n = {n}", size=13, anchor="middle")
    for place, (label, _, color) in enumerate(series):
        at = 24 + 236 * place
        draw.box(at, 296, 14, 14, fill=color, stroke=None, radius=2, strength=0.8)
        draw.text(at + 20, 308, label, size=13, anchor="start")
    draw.text(24, 24, "suites de n tokens retrouvées mot pour mot", size=13, anchor="start")
    return draw.svg()


def reading(names: Names) -> str:
    """Chapitre 9 : les fichiers du cœur, dans l'ordre, et leur longueur."""
    hours = (
        (0, 3, "première heure : les données", "blue"),
        (3, 7, "deuxième : le modèle", "orange"),
        (7, 11, "troisième : apprendre et écrire", "green"),
    )
    draw = Drawing(
        780,
        452,
        title="Le cœur du projet, dans l'ordre de lecture",
        description=f"{names['files']} fichiers, environ {round(names['total'], -2)} lignes : "
        + ", ".join(names["reading"])
        + ".",
        tolerance=0.1,
    )
    y = 20.0
    for first, last, label, color in hours:
        draw.text(24, y + 16, label, size=14, anchor="start", bold=True)
        y += 28
        for place in range(first, last):
            name = names["reading"][place]
            count = names["lines"][name]
            draw.text(44, y + 17, f"{place + 1}", size=13, anchor="end", color="soft")
            draw.text(58, y + 17, name, size=13, anchor="start", mono=True)
            draw.box(300, y + 3, 1.15 * count, 19, fill=color, stroke=None, radius=2, strength=0.7)
            draw.text(308 + 1.15 * count, y + 17, f"{count} lignes", size=12, anchor="start")
            y += 27
        y += 14
    return draw.svg()
