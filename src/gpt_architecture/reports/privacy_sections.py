"""Les parties d'un dossier de confidentialité, en phrases, tableaux et figures.

Chacune dit ce qu'elle montre, ce qu'elle ne montre pas, et la commande qui la refait ; une partie
sans mesure dit comment l'obtenir.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpt_architecture.evaluation.canaries import EXPECTED
from gpt_architecture.evaluation.membership import FALSE_POSITIVES, Area, Attack
from gpt_architecture.french import (
    counted,
    decimal,
    percent,
    plural,
    thousands,
)
from gpt_architecture.reports.charts import Chart, Line, line_chart, one_decimal, whole_percent
from gpt_architecture.reports.privacy_facts import PrivacyPage, Section, missing
from gpt_architecture.reports.privacy_origins import (
    consumption_part,
    personal_part,
    removals_part,
    sources_part,
)

_SIZES = ((1100.0, 360.0), (400.0, 300.0))
ATTACKS = {
    "perte": "Perte",
    "min-k": "Min-K % (20 %)",
    "référence": "Modèles de référence",
    "aveugle": "Aveugle (sans modèle)",
}
"""Le nom de chaque attaque, pour une personne."""


def sections(page: PrivacyPage) -> list[Section]:
    """Les parties, dans l'ordre."""
    return [
        _canaries(page),
        _extraction(page),
        _membership(page),
        sources_part(page),
        personal_part(page),
        removals_part(page),
        consumption_part(page),
    ]


def _canaries(page: PrivacyPage) -> Section:
    found = page.canaries
    command = "gpt-architecture train --canaries 16 …, puis gpt-architecture dossier MODÈLE"
    about: dict[str, Any] = {
        "anchor": "canaris",
        "title": "Les canaris",
        "command": command,
        "shows": "Ce que ce modèle retient d'une phrase qu'il n'a pu lire que dans son texte "
        "d'entraînement, selon le nombre de fois qu'elle y est. L'exposition d'un canari est "
        "log₂ du nombre de secrets possibles, moins log₂ du rang du sien (Carlini et al., 2019) : "
        "elle est exacte, tous les secrets étant notés.",
        "hides": "Ce qu'il retient des autres phrases : un canari est plus étrange que la prose, "
        "donc plus facile à retenir à répétitions égales, et chaque époque le fait relire.",
    }
    if found is None:
        verdict = page.notes.get("canaries") or "Aucun canari n'a été planté dans cet entraînement."
        return Section(**about, verdict=verdict)
    rows = found.rows
    low, high = found.controls_interval
    return Section(
        **about,
        verdict=f"{counted(found.found, 'canari')} sur {len(found.planted)} "
        f"{plural(found.found, 'retrouvé')}, parmi {thousands(found.size)} secrets possibles. Un "
        f"modèle qui n'en aurait lu aucun en ferait trouver un avec une probabilité de "
        f"{percent(found.false_alarm, 2)}. {_planted(page)}",
        table=(
            "Exposition, en bits",
            ("Plantés", "Canaris", "Retrouvés", "Exposition moyenne"),
            [
                [f"{each.repetitions} fois", str(each.total), str(each.found), decimal(each.bits)]
                for each in rows
            ]
            + [
                [
                    "jamais (témoins)",
                    str(len(found.controls)),
                    str(found.false_positives),
                    decimal(found.controls_bits),
                ]
            ],
        ),
        charts=_index_chart(
            [
                Line(
                    label="canaris",
                    series=0,
                    points=[(place, each.bits) for place, each in enumerate(rows)],
                ),
                Line(
                    label="jamais lus, en moyenne",
                    series=7,
                    points=[(0, EXPECTED), (len(rows) - 1, EXPECTED)],
                    style="dashed",
                ),
            ],
            [str(each.repetitions) for each in rows],
            y_label=one_decimal,
        ),
        axes=("fois planté", "exposition (bits)"),
        checks=[
            (
                f"exposition moyenne des {len(found.controls)} témoins : "
                f"{decimal(found.controls_bits)} bits ({decimal(EXPECTED)} attendus, de "
                f"{decimal(low)} à {decimal(high)} dans 95 % des cas) ; témoins retrouvés : "
                f"{found.false_positives}.",
                found.controls_good,
            )
        ],
    )


def _planted(page: PrivacyPage) -> str:
    """Ce que l'entraînement a lu de ce qui est planté : un canari jamais lu n'est pas retenu."""
    if page.planted is None:
        return (
            "Combien de leurs répétitions l'entraînement a lues n'est pas connu : ses données "
            "n'ont pas été relues."
        )
    read, total = page.planted
    return f"L'entraînement a lu {read} de leurs {total} répétitions."


def _extraction(page: PrivacyPage) -> Section:
    found = page.extraction
    about: dict[str, Any] = {
        "anchor": "extraction",
        "title": "L'extraction par préfixes",
        "command": "gpt-architecture dossier MODÈLE --data TEXTE",
        "shows": "La part d'extraits du texte d'entraînement que le modèle achève mot pour mot, au "
        "plus probable, quand on lui en donne les premiers tokens (Carlini et al., 2023). Un "
        "témoin est un extrait inédit dont la suite n'est nulle part dans l'entraînement.",
        "hides": "Ce qu'un autre décodage, une autre invite ou des essais répétés feraient sortir, "
        "ni ce qui est rendu à un mot près : la part est un minimum.",
    }
    if found is None:
        return Section(**about, verdict=missing(page, "extraction"))
    rows = found.rows
    last = rows[-1]
    low, high = last.interval
    lines = [
        Line(
            label="texte d'entraînement",
            series=0,
            points=[(place, each.share) for place, each in enumerate(rows)],
        )
    ]
    checks = []
    if last.controls:
        lines.append(
            Line(
                label="témoins",
                series=7,
                points=[(place, each.controls_share or 0.0) for place, each in enumerate(rows)],
                style="dashed",
            )
        )
        most = max(each.controls_extracted for each in rows)
        checks.append(
            (
                f"témoins achevés, au plus, après un même préfixe : {most} sur {last.controls} ; "
                f"écartés, leur suite étant aussi dans l'entraînement : {found.dropped}.",
                most <= max(1, last.controls // 100),
            )
        )
    return Section(
        **about,
        verdict=f"{percent(last.share)} des extraits ({percent(low)} à {percent(high)}) sont "
        f"achevés mot pour mot, sur {found.suffix} tokens, après un préfixe de {last.prefix}.",
        table=(
            "Extraits achevés mot pour mot",
            ("Préfixe", "Entraînement", "à 95 %", "Témoins"),
            [
                [
                    f"{each.prefix} tokens",
                    f"{each.extracted} sur {each.total} ({percent(each.share)})",
                    f"{percent(each.interval[0])} à {percent(each.interval[1])}",
                    f"{each.controls_extracted} sur {each.controls}" if each.controls else "—",
                ]
                for each in rows
            ],
        ),
        charts=_index_chart(
            lines,
            [str(each.prefix) for each in rows],
            y_label=whole_percent,
            y_values=[0.0, 0.25, 0.5, 0.75, 1.0],
        ),
        axes=("tokens de préfixe", "extraits achevés"),
        checks=checks,
    )


def _membership(page: PrivacyPage) -> Section:
    found = page.membership
    about: dict[str, Any] = {
        "anchor": "appartenance",
        "title": "L'inférence d'appartenance",
        "command": "gpt-architecture dossier MODÈLE --data TEXTE --shadow 8",
        "shows": "Si l'on peut dire, de ce que le modèle pense d'un extrait, qu'il a servi à "
        "l'entraîner : l'aire sous la courbe (0,5 : au hasard ; 1 : à coup sûr), et la part de "
        "membres reconnus en n'accusant à tort qu'un extrait inédit sur cent (aucun, s'il y en a "
        "moins de cent).",
        "hides": "Qu'une personne précise n'y est pas : une AUC proche de 0,5 dit que ces attaques "
        "échouent en moyenne, non qu'aucune ne réussirait. Le texte inédit est la fin du corpus : "
        "s'il diffère du reste, l'attaque aveugle le voit, et perte et Min-K % sont surestimées.",
    }
    if found is None:
        return Section(**about, verdict=missing(page, "membership"))
    best = found.best
    checks = [
        (
            f"{ATTACKS[each.name]} : membres entre eux {_interval(each.controls[0])}, inédits "
            f"entre eux {_interval(each.controls[1])} ; 0,5 est attendu.",
            each.good,
        )
        for each in found.attacks
    ]
    blind = found.attacks[-1]
    verdict = (
        f"L'attaque la plus forte, {ATTACKS[best.name].lower()}, a une AUC de "
        f"{_interval(best.area)} ; elle reconnaît {percent(best.reached)} des membres "
        f"{_at_the_cost_of(found.others)}."
    )
    if found.shifted:
        verdict += (
            " Les deux textes se distinguent sans le modèle (attaque aveugle : "
            f"{_interval(blind.area)}) : perte et Min-K % mêlent donc le style à la mémoire."
        )
        if not found.shadow:
            verdict += " Des modèles de référence les sépareraient."
    return Section(
        **about,
        verdict=verdict,
        table=(
            f"{found.members} membres, {found.others} extraits inédits, de {found.length} tokens"
            + (f" ; {found.shadow} modèles de référence" if found.shadow else "")
            + f" ; membres reconnus {_at_the_cost_of(found.others)}",
            (
                "Attaque",
                "AUC",
                "à 95 %",
                "Reconnus",
                "à 95 %",
                "Contrôles",
            ),
            [_attack_row(each) for each in found.attacks],
        ),
        checks=checks,
    )


def _at_the_cost_of(others: int) -> str:
    """À quelle part d'inédits accusés à tort ; moins de cent inédits n'ont pas de 1 %."""
    if others * FALSE_POSITIVES < 1:
        return f"sans accuser aucun des {others} inédits"
    return f"à {percent(FALSE_POSITIVES, 0)} d'erreur"


def _attack_row(attack: Attack) -> list[str]:
    low, high = attack.area.interval
    below, above = attack.reached_interval
    return [
        ATTACKS[attack.name],
        decimal(attack.area.value, 3),
        f"{decimal(low, 3)} à {decimal(high, 3)}",
        percent(attack.reached),
        f"{percent(below)} à {percent(above)}",
        "bons" if attack.good else "mauvais",
    ]


def _interval(found: Area) -> str:
    low, high = found.interval
    return f"{decimal(found.value)} ({decimal(low)} à {decimal(high)})"


def _index_chart(
    lines: Sequence[Line],
    labels: Sequence[str],
    *,
    y_label: Callable[[float], str],
    y_values: Sequence[float] | None = None,
) -> list[Chart]:
    """Des courbes dont les abscisses sont des rangs, grand écran puis téléphone."""
    return [
        line_chart(
            lines,
            width=width,
            height=height,
            x_label=lambda x: labels[int(x)],
            y_label=y_label,
            x_values=range(len(labels)) if len(labels) > 1 else (0, 1e-9),
            y_values=y_values,
        )
        for width, height in _SIZES
    ]
